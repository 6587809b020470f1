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

from streamdiffvsr.engines.device import CpuDevice
from streamdiffvsr.engines.manifest import Manifest
from streamdiffvsr.engines.protocol import Bound, Buffer, check_buffers
from streamdiffvsr.graph_set import GraphSet
from streamdiffvsr.runtime.upscaler import Upscaler
from streamdiffvsr.spec import Geometry, GraphSpec, ModelDims

SIZE = (32, 32)
DIMS = ModelDims(latent=4, hint=3, fmap=2, context=2, temporal=((2, 1), (2, 4)))


class SimulatedDevice(CpuDevice):
    """Its streams' works run when the host waits, in an order drawn from `seed`.

    Args:
        without: (stream's name, which of its waits in the order of a guided frame) left out.
    """

    name = "simulated"

    def __init__(self, seed: int, without: tuple[str, int] | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.without = without
        self.streams: list[Any] = []
        self.calls: list[str] = []  # of `empty`, `pinned` and host waits, in order

    def stream(self, name: str) -> Any:
        self.streams.append(SimulatedStream(self, name))
        self.eagerness = self.rng.dirichlet(np.full(len(self.streams), 0.3))  # some are slow
        return self.streams[-1]

    def event(self) -> Any:
        return SimulatedEvent(self)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        self.calls.append("empty")
        return super().empty(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Any:
        self.calls.append("pinned")
        return super().pinned(shape, dtype)

    def run_until(self, reached: list[bool]) -> None:
        while not reached[0]:
            ready = [i for i, stream in enumerate(self.streams) if stream.can_run()]
            assert ready, "every stream waits for another"
            chances = self.eagerness[ready] + 1e-3
            chosen = self.rng.choice(ready, p=chances / chances.sum())
            self.streams[chosen].works.popleft()[1]()


class SimulatedEvent:
    def __init__(self, device: SimulatedDevice) -> None:
        self.device, self.reached = device, [True]

    def synchronize(self) -> None:
        self.device.calls.append("wait")
        self.device.run_until(self.reached)


class SimulatedStream:
    handle = 0

    def __init__(self, device: SimulatedDevice, name: str) -> None:
        self.device, self.name = device, name
        self.works: deque[tuple[list[bool], Callable[[], object]]] = deque()
        self.waits = 0

    def can_run(self) -> bool:
        return bool(self.works) and self.works[0][0][0]

    def call(self, work: Callable[[], object]) -> None:
        self.works.append(([True], work))

    def record(self, event: SimulatedEvent) -> None:
        event.reached = reached = [False]
        self.call(lambda: reached.__setitem__(0, True))

    def wait(self, event: SimulatedEvent) -> None:
        per_frame = 2
        if self.device.without != (self.name, self.waits % per_frame):
            self.works.append((event.reached, lambda: None))
        self.waits += 1

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


def mixing_upscaler(device: CpuDevice) -> Upscaler:
    """An Upscaler of such engines, at 32x32."""
    graphs = GraphSet(Geometry(SIZE), "fp32", DIMS, 4, "all-pairs", "0" * 64, {})
    manifest = cast(Manifest, SimpleNamespace(graphs=graphs))  # all that it reads of one
    return Upscaler(manifest, {n: MixingEngine(s) for n, s in graphs.specs().items()}, device)
