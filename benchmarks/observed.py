"""A device that records when its streams reach each stage, and what the host puts on them.

Captured work runs as one launch and shows no stages, so nothing is captured while stages are
recorded. Marks are read after the host has waited for their frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ..engines.interface import Device, Event, Launch, Mark, Stream, Work

COPIES = ("upload", "download")


@dataclass(frozen=True, slots=True)
class Span:
    """The time of one stage of a frame on a track, in ms of `time.perf_counter`."""

    frame: int
    name: str
    track: str
    start_ms: float
    end_ms: float

    @property
    def ms(self) -> float:
        """The duration in ms."""
        return self.end_ms - self.start_ms


class Recorder:
    """Records the spans of frames that are put on streams, or run by the host.

    Attributes:
        frame: The index of the current frame, which is set by the source of the frames.
    """

    def __init__(self) -> None:
        self.frame = 0
        self._host: list[Span] = []
        self._marks: list[tuple[int, str, str, Mark, Mark]] = []
        self._origin: tuple[Mark, float] | None = None

    def align(self, device: Device, stream: Stream) -> None:
        """Relates the device's clock to the host's by a mark; the stream must be idle."""
        if self._origin is None:
            mark, event = device.mark(stream), device.event()
            stream.record(event)
            event.synchronize()
            self._origin = mark, 1e3 * time.perf_counter()

    def add(self, name: str, started: float, ended: float) -> None:
        """Adds a graph that the host ran, in seconds of `time.perf_counter`; see `timed`."""
        self._host.append(Span(self.frame, name, "host", 1e3 * started, 1e3 * ended))

    def between(self, name: str, track: str, begun: Mark, ended: Mark) -> None:
        """Adds a stage that a stream runs between two marks."""
        self._marks.append((self.frame, name, track, begun, ended))

    def take(self) -> list[Span]:
        """Returns all spans since the last call, in order; the host has waited for their frames."""
        spans, marks = self._host, self._marks
        self._host, self._marks = [], []
        if self._origin is None:
            return spans
        origin, then = self._origin
        for frame, name, track, begun, ended in marks:
            start = then + begun.ms_after(origin)
            spans.append(Span(frame, name, track, start, start + ended.ms_after(begun)))
        return spans


class ObservedDevice:
    """Wraps a device, and records its stages and launches.

    Args:
        inner: The device that does the work.
        recorder: Receives the times of every stage; None records no times.
        one_stream: Whether all streams are the same one, so that nothing overlaps.
        captures: Whether work may be captured into one launch.

    Attributes:
        launches: The number of graphs, engines and copies that were put on streams.
    """

    def __init__(
        self,
        inner: Device,
        recorder: Recorder | None = None,
        *,
        one_stream: bool = False,
        captures: bool = False,
    ) -> None:
        self._inner, self._recorder = inner, recorder
        self._one_stream, self._captures = one_stream, captures
        self._tracks: dict[int, str] = {}
        self._streams: list[Stream] = []
        self._capturing = False
        self.launches = 0

    @property
    def name(self) -> str:
        return self._inner.name

    def stream(self, name: str, *, urgent: bool = False) -> Stream:
        if self._one_stream and self._streams:
            return self._streams[0]
        stream = self._inner.stream(name, urgent=urgent)
        if self._recorder is not None:
            self._recorder.align(self._inner, stream)
        self._streams.append(stream)
        self._tracks[id(stream)] = "all" if self._one_stream else name
        return stream

    def event(self) -> Event:
        return self._inner.event()

    def capture(self, streams: Sequence[Stream], work: Work) -> Launch:
        if not self._captures:
            raise RuntimeError("nothing is captured while stages are recorded")
        self._capturing = True
        try:
            return _Counted(self._inner.capture(streams, work), self.count)
        finally:
            self._capturing = False

    def mark(self, stream: Stream) -> Mark:
        return self._inner.mark(stream)

    @contextmanager
    def range(self, name: str, stream: Stream | None = None) -> Iterator[object]:
        with self._inner.range(name, stream):
            if stream is not None and name not in COPIES:
                self.count()  # the engine that runs in this range
            if self._recorder is None or stream is None:
                yield None
                return
            begun = self._inner.mark(stream)
            yield None
            ended = self._inner.mark(stream)
            self._recorder.between(name, self._tracks[id(stream)], begun, ended)

    def count(self) -> None:
        """Counts a launch by the host, except during a capture."""
        self.launches += not self._capturing

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._inner.empty(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        return self._inner.pinned(shape, dtype)

    def copy(self, target: Any, source: Any, stream: Stream | None = None) -> None:
        self.count()
        self._inner.copy(target, source, stream)

    def zero(self, target: Any, stream: Stream) -> None:
        self.count()
        self._inner.zero(target, stream)


@dataclass(frozen=True, slots=True)
class _Counted:
    inner: Launch
    count: Work

    def launch(self, stream: Stream) -> None:
        self.count()
        self.inner.launch(stream)
