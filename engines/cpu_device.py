"""The CPU as a `Device`: a stream is a thread, a buffer a numpy array."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .interface import Event, Stream, Work


class CpuEvent:
    """An event between threads."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.reached.set()

    def synchronize(self) -> None:
        self.reached.wait()


class CpuMark:
    """A time on the host's clock, in seconds."""

    at = 0.0

    def set(self) -> None:
        """Stores the current time."""
        self.at = time.perf_counter()

    def ms_after(self, earlier: CpuMark) -> float:
        return 1e3 * (self.at - earlier.at)


class CpuStream:
    """A worker thread with a queue.

    After a work item raises, the rest is skipped, but events are still set: no other stream waits
    forever, and callers use `check` before they read a result.
    """

    handle = 0

    def __init__(self, name: str) -> None:
        self._works: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._captured: list[Work] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def capture(self, works: list[Work] | None) -> None:
        """Collects work in a list instead of running it; None ends that.

        The work is collected in an order that its events allow, so events are ignored meanwhile.
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
        if self._thread is not threading.current_thread():  # garbage collection may call this there
            self._thread.join()

    def _run(self) -> None:
        while (work := self._works.get()) is not None:
            try:
                work()
            except BaseException as error:
                self._failure = error


@dataclass(frozen=True, slots=True)
class CpuLaunch:
    """Captured work, in an order that its events allow."""

    works: tuple[Work, ...]

    def launch(self, stream: Stream) -> None:
        for work in self.works:
            stream.call(work)


class CpuDevice:
    """The CPU counterpart of `CudaDevice`: buffers are numpy arrays, streams are threads."""

    name = "cpu"

    def stream(self, name: str, *, urgent: bool = False) -> CpuStream:
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

    def mark(self, stream: Stream) -> CpuMark:
        mark = CpuMark()
        stream.call(mark.set)
        return mark

    def range(self, name: str, stream: Stream | None = None) -> AbstractContextManager[object]:
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
