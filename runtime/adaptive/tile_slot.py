"""Runs batches of tiles: on the host, or with their buffers on a GPU as one launch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...engines.interface import Bound, Buffer, Device, Engine, Stream
from ...graphs.arrays import Array
from ..frame_slot import CapturedWork, bind_refinement, step_numbers
from ..stages import Stages

TILE_GRAPHS = ("guide", "temporal", "denoise", "decode")


@dataclass(frozen=True, slots=True, eq=False)
class TileArrays:
    """Host memory of a batch of n tiles, in the engines' precision and the model's range.

    Attributes:
        lr: (n, 3, t, t).
        noise: (n, C, t, t).
        previous: The carried canvas, (n, 3, 4t, 4t).
        flow: (n, 2, 4t, 4t) float32, in HR pixels, x first.
        raw: The results, (n, 3, 4t, 4t).
    """

    lr: Array
    noise: Array
    previous: Array
    flow: Array
    raw: Array

    @classmethod
    def allocate(
        cls, engines: Mapping[str, Engine], empty: Callable[[tuple[int, ...], str], Array]
    ) -> TileArrays:
        """Returns arrays of the shapes that engines take, each made by `empty(shape, dtype)`."""

        def like(graph: str, name: str) -> Array:
            spec = engines[graph].describe()
            tensor = next(t for t in (*spec.inputs, *spec.outputs) if t.name == name)
            return empty(tensor.shape, tensor.dtype)

        return cls(
            lr=like("denoise", "lr"),
            noise=like("denoise", "latent"),
            previous=like("guide", "previous_hr"),
            flow=like("guide", "flow"),
            raw=like("decode", "hr"),
        )


class TileRunner(Protocol):
    """Refines the tiles in its arrays."""

    @property
    def arrays(self) -> TileArrays:
        """The arrays that are filled before a run, and that have its results after it."""
        ...

    def run(self) -> None:
        """Refines all tiles, and waits for them."""
        ...

    def close(self) -> None:
        """Waits for what is under way, and frees what the runner has."""
        ...


class HostTiles:
    """Tiles that the host runs graph by graph."""

    def __init__(self, engines: Mapping[str, Engine], steps: int) -> None:
        self.arrays = TileArrays.allocate(engines, np.zeros)
        self._stages = Stages(engines, steps)

    def run(self) -> None:
        """See `TileRunner`."""
        given = self.arrays
        guidance = self._stages.guide_along(given.flow, given.previous)
        np.copyto(given.raw, self._stages.whole_frame(given.noise, given.lr, guidance)[0])

    def close(self) -> None:
        """See `TileRunner`."""


class TileSlot:
    """The buffers of a batch of tiles on a device, and its work, captured as one launch.

    Attributes:
        arrays: Page-locked host memory.
    """

    def __init__(self, device: Device, engines: Mapping[str, Engine], steps: int) -> None:
        self.arrays = TileArrays.allocate(engines, device.pinned)
        self._streams = (device.stream("tiles"), device.stream("tiles' temporal features"))
        # The work does not refer to the slot: a slot that is dropped is freed at once.
        work = _Batch(device, engines, steps, self.arrays, *self._streams)
        self._launch = CapturedWork(device, "tiles", self._streams, work.enqueue, work.why_not)
        self._refined = device.event()

    @property
    def obstacle(self) -> str:
        """Returns why a batch is not one launch, or an empty string."""
        return self._launch.obstacle

    def run(self) -> None:
        """See `TileRunner`."""
        self._launch.run()
        self._streams[0].record(self._refined)  # outside the capture: the host waits for it
        self._refined.synchronize()
        for stream in self._streams:
            stream.check()

    def close(self) -> None:
        """See `TileRunner`."""
        for stream in self._streams:
            with contextlib.suppress(Exception):  # its device may have failed before
                stream.close()


class _Batch:
    """The work of a slot: one batch on the way to the device, through the engines, and back."""

    def __init__(
        self,
        device: Device,
        engines: Mapping[str, Engine],
        steps: int,
        arrays: TileArrays,
        stream: Stream,
        temporal: Stream,
    ) -> None:
        self._device, self._arrays = device, arrays
        self._stream, self._temporal = stream, temporal
        self._guided, self._extracted = device.event(), device.event()
        self._buffers = b = _device_buffers(device, engines)
        guide = engines["guide"].describe()
        tensors = (*guide.inputs, *guide.outputs)
        self._guide = engines["guide"].bind({t.name: b[t.name] for t in tensors})
        self._refinement = bind_refinement(engines, b, step_numbers(device, steps))

    def enqueue(self) -> None:
        """Puts all of it on the streams; the temporal features are computed while the steps run."""
        arrays, refinement, copy = self._arrays, self._refinement, self._device.copy
        stream, temporal = self._stream, self._temporal
        copy(self._buffers["previous_hr"], arrays.previous, stream)
        copy(self._buffers["flow"], arrays.flow, stream)
        copy(self._buffers["latent"], arrays.noise, stream)
        copy(self._buffers["lr"], arrays.lr, stream)
        self._guide.enqueue(stream)
        stream.record(self._guided)
        temporal.wait(self._guided)
        refinement.temporal.enqueue(temporal)
        temporal.record(self._extracted)
        for step in refinement.denoise:
            step.enqueue(stream)
        stream.wait(self._extracted)
        refinement.decode.enqueue(stream)
        copy(arrays.raw, self._buffers["hr"], stream)

    def why_not(self) -> str:
        """Returns why an engine must not be part of a launch, or an empty string."""
        chain: list[tuple[Bound, Stream]] = [(self._guide, self._stream)]
        chain += [(self._refinement.temporal, self._temporal)]
        chain += [(bound, self._stream) for bound in self._refinement.denoise]
        chain += [(self._refinement.decode, self._stream)]
        return next((why for bound, on in chain if (why := bound.why_not_captured(on))), "")


def _device_buffers(device: Device, engines: Mapping[str, Engine]) -> dict[str, Buffer]:
    """Returns buffers for all tensors of the graphs but the steps, with full guidance set."""
    buffers: dict[str, Buffer] = {}
    for graph in TILE_GRAPHS:
        spec = engines[graph].describe()
        for tensor in (*spec.inputs, *spec.outputs):
            if tensor.name not in buffers and tensor.name not in ("step", "frame"):
                buffers[tensor.name] = device.empty(tensor.shape, tensor.dtype)
    frame = engines["decode"].describe().outputs[1]
    buffers["out"] = device.empty(frame.shape, frame.dtype)
    gate = buffers["gate"]
    device.copy(gate, np.ones(gate.shape, gate.dtype))
    buffers["switch"] = gate  # no batch is without guidance
    return buffers
