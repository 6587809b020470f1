"""A device whose streams run in any order that their events allow, chosen by a seed.

Nothing runs until the host waits; then works are taken one by one from streams that are not
waiting. A schedule that is right gives the same frames for every seed; one that lacks an event
does not. No threads and no time: what fails once fails always.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from streamdiffvsr.engines.cpu_device import CpuDevice
from streamdiffvsr.engines.interface import Bound, Buffer, check_buffers
from streamdiffvsr.engines.manifest import Manifest
from streamdiffvsr.graphs.spec import Geometry, GraphSet, GraphSpec, ModelDims
from streamdiffvsr.runtime.upscaler import Upscaler

SIZE = (32, 32)
DIMS = ModelDims(latent=4, hint=3, fmap=2, context=2, temporal=((2, 1), (2, 4)), match_colour=True)


EVENTS = ("flowed", "guided", "denoised", "decoded", "downloaded")  # as a schedule makes them


class SimulatedDevice(CpuDevice):
    """Its streams' works run when the host waits, in an order drawn from `seed`.

    Args:
        without: (stream's name, name of the event) whose waits are left out.
        captures: Whether work can be captured.
    """

    name = "simulated"

    def __init__(
        self, seed: int, without: tuple[str, str] | None = None, *, captures: bool = True
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.without, self.captures = without, captures
        self.streams: list[Any] = []
        self.events = 0
        self.calls: list[str] = []  # of `empty`, `pinned`, host waits and launches, in order

    def stream(self, name: str, *, urgent: bool = False) -> Any:
        self.streams.append(SimulatedStream(self, name))
        self.eagerness = self.rng.dirichlet(np.full(len(self.streams), 0.3))  # some are slow
        return self.streams[-1]

    def event(self) -> Any:
        self.events += 1
        return SimulatedEvent(self, EVENTS[(self.events - 1) % len(EVENTS)])

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        self.calls.append("empty")
        return super().empty(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Any:
        self.calls.append("pinned")
        return super().pinned(shape, dtype)

    def capture(self, streams: Any, work: Callable[[], None]) -> Any:
        if not self.captures:
            raise RuntimeError("this device captures nothing")
        twins = [SimulatedStream(self, stream.name) for stream in streams]
        for stream, twin in zip(streams, twins, strict=True):
            stream.captured = twin
        work()
        for stream in streams:
            stream.captured = None
        return SimulatedLaunch(self, [list(twin.works) for twin in twins])

    def run_until(self, reached: list[bool]) -> None:
        while not reached[0]:
            assert self.run_one(self.streams), "every stream waits for another"

    def run_one(self, streams: list[Any]) -> bool:
        """Run the next work of one of the streams that can go on, if any can."""
        ready = [i for i, stream in enumerate(streams) if stream.can_run()]
        if not ready:
            return False
        chances = self.eagerness[ready] + 1e-3
        chosen = self.rng.choice(ready, p=chances / chances.sum())
        streams[chosen].works.popleft()[1]()
        return True


class SimulatedEvent:
    def __init__(self, device: SimulatedDevice, name: str) -> None:
        self.device, self.name, self.reached = device, name, [True]

    def synchronize(self) -> None:
        self.device.calls.append("wait")
        self.device.run_until(self.reached)


@dataclass(frozen=True)
class SimulatedLaunch:
    """Captured works of each stream, which run in any order that the events among them allow."""

    device: SimulatedDevice
    works: list[list[tuple[list[bool], Callable[[], object]]]]

    def launch(self, stream: SimulatedStream) -> None:
        self.device.calls.append("launch")
        stream.call(self._run)

    def _run(self) -> None:
        streams = [SimulatedStream(self.device, "") for _ in self.works]
        for stream, works in zip(streams, self.works, strict=True):
            stream.works.extend(works)
        for reached in {
            id(reached): reached for works in self.works for reached, _ in works
        }.values():
            reached[0] = reached is ALWAYS
        while self.device.run_one(streams):
            pass
        assert not any(stream.works for stream in streams), "captured works wait for each other"


ALWAYS = [True]


class SimulatedStream:
    handle = 0

    def __init__(self, device: SimulatedDevice, name: str) -> None:
        self.device, self.name = device, name
        self.works: deque[tuple[list[bool], Callable[[], object]]] = deque()
        self.captured: SimulatedStream | None = None

    def can_run(self) -> bool:
        return bool(self.works) and self.works[0][0][0]

    def call(self, work: Callable[[], object]) -> None:
        (self.captured or self).works.append((ALWAYS, work))

    def record(self, event: SimulatedEvent) -> None:
        event.reached = reached = [False]
        self.call(lambda: reached.__setitem__(0, True))

    def wait(self, event: SimulatedEvent) -> None:
        if self.device.without != (self.name, event.name):
            (self.captured or self).works.append((event.reached, lambda: None))

    def check(self) -> None:
        pass

    def close(self) -> None:
        done = [False]
        self.call(lambda: done.__setitem__(0, True))
        self.device.run_until(done)


@dataclass(frozen=True)
class MixingEngine:
    """Not a network: every output depends on every value of every input, and on nothing else."""

    spec: GraphSpec

    def describe(self) -> GraphSpec:
        return self.spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        check_buffers(self.spec, buffers)
        return BoundMixing(
            self.spec, {k: v for k, v in buffers.items() if isinstance(v, np.ndarray)}
        )


@dataclass(frozen=True)
class BoundMixing:
    spec: GraphSpec
    buffers: Mapping[str, np.ndarray[Any, Any]]

    def why_not_captured(self, stream: Any) -> str:
        return ""

    def enqueue(self, stream: Any = None) -> None:
        if stream is None:
            self.run()
        else:
            stream.call(self.run)

    def run(self) -> None:
        gate = self.buffers["gate"][0] if "gate" in self.buffers else 1.0
        total = 0.0
        for place, tensor in enumerate(self.spec.inputs, start=1):
            values = self.buffers[tensor.name].astype(np.float64).ravel()
            guidance = tensor.name in ("hint", "warped") or tensor.name.startswith("temporal")
            # Not a product of BLAS, whose threads spin.
            total += (gate if guidance else 1.0) * place * (values * _wave(len(values))).sum()
        for place, tensor in enumerate(self.spec.outputs, start=1):
            out = self.buffers[tensor.name]
            wave = np.sin(total + place) * _wave(out.size).reshape(out.shape)
            np.copyto(out, 127 * (1 + wave) if out.dtype == np.uint8 else wave, casting="unsafe")


@cache
def _wave(size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.cos(np.arange(size))


WHOLE = Geometry(SIZE)


def mixing_upscaler(device: CpuDevice, geometry: Geometry = WHOLE) -> Upscaler:
    """An Upscaler of such engines."""
    graphs = GraphSet(geometry, "fp32", DIMS, 4, "all-pairs", "0" * 64, {})
    manifest = cast(Manifest, SimpleNamespace(graphs=graphs))  # all that it reads of one
    return Upscaler(manifest, {n: MixingEngine(s) for n, s in graphs.specs().items()}, device)


def some_frames(count: int, size: tuple[int, int] = SIZE) -> list[npt.NDArray[np.uint8]]:
    """Frames of noise, the same every time."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
