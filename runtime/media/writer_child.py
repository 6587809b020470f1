"""Encodes segments of video in the child process of a writer."""

from __future__ import annotations

import contextlib
import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from io import RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from ... import durable
from ..processes import messages
from ..processes.messages import Header, unpack
from . import libav
from .segment import LONGEST_TICKS, Segment
from .video_encoder_child import RgbFrame, VideoEncoder


class FrameTimes:
    """Places frames on the output's time line.

    Args:
        time_base: Seconds per tick.
        after: The tick that all frames are placed after; None for no limit.

    Attributes:
        last: The tick of the last frame; None before any.
        retimed: Number of frames moved after the previous one.
    """

    def __init__(self, time_base: Fraction, after: int | None = None) -> None:
        self.time_base, self.last, self.retimed = time_base, after, 0

    def place(self, header: Header) -> tuple[int, int]:
        """Returns (pts, duration) in ticks of the frame that a message announces."""
        scale = (unpack(header["time_base"]) or self.time_base) / self.time_base
        pts = round(header["pts"] * scale)
        last = self.last
        if last is not None and pts <= last:  # no container can show two frames at one time
            pts, self.retimed = last + 1, self.retimed + 1
        duration = round((header["duration"] or 0) * scale) or (1 if last is None else pts - last)
        self.last = pts
        return pts, duration


class SegmentTask(ABC):
    """Makes segments from the parent's messages.

    Args:
        arguments: The parent's arguments, of which ``time_base`` and ``after_pts`` are used here.
        outbox: Where answers are sent.
    """

    def __init__(self, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        self._arguments, self._outbox = arguments, outbox
        base = messages.unpack(arguments["time_base"]) or Fraction(1, 90000)
        self._times = FrameTimes(base, arguments["after_pts"])

    def serve(self, inbox: RawIOBase, memory: Callable[[int], memoryview]) -> None:
        """Sends ``ready``, then answers each ``begin``, ``frame`` and ``end``.

        Args:
            inbox: Where messages come from.
            memory: Returns the buffer for that many bytes of pixels.
        """
        try:
            messages.send(self._outbox, {"kind": "ready"})
            while self._take(*messages.receive(inbox, memory)):
                pass
        except BaseException:
            self.discard()
            raise

    def _take(self, header: messages.Header, pixels: memoryview) -> bool:
        """Handles one message; returns False after the last one."""
        started = time.perf_counter()
        whole: Segment | None = None
        busy: tuple[float, float] | None = None
        if header["kind"] == "frame":
            self.add(header, pixels)
            busy = (started, time.perf_counter())
        else:
            whole = self.end()
        if header["kind"] == "begin":
            self.begin(header["name"])
        done = {"retimed": self._times.retimed, "whole": whole and whole.to_json(), "busy": busy}
        messages.send(self._outbox, {"kind": "done", **done})
        return bool(header["kind"] != "end")

    @abstractmethod
    def begin(self, name: str) -> None:
        """Starts a segment of that name for the following frames."""

    @abstractmethod
    def add(self, header: messages.Header, pixels: memoryview) -> None:
        """Adds one frame to the current segment."""

    @abstractmethod
    def end(self) -> Segment | None:
        """Completes the current segment on the disk; returns None if there is none, or no frame."""

    @abstractmethod
    def discard(self) -> None:
        """Removes incomplete files."""


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends ``ready``; answers each ``begin``, ``frame`` and ``end`` with ``done``."""
    libav.quiet()
    writer = _Writer(arguments, outbox)
    writer.serve(inbox, writer.rgb.memory)


class _Writer(SegmentTask):
    def __init__(self, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        super().__init__(arguments, outbox)
        self.rgb = RgbFrame(tuple(arguments["size"]), deep=arguments["deep"])
        self._running: _RunningSegment | None = None

    def begin(self, name: str) -> None:
        self._running = _RunningSegment(name, self._arguments, self.rgb, self._times)

    def add(self, header: messages.Header, pixels: memoryview) -> None:
        self.rgb.take(pixels)
        assert self._running is not None
        self._running.add(*self._times.place(header), self._times.retimed)

    def end(self) -> Segment | None:
        if self._running is None:
            return None
        whole = self._running.finish(self._outbox)
        self._running = None
        gc.collect()  # an encoder may hold a gigabyte, in a reference cycle
        return whole

    def discard(self) -> None:
        if self._running:
            self._running.discard()


class _RunningSegment:
    """The segment that frames are added to.

    Args:
        name: The name of the segment and, without its suffix, of its file.
        arguments: The parent's arguments.
        rgb: The pixels of each frame.
        times: The times of all frames so far.
    """

    def __init__(
        self, name: str, arguments: dict[str, Any], rgb: RgbFrame, times: FrameTimes
    ) -> None:
        self._name, self._time_base = name, times.time_base
        self._before, self._retimed_before = times.last, times.retimed
        self._retimed = times.retimed
        self._folder, suffix = Path(arguments["folder"]), arguments["suffix"]
        self._file = f"{name}{suffix}"
        self._part = self._folder / f"{name}.part"
        self._shown: list[int] = []  # pts of frames, in the order they are shown
        self._coded: list[int] = []  # pts of packets, in the order they are decoded
        self._end = 0
        self._in_file = 0  # tick of the last frame in the file, where the first is at zero
        self._gaps: list[tuple[int, int]] = []
        self._output = av.open(
            f"file:{self._part}",
            "w",
            format=arguments["container"],
            container_options={"movie_timescale": str(times.time_base.denominator)},
        )
        self._encoder = VideoEncoder(self._output, arguments, rgb)

    def add(self, pts: int, duration: int, retimed: int) -> None:
        """Encodes the frame in ``rgb``."""
        step = pts - self._shown[-1] if self._shown else 0
        if step > LONGEST_TICKS:
            self._gaps.append((self._in_file + 1, step - 1))
            step = 1
        self._in_file += step
        self._shown.append(pts)
        self._end, self._retimed = pts + duration, retimed
        for packet in self._encoder.encode(self._in_file, min(duration, LONGEST_TICKS)):
            self._mux(packet)

    def finish(self, outbox: RawIOBase) -> Segment | None:
        """Completes the file on the disk under its name; returns None if it has no frame."""
        if not self._shown:
            self.discard()
            return None
        for packet in self._encoder.flush():
            self._mux(packet)
            messages.send(outbox, {"kind": "beat"})
        self._output.close()
        messages.send(outbox, {"kind": "saving"})
        durable.publish(self._part, self._folder / self._file)
        return Segment(
            name=self._name,
            files=(self._file,),
            frames=len(self._shown),
            bytes=(self._folder / self._file).stat().st_size,
            first_pts=self._shown[0],
            end_pts=self._end,
            time_base=self._time_base,
            reorder=_reorder(self._coded),
            shortest=self._shortest(),
            retimed=self._retimed - self._retimed_before,
            gaps=tuple(self._gaps),
        )

    def discard(self) -> None:
        """Removes the file."""
        with contextlib.suppress(Exception):
            self._output.close()
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _mux(self, packet: Any) -> None:
        self._coded.append(packet.pts)
        self._output.mux(packet)

    def _shortest(self) -> int:
        before = [] if self._before is None else [self._before]
        times = [*before, *self._shown, max(self._end, self._shown[-1] + 1)]
        return min(after - time for time, after in pairwise(times))


def _reorder(coded: list[int]) -> int:
    """Returns how many places the most delayed frame moves between decoding and showing."""
    place = {pts: rank for rank, pts in enumerate(sorted(coded))}
    return max(index - place[pts] for index, pts in enumerate(coded))
