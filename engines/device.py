"""Streams and events as CUDA has them, and their twins on the CPU, where a stream is a thread.

What is put on a stream runs in order and later; a stream waits for another only through an event.
The runtime is written against this alone, so the very schedule that drives a GPU runs, and is
tested, without one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Work = Callable[[], None]


class Event(Protocol):
    """A point in a stream. Recording it again moves it; who waits, waits for the last record."""

    def synchronize(self) -> None:
        """Block the caller until the point is reached; at once if it was never recorded."""
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


class CpuEvent:
    """An event between threads."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.reached.set()

    def synchronize(self) -> None:
        self.reached.wait()


class CpuStream:
    """A worker thread with a queue.

    After a work that raises, the rest is passed over, but events are still set: no other stream
    waits for ever, and whoever reads a result calls `check` first.
    """

    handle = 0

    def __init__(self, name: str) -> None:
        self._works: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._captured: list[Work] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def capture(self, works: list[Work] | None) -> None:
        """Add work to a list instead of running it; None ends that.

        The list's order is one that the events in it allow, so they have nothing to do there.
        """
        self._captured = works

    def call(self, work: Work) -> None:
        if self._captured is not None:
            self._captured.append(work)
        else:
            self._works.put(lambda: None if self._failure else work())

    def record(self, event: Event) -> None:
        assert isinstance(event, CpuEvent)
        if self._captured is not None:
            return
        event.reached = reached = threading.Event()  # a new one: earlier waits keep theirs
        self._works.put(reached.set)

    def wait(self, event: Event) -> None:
        assert isinstance(event, CpuEvent)
        if self._captured is not None:
            return
        reached = event.reached
        self._works.put(reached.wait)

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._works.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._works.get()) is not None:
            try:
                work()
            except BaseException as error:
                self._failure = error


class Device(Protocol):
    """Where engines run and their buffers lie."""

    @property
    def name(self) -> str:
        """`cpu`, or `cuda`."""
        ...

    def stream(self, name: str) -> Stream:
        """A new stream; the name is what profilers show."""
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

    def range(self, name: str) -> AbstractContextManager[object]:
        """What is put on streams inside it shows under this name in a profiler."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new buffer in the device's memory, zeroed."""
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


@dataclass(frozen=True, slots=True)
class CpuLaunch:
    """Captured work, in an order that its events allow."""

    works: tuple[Work, ...]

    def launch(self, stream: Stream) -> None:
        for work in self.works:
            stream.call(work)


class CpuDevice:
    """The twin: buffers are numpy arrays, streams are threads."""

    name = "cpu"

    def stream(self, name: str) -> CpuStream:
        return CpuStream(name)

    def event(self) -> CpuEvent:
        return CpuEvent()

    def capture(self, streams: Sequence[Stream], work: Work) -> CpuLaunch:
        works: list[Work] = []
        mine = [stream for stream in streams if isinstance(stream, CpuStream)]
        try:
            for stream in mine:
                stream.capture(works)
            work()
        finally:
            for stream in mine:
                stream.capture(None)
        return CpuLaunch(tuple(works))

    def range(self, name: str) -> AbstractContextManager[object]:
        return nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        return np.zeros(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        return np.zeros(shape, dtype)

    def copy(self, target: Any, source: Any, stream: Stream | None = None) -> None:
        if stream is None:
            np.copyto(target, source, casting="no")
        else:
            stream.call(lambda: np.copyto(target, source, casting="no"))

    def zero(self, target: Any, stream: Stream) -> None:
        stream.call(lambda: target.fill(0))
