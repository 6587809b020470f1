"""What an engine and a device must provide, and the wrappers that time or stage their calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..graphs.spec import GraphSpec

Work = Callable[[], None]


def ordinal_of(device: str) -> int:
    """Which GPU a device's name means: 0 for "cuda", 1 for "cuda:1".

    Raises:
        UsageError: It is no name of a GPU.
    """
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise UsageError(f"unknown device {device!r:.40}", remedy="use cpu, cuda or cuda:1")
    return int(number or 0)


def kind_of(device: str) -> str:
    """ "cpu" or "cuda", of a device's name.

    Raises:
        UsageError: It is no name of a device.
    """
    if device == "cpu":
        return device
    ordinal_of(device)
    return "cuda"


class Event(Protocol):
    """A point in a stream. Recording it again moves it; who waits, waits for the last record."""

    def synchronize(self) -> None:
        """Block the caller until the point is reached; at once if it was never recorded."""
        ...


class Mark(Protocol):
    """When a stream got to a point, once it has."""

    def ms_after(self, earlier: Any) -> float:
        """Milliseconds since an earlier mark of the same device; the host has waited for both."""
        ...


class Stream(Protocol):
    """Work in order."""

    @property
    def handle(self) -> int:
        """The CUDA stream as an integer; 0 on the CPU."""
        ...

    def call(self, work: Work) -> None:
        """Run a host function in its turn (on the CPU, where engines are host functions)."""
        ...

    def record(self, event: Event) -> None:
        """Set the event when all that was put here before is done."""
        ...

    def wait(self, event: Event) -> None:
        """Let what comes after wait for the event's last record before this call."""
        ...

    def check(self) -> None:
        """Raise what a work raised, if one has; what came after it was passed over."""
        ...

    def close(self) -> None:
        """Let all be done, then give the stream back."""
        ...


class Launch(Protocol):
    """Work that was captured."""

    def launch(self, stream: Stream) -> None:
        """Put all of it on a stream, in order with what else is there."""
        ...


class Device(Protocol):
    """Where engines run and their buffers lie."""

    @property
    def name(self) -> str:
        """`cpu`, or `cuda`."""
        ...

    def stream(self, name: str, *, urgent: bool = False) -> Stream:
        """A new stream; the name is what profilers show.

        Args:
            urgent: Its work goes before that of streams that are not, where both are ready.
        """
        ...

    def event(self) -> Event:
        """A new event, not recorded."""
        ...

    def capture(self, streams: Sequence[Stream], work: Work) -> Launch:
        """Make what `work` puts on the streams one launch, in the order that its events say.

        Nothing of it runs now. Launched, all of it comes after what was on the launch's stream
        before, and before what comes later; it waits for nothing else on the other streams.

        Args:
            streams: All that it uses; the one where it begins first.

        Raises:
            Exception: Something in it cannot be captured; the streams are as before.
        """
        ...

    def mark(self, stream: Stream) -> Mark:
        """Note the time when the stream gets here. Not in a capture."""
        ...

    def range(self, name: str, stream: Stream | None = None) -> AbstractContextManager[object]:
        """What is put on streams inside it shows under this name in a profiler.

        Args:
            stream: The one that it is put on, where it is a single one.
        """
        ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new buffer in the device's memory, zeroed for whatever stream comes to it."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """Host memory, zeroed, from and to which copies run beside the device's work."""
        ...

    def copy(self, target: Any, source: Any, stream: Stream | None = None) -> None:
        """Copy a buffer to another of its shape and dtype, in order on `stream`; None waits."""
        ...

    def zero(self, target: Any, stream: Stream) -> None:
        """Fill a buffer with zeros, in order on `stream`."""
        ...


HostArray: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """A dense tensor in a device's memory.

    Attributes:
        address: Where it begins, as the device's pointer.
        owner: Keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = field(repr=False)


Buffer: TypeAlias = HostArray | DeviceArray


class Bound(Protocol):
    """An engine with its buffers, ready to be run as often as wanted.

    The buffers stay the caller's: what they hold when the stream gets there is what is read.
    """

    def why_not_captured(self, stream: Stream) -> str:
        """Why a run on `stream` cannot be made part of a launch, or an empty string."""
        ...

    def enqueue(self, stream: Stream | None = None) -> None:
        """Run once, in order on `stream`, without waiting for it; None runs and waits.

        Raises:
            StreamDiffVSRError: The backend refused the launch, with what it said.
        """
        ...


@dataclass(frozen=True, slots=True)
class HostBound:
    """An engine that the host runs: at once, or when its turn on a stream comes.

    Attributes:
        run: Runs it to its end; keeps its buffers alive.
    """

    run: Callable[[], None]

    def why_not_captured(self, stream: Stream) -> str:
        """See `Bound`."""
        return ""

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `Bound`."""
        if stream is None:
            self.run()
        else:
            stream.call(self.run)


class Engine(Protocol):
    """One graph, made ready to run by a backend."""

    def describe(self) -> GraphSpec:
        """Names, shapes and dtypes of the inputs and outputs."""
        ...

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """The engine on these buffers, one for every tensor by name. Several may coexist.

        Raises:
            ValueError: A tensor is missing or unknown, or a buffer has another shape or dtype than
                its tensor, or is not dense.
        """
        ...


def check_buffers(spec: GraphSpec, buffers: Mapping[str, Buffer]) -> None:
    """Raise ValueError unless there is a fitting buffer for every tensor, and no other."""
    tensors = {t.name: t for t in (*spec.inputs, *spec.outputs)}
    for name, buffer in buffers.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ValueError(f"{spec.name} has no tensor {name!r}, only {', '.join(tensors)}")
        if buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            raise ValueError(
                f"{spec.name}.{name} takes {tensor.dtype} {tensor.shape}, "
                f"got {buffer.dtype} {buffer.shape}"
            )
        if isinstance(buffer, np.ndarray) and not buffer.flags.c_contiguous:
            raise ValueError(f"{spec.name}.{name} needs a dense buffer, got strides")
    if missing := tensors.keys() - buffers.keys():
        raise ValueError(f"{spec.name} has no buffer for {', '.join(sorted(missing))}")


class Listener(Protocol):
    """Who is told of every call."""

    def add(self, name: str, started: float, ended: float) -> None:
        """A graph was run, in seconds of `time.perf_counter`."""
        ...


class StageTimes:
    """Milliseconds by graph since they were last taken."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    def add(self, name: str, started: float, ended: float) -> None:
        """Count what one call has taken."""
        self._ms[name] = self._ms.get(name, 0.0) + 1000 * (ended - started)

    def take(self) -> dict[str, float]:
        """What was counted; the count begins anew."""
        taken, self._ms = self._ms, {}
        return taken


def timed(engines: Mapping[str, Engine], times: Listener) -> dict[str, Engine]:
    """The same engines, which tell `times` what their calls take."""
    return {name: _TimedEngine(engine, times) for name, engine in engines.items()}


@dataclass(frozen=True, slots=True)
class _TimedEngine:
    engine: Engine
    times: Listener

    def describe(self) -> GraphSpec:
        """See `Engine`."""
        return self.engine.describe()

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """See `Engine`."""
        name = self.engine.describe().name
        return _TimedBound(self.engine.bind(buffers), name, self.times)


@dataclass(frozen=True, slots=True)
class _TimedBound:
    bound: Bound
    name: str
    times: Listener

    def why_not_captured(self, stream: Stream) -> str:
        """See `Bound`."""
        return self.bound.why_not_captured(stream)

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `Bound`."""
        started = time.perf_counter()
        self.bound.enqueue(stream)
        self.times.add(self.name, started, time.perf_counter())


class StagedEngine:
    """An engine with device buffers of its own between it and the caller's host arrays."""

    def __init__(self, device: Device, engine: Engine) -> None:
        self._device, self._spec = device, engine.describe()
        tensors = (*self._spec.inputs, *self._spec.outputs)
        self._buffers = {t.name: device.empty(t.shape, t.dtype) for t in tensors}
        self._bound = engine.bind(self._buffers)

    def describe(self) -> GraphSpec:
        """Names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """The engine on these host arrays."""
        check_buffers(self._spec, buffers)
        arrays = {k: v for k, v in buffers.items() if isinstance(v, np.ndarray)}
        return HostBound(partial(self._run, arrays))

    def _run(self, arrays: Mapping[str, HostArray]) -> None:
        """Copy there, run, copy back; all of it is done when this returns."""
        for tensor in self._spec.inputs:
            self._device.copy(self._buffers[tensor.name], arrays[tensor.name])
        self._bound.enqueue()
        for tensor in self._spec.outputs:
            self._device.copy(arrays[tensor.name], self._buffers[tensor.name])
