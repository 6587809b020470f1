"""Writes segments of video, or images, in the child process of a writer.

libav encodes images in a few threads in parallel; a file gets its name only when it is complete and
on the disk.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from io import RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame

from ... import durable
from ..processes import messages
from ..processes.messages import Header, unpack
from . import libav
from .colour import FULL
from .info import LONGEST_TICKS, Segment
from .video_encoder_child import RgbFrame, VideoEncoder, native


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

    def serve(self, inbox: RawIOBase) -> None:
        """Sends ``ready``, then answers each ``begin``, ``frame`` and ``end``."""
        try:
            messages.send(self._outbox, {"kind": "ready"})
            while self._take(*messages.receive(inbox, self.memory)):
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
    def memory(self, count: int) -> memoryview:
        """Returns the buffer for that many bytes of pixels."""

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
    (_ImageTask if arguments["images"] else _VideoTask)(arguments, outbox).serve(inbox)


class _VideoTask(SegmentTask):
    def __init__(self, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        super().__init__(arguments, outbox)
        self._rgb = RgbFrame(tuple(arguments["size"]), deep=arguments["deep"])
        self._running: _RunningSegment | None = None

    def memory(self, count: int) -> memoryview:
        return self._rgb.memory(count)

    def begin(self, name: str) -> None:
        self._running = _RunningSegment(name, self._arguments, self._rgb, self._times)

    def add(self, header: messages.Header, pixels: memoryview) -> None:
        self._rgb.take(pixels)
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


FOLDER = "frames"
_MOST_THREADS = 8
_LOSSY_MATRIX = 5  # swscale's BT.601, as in JPEG


class _ImageTask(SegmentTask):
    def __init__(self, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        super().__init__(arguments, outbox)
        self._folder = Path(arguments["folder"]) / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._shape = (*arguments["size"], 3)
        self._dtype = np.dtype(np.uint16 if arguments["deep"] else np.uint8)
        self._index: int = arguments["first_index"]
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads)
        self._most = 2 * threads
        self._working: deque[Future[int]] = deque()
        self._running: _RunningImages | None = None

    def memory(self, count: int) -> memoryview:
        return np.empty(count, np.uint8).data

    def begin(self, name: str) -> None:
        self._running = _RunningImages(name, self._times)

    def add(self, header: messages.Header, pixels: memoryview) -> None:
        assert self._running is not None
        name = f"{self._index:08d}{self._arguments['suffix']}"
        self._index += 1
        self._running.add(f"{FOLDER}/{name}", *self._times.place(header))
        image = np.frombuffer(pixels, self._dtype).reshape(self._shape)
        while len(self._working) >= self._most:
            self._running.bytes += self._working.popleft().result()
        self._working.append(
            self._pool.submit(
                write_image, self._folder / name, image, int(self._arguments["quality"])
            )
        )

    def end(self) -> Segment | None:
        if self._running is None:
            return None
        while self._working:
            self._running.bytes += self._working.popleft().result()
            messages.send(self._outbox, {"kind": "beat"})
        durable.folder_to_disk(self._folder)
        whole, self._running = self._running.segment(), None
        return whole

    def discard(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for part in self._folder.glob("*.part"):
            with contextlib.suppress(OSError):
                part.unlink()


class _RunningImages:
    """The segment that images are added to."""

    def __init__(self, name: str, times: FrameTimes) -> None:
        self._name, self._times, self._retimed = name, times, times.retimed
        self._files: list[str] = []
        self._first = self._end = self.bytes = 0

    def add(self, file: str, pts: int, duration: int) -> None:
        if not self._files:
            self._first = pts
        self._files.append(file)
        self._end = pts + duration

    def segment(self) -> Segment | None:
        """Returns the segment of all images so far; None if there are none."""
        if not self._files:
            return None
        return Segment(
            name=self._name,
            files=tuple(self._files),
            frames=len(self._files),
            bytes=self.bytes,
            first_pts=self._first,
            end_pts=self._end,
            time_base=self._times.time_base,
            retimed=self._times.retimed - self._retimed,
        )


def write_image(path: Path, image: np.ndarray[Any, Any], quality: int) -> int:
    """Writes one (H, W, 3) RGB image, uint8 or uint16, by its suffix; returns its size in bytes."""
    data = _encoded(path.suffix, image, quality)
    with durable.write_atomically(path, sync=True) as part:
        part.write_bytes(data)
    return len(data)


def _encoded(suffix: str, image: np.ndarray[Any, Any], quality: int) -> bytes:
    codec, layout, options = _CODECS[suffix]
    deep = image.dtype == np.uint16
    frame = VideoFrame.from_ndarray(image, format=native("rgb48") if deep else "rgb24")
    if deep:
        layout = {"rgb24": "rgb48be" if suffix == ".png" else "rgb48le"}[layout]
    frame = frame.reformat(
        format=layout,
        src_color_range=FULL,
        dst_color_range=FULL,
        dst_colorspace=_LOSSY_MATRIX,
        interpolation="BICUBIC",
    )
    frame.pts = 0
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, layout
    context.time_base, context.options = Fraction(1, 25), dict(options)
    context.thread_count = 1
    if suffix == ".webp":
        context.options = {"quality": str(quality)}
    if suffix == ".jpg":
        context.color_range = FULL
        scale = str(
            min(31, max(1, round((100 - quality) / 2.5)))
        )  # 2 is about quality 95 elsewhere
        context.options = dict.fromkeys(("qmin", "qmax", "mblmin", "mblmax"), scale)
    return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))


_CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    ".png": ("png", "rgb24", {"compression_level": "6", "pred": "mixed"}),
    ".tif": ("tiff", "rgb24", {"compression_algo": "deflate"}),
    ".jpg": ("mjpeg", "yuvj444p", {}),
    ".webp": ("libwebp", "bgra", {}),
}
