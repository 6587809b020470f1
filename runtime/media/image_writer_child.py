"""Writes each frame as an image file, in the child process of a writer.

libav encodes images in a few threads in parallel; a file gets its name only when it is complete and
on the disk.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame

from ... import durable
from ..processes import messages
from . import libav
from .colour import FULL
from .segment import Segment
from .video_encoder_child import native
from .writer_child import FrameTimes, SegmentTask

FOLDER = "frames"
_MOST_THREADS = 8
_LOSSY_MATRIX = 5  # swscale's BT.601, as in JPEG


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends ``ready``; answers each ``begin``, ``frame`` and ``end`` with ``done``."""
    libav.quiet()
    folder = Path(arguments["folder"]) / FOLDER
    folder.mkdir(exist_ok=True)
    _Writer(folder, arguments, outbox).serve(inbox, _new_memory)


class _Writer(SegmentTask):
    def __init__(self, folder: Path, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        super().__init__(arguments, outbox)
        self._folder = folder
        self._shape = (*arguments["size"], 3)
        self._dtype = np.dtype(np.uint16 if arguments["deep"] else np.uint8)
        self._index: int = arguments["first_index"]
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads)
        self._most = 2 * threads
        self._working: deque[Future[int]] = deque()
        self._running: _RunningImages | None = None

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


def _new_memory(count: int) -> memoryview:
    return np.empty(count, np.uint8).data
