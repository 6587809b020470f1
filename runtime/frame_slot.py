"""The GPU buffers of one frame in flight, and its work captured as CUDA graphs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engines.interface import Bound, Buffer, Device, Engine, Launch, Stream, Work

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Host memory through which a raw output (1, 3, 4h, 4w) is copied, and its lock."""

    host: Array
    lock: Lock


@dataclass(frozen=True, slots=True)
class Refinement:
    """The engines from the warped frame to the output, bound to buffers."""

    temporal: Bound
    denoise: tuple[Bound, ...]  # one for each step
    decode: Bound


def step_numbers(device: Device, count: int) -> list[Buffer]:
    """Returns the numbers of the denoising steps on the device, which all slots share."""
    numbers: list[Buffer] = [device.empty((1,), "int32") for _ in range(count)]
    for number, buffer in enumerate(numbers):
        device.copy(buffer, np.array([number], np.int32))
    return numbers


def bind_refinement(
    engines: Mapping[str, Engine], buffers: Mapping[str, Buffer], steps: Sequence[Buffer]
) -> Refinement:
    """Binds the engines that make a frame of noise, LR and the guidance.

    Args:
        buffers: By the names of the tensors; `switch` is the gate of `decode`, `out` its frame, and
            `latent` and `denoised` take turns.
        steps: The step numbers.
    """
    temporal = _of(buffers, *(t.name for t in engines["temporal"].describe().outputs))
    there, back = buffers["latent"], buffers["denoised"]
    denoise = []
    for step in steps:
        pair = {"latent": there, "denoised": back, "step": step}
        denoise.append(engines["denoise"].bind(_of(buffers, "lr", "hint", "gate") | pair))
        there, back = back, there
    around = {"latent": there, "gate": buffers["switch"]}
    around |= {"hr": buffers["hr"], "frame": buffers["out"]}
    if any(tensor.name == "lr" for tensor in engines["decode"].describe().inputs):
        around["lr"] = buffers["lr"]  # for its colours
    return Refinement(
        temporal=engines["temporal"].bind(_of(buffers, "warped") | temporal),
        denoise=tuple(denoise),
        decode=engines["decode"].bind(temporal | around),
    )


class Slot:
    """The buffers of one whole frame, without tiles.

    Attributes:
        frame: Host memory (h, w, 3) uint8 RGB, copied to the device by `upload`.
        noise: Host memory (1, C, h', w') in the engines' precision, the initial latent.
        out: Host memory (4h, 4w, 3) uint8 RGB, filled by `download`.
    """

    def __init__(
        self, device: Device, engines: Mapping[str, Engine], transfer: Transfer | None = None
    ) -> None:
        """Allocates the buffers.

        Args:
            transfer: The one of another slot in the same ring; None makes one.
        """
        self._device, self._engines = device, engines
        self._specs = {name: engine.describe() for name, engine in engines.items()}
        self._buffers: dict[str, Buffer] = {}
        for graph in ("prepare", "features", "flow", "guide", "temporal"):
            self._allocate(graph)
        self._buffers["latent"] = self._empty("denoise", "latent")
        self._buffers["denoised"] = self._empty("denoise", "denoised")
        self._buffers["gate"] = self._empty("denoise", "gate")
        self._buffers["switch"] = self._empty("decode", "gate")
        self._buffers["hr"] = self._empty("decode", "hr")
        self._buffers["out"] = self._empty("decode", "frame")
        self._frame, self._out = self._pinned("frame"), self._pinned("out")
        self.frame: npt.NDArray[np.uint8] = self._frame[0]
        self.out: npt.NDArray[np.uint8] = self._out[0]
        self.noise = self._pinned("latent")
        self._strength, self._on = self._pinned("gate"), self._pinned("switch")
        self.transfer = transfer or Transfer(self._pinned("hr"), Lock())

    def link(self, previous: Slot, steps: Sequence[Buffer]) -> None:
        """Binds the engines to these buffers, the previous frame's slot, and the step numbers."""
        b, before = self._buffers, previous._buffers
        bind = {name: engine.bind for name, engine in self._engines.items()}
        self._prepare = bind["prepare"](_of(b, "frame", "lr", "up"))
        self._features = bind["features"](_of(b, "up", "fmap", "context"))
        self._flow = bind["flow"](
            _of(b, "fmap", "context", "flow") | {"previous_fmap": before["fmap"]}
        )
        self._guide = bind["guide"](
            _of(b, "flow", "warped", "hint") | {"previous_hr": before["hr"]}
        )
        self._refinement = bind_refinement(self._engines, b, steps)

    def guided_by(self, strength: float) -> None:
        """Writes the guidance strength into host memory; 0 for a frame without a previous one.

        It is not part of `upload`, which is captured: a launch repeats only the copy.
        """
        self._strength[:] = strength
        self._on[:] = strength != 0  # the decoder's temporal processors are on or off

    # The stages, in the order of a frame.

    def upload(self, stream: Stream) -> None:
        """Copies the frame, the noise and the guidance strength to the device."""
        pairs = (
            ("frame", self._frame),
            ("latent", self.noise),
            ("gate", self._strength),
            ("switch", self._on),
        )
        with self._device.range("upload", stream):
            for name, host in pairs:
                self._device.copy(self._buffers[name], host, stream)

    def extract_features(self, stream: Stream) -> None:
        """Computes LR, the bicubic frame, and RAFT's features and context."""
        self._enqueue("prepare", self._prepare, stream)
        self._enqueue("features", self._features, stream)

    def find_flow(self, stream: Stream) -> None:
        """Computes the flow to the previous frame."""
        self._enqueue("flow", self._flow, stream)

    def blank(self, stream: Stream) -> None:
        """Zeroes the buffers of the guidance, which an earlier frame may have filled."""
        for name in ("warped", "hint", *(t.name for t in self._specs["temporal"].outputs)):
            self._device.zero(self._buffers[name], stream)

    def guide(self, stream: Stream) -> None:
        """Warps the previous output, and computes its hint."""
        self._enqueue("guide", self._guide, stream)

    def extract_temporal(self, stream: Stream) -> None:
        """Computes the decoder's features of the warped frame."""
        self._enqueue("temporal", self._refinement.temporal, stream)

    def denoise(self, stream: Stream) -> None:
        """Runs all denoising steps."""
        for number, bound in enumerate(self._refinement.denoise, 1):
            self._enqueue(f"denoise {number}", bound, stream)

    def decode(self, stream: Stream) -> None:
        """Computes the raw output, which the next frame needs, and the frame."""
        self._enqueue("decode", self._refinement.decode, stream)

    def download(self, stream: Stream) -> None:
        """Copies the frame to host memory."""
        with self._device.range("download", stream):
            self._device.copy(self._out, self._buffers["out"], stream)

    # The contents of a state; the caller has waited for the frame.

    def read_hr(self) -> Array:
        """Returns a copy of the raw output, (1, 3, 4h, 4w)."""
        with self.transfer.lock:
            self._device.copy(self.transfer.host, self._buffers["hr"])
            return self.transfer.host.copy()  # page-locked memory is not to be kept

    def write_hr(self, hr: Array) -> None:
        """Writes a raw output into the slot, as if the slot had made it."""
        with self.transfer.lock:
            np.copyto(self.transfer.host, hr)
            self._device.copy(self._buffers["hr"], self.transfer.host)

    def why_not_captured(self, graph: str, stream: Stream) -> str:
        """Returns why an engine must not be part of a launch, or an empty string."""
        return next((why for b in self._bound(graph) if (why := b.why_not_captured(stream))), "")

    def _bound(self, graph: str) -> tuple[Bound, ...]:
        return {
            "prepare": (self._prepare,),
            "features": (self._features,),
            "flow": (self._flow,),
            "guide": (self._guide,),
            "temporal": (self._refinement.temporal,),
            "denoise": self._refinement.denoise,
            "decode": (self._refinement.decode,),
        }[graph]

    def _enqueue(self, stage: str, bound: Bound, stream: Stream) -> None:
        with self._device.range(stage, stream):
            bound.enqueue(stream)

    def _allocate(self, graph: str) -> None:
        spec = self._specs[graph]
        for tensor in (*spec.inputs, *spec.outputs):
            if tensor.name not in self._buffers and not tensor.name.startswith("previous"):
                self._buffers[tensor.name] = self._device.empty(tensor.shape, tensor.dtype)

    def _empty(self, graph: str, name: str) -> Buffer:
        spec = self._specs[graph]
        tensor = next(t for t in (*spec.inputs, *spec.outputs) if t.name == name)
        buffer: Buffer = self._device.empty(tensor.shape, tensor.dtype)
        return buffer

    def _pinned(self, name: str) -> Array:
        buffer = self._buffers[name]
        return self._device.pinned(buffer.shape, buffer.dtype.name)


def _of(buffers: Mapping[str, Buffer], *names: str) -> dict[str, Buffer]:
    return {name: buffers[name] for name in names}


# An engine may allocate and compile on its first run with its buffers; that cannot be captured.
PLAIN_RUNS = 1
# A capture breaks when another thread waits for the whole device, which other libraries may do.
TRIES = 3
# Set to 0 where a driver or a library cannot capture.
CAPTURE = "STREAMDIFFVSR_CAPTURE"


class CapturedWork:
    """Work of one slot that is the same every time, captured if possible.

    Args:
        name: The name that profilers show.
        streams: The streams that the work uses; it begins on the first. When captured, its parts
            on the other streams do not wait for what was put on those before.
        work: Puts the work on the streams.
        why_not: Returns why an engine in it must not be captured, or an empty string.

    Attributes:
        obstacle: Why the work is not captured, or an empty string.
    """

    def __init__(
        self,
        device: Device,
        name: str,
        streams: Sequence[Stream],
        work: Work,
        why_not: Callable[[], str] = lambda: "",
    ) -> None:
        self._device, self._name, self._streams, self._work = device, name, streams, work
        self._why_not = why_not
        self._plain_runs = 0
        self._tries = TRIES
        self._launch: Launch | None = None
        self.obstacle = "it has not run often enough"

    def run(self) -> None:
        """Puts the work on the streams."""
        with self._device.range(self._name):
            if self._launch is None and self._plain_runs >= PLAIN_RUNS and self._tries:
                self._capture()
            if self._launch is not None:
                self._launch.launch(self._streams[0])
                return
            self._plain_runs += 1
            self._work()

    def _capture(self) -> None:
        """Tries to capture the work; without a capture it is right too, only slower to enqueue."""
        off = os.environ.get(CAPTURE) == "0"
        self.obstacle = f"{CAPTURE} is 0" if off else self._why_not()
        if self.obstacle:
            self._tries = 0
            return
        self._tries -= 1
        try:
            self._launch = self._device.capture(self._streams, self._work)
        except Exception as error:  # an engine's or the driver's own kinds
            self.obstacle = " ".join(str(error).split())
