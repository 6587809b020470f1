"""The protocols of engines and devices, and the wrappers that time or stage their calls."""

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
    """Returns the number of the GPU that a device's name means: 0 for "cuda", 1 for "cuda:1".

    Raises:
        UsageError: It is not the name of a GPU.
    """
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise UsageError(f"unknown device {device!r:.40}", remedy="use cpu, cuda or cuda:1")
    return int(number or 0)


def kind_of(device: str) -> str:
    """Returns the kind of a device by its name: "cpu" or "cuda".

    Raises:
        UsageError: It is not the name of a device.
    """
    if device == "cpu":
        return device
    ordinal_of(device)
    return "cuda"


class Event(Protocol):
    """A point in a stream. Recording it again moves it; waiting waits for the last record."""

    def synchronize(self) -> None:
        """Blocks until the point is reached; returns at once if it was never recorded."""
        ...


class Mark(Protocol):
    """The time at which a stream reached a point."""

    def ms_after(self, earlier: Any) -> float:
        """Returns the milliseconds since an earlier mark of the same device; both are past."""
        ...


class Stream(Protocol):
    """A queue whose work runs in order."""

    @property
    def handle(self) -> int:
        """The CUDA stream as an integer; 0 on the CPU."""
        ...

    def call(self, work: Work) -> None:
        """Queues a host function (on the CPU, engines are host functions)."""
        ...

    def record(self, event: Event) -> None:
        """Sets the event when everything queued here so far is done."""
        ...

    def wait(self, event: Event) -> None:
        """Makes later work wait for the event's last record before this call."""
        ...

    def check(self) -> None:
        """Raises what a work item raised, if any did; the work after it was skipped."""
        ...

    def close(self) -> None:
        """Waits for all work, then frees the stream."""
        ...


class Launch(Protocol):
    """Captured work."""

    def launch(self, stream: Stream) -> None:
        """Queues all of it on a stream, in order with the stream's other work."""
        ...


class Device(Protocol):
    """The CPU or a GPU: it runs engines and has their buffers in its memory."""

    @property
    def name(self) -> str:
        """`cpu` or `cuda`."""
        ...

    def stream(self, name: str, *, urgent: bool = False) -> Stream:
        """Returns a new stream; profilers show its name.

        Args:
            urgent: Its work goes before that of other streams when both are ready.
        """
        ...

    def event(self) -> Event:
        """Returns a new event that has not been recorded."""
        ...

    def capture(self, streams: Sequence[Stream], work: Work) -> Launch:
        """Captures what `work` puts on the streams as one launch, ordered by its events.

        None of it runs now. Once launched, all of it comes after earlier work on the launch's
        stream and before later work there; it does not wait for anything else on the other streams.

        Args:
            streams: All streams that it uses; first the one on which it begins.

        Raises:
            Exception: Something in it cannot be captured; the streams are as before.
        """
        ...

    def mark(self, stream: Stream) -> Mark:
        """Records the time at which the stream reaches this point. Not for use in a capture."""
        ...

    def range(self, name: str, stream: Stream | None = None) -> AbstractContextManager[object]:
        """Returns a context whose work appears under this name in a profiler.

        Args:
            stream: The stream that the work is put on, if there is only one.
        """
        ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Returns a new buffer in the device's memory, zeroed before any stream can use it."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """Returns zeroed host memory, whose copies overlap the device's work."""
        ...

    def copy(self, target: Any, source: Any, stream: Stream | None = None) -> None:
        """Copies a buffer to one of the same shape and dtype, in order on `stream`; None waits."""
        ...

    def zero(self, target: Any, stream: Stream) -> None:
        """Fills a buffer with zeros, in order on `stream`."""
        ...


HostArray: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """A dense tensor in a device's memory.

    Attributes:
        address: Its start, as the device's pointer.
        owner: Keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = field(repr=False)


Buffer: TypeAlias = HostArray | DeviceArray


class Bound(Protocol):
    """An engine with its buffers, which can be run any number of times.

    The buffers remain the caller's: a run reads what they contain when the stream reaches it.
    """

    def why_not_captured(self, stream: Stream) -> str:
        """Returns why a run on `stream` cannot be part of a launch, or an empty string."""
        ...

    def enqueue(self, stream: Stream | None = None) -> None:
        """Runs once, in order on `stream`, without waiting for it; None runs and waits.

        Raises:
            StreamDiffVSRError: The backend refused the launch; the message quotes it.
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
    """One graph that a backend has made ready to run."""

    def describe(self) -> GraphSpec:
        """Returns the names, shapes and dtypes of the inputs and outputs."""
        ...

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """Returns the engine on these buffers, one for every tensor by name. Several may coexist.

        Raises:
            ValueError: A tensor is missing or unknown, or a buffer has another shape or dtype than
                its tensor, or is not dense.
        """
        ...


def check_buffers(spec: GraphSpec, buffers: Mapping[str, Buffer]) -> None:
    """Raises ValueError unless there is a fitting buffer for every tensor, and no other."""
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
    """Receives the times of every call."""

    def add(self, name: str, started: float, ended: float) -> None:
        """Receives one run of a graph, in seconds of `time.perf_counter`."""
        ...


class StageTimes:
    """Milliseconds spent in each graph since they were last taken."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    def add(self, name: str, started: float, ended: float) -> None:
        """Adds the time of one call."""
        self._ms[name] = self._ms.get(name, 0.0) + 1000 * (ended - started)

    def take(self) -> dict[str, float]:
        """Returns the milliseconds by graph, and starts again from zero."""
        taken, self._ms = self._ms, {}
        return taken


def timed(engines: Mapping[str, Engine], times: Listener) -> dict[str, Engine]:
    """Returns the same engines, which report the times of their calls to `times`."""
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
    """An engine whose own device buffers are between it and the caller's host arrays."""

    def __init__(self, device: Device, engine: Engine) -> None:
        self._device, self._spec = device, engine.describe()
        tensors = (*self._spec.inputs, *self._spec.outputs)
        self._buffers = {t.name: device.empty(t.shape, t.dtype) for t in tensors}
        self._bound = engine.bind(self._buffers)

    def describe(self) -> GraphSpec:
        """Returns the names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """Returns the engine on these host arrays."""
        check_buffers(self._spec, buffers)
        arrays = {k: v for k, v in buffers.items() if isinstance(v, np.ndarray)}
        return HostBound(partial(self._run, arrays))

    def _run(self, arrays: Mapping[str, HostArray]) -> None:
        """Copies the inputs to the device, runs, and copies the outputs back; waits for it all."""
        for tensor in self._spec.inputs:
            self._device.copy(self._buffers[tensor.name], arrays[tensor.name])
        self._bound.enqueue()
        for tensor in self._spec.outputs:
            self._device.copy(arrays[tensor.name], self._buffers[tensor.name])
