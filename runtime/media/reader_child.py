"""Describes a file to the parent process, then sends its frames one by one.

Frames come from ``video_reader_child``, ``image_reader_child`` or ``animation_reader_child``.
"""

from __future__ import annotations

import time
from contextlib import closing
from io import RawIOBase
from pathlib import Path
from typing import Any

from av.video.reformatter import VideoReformatter

from ...errors import StreamDiffVSRError
from ..processes import messages
from . import libav
from .animation_reader_child import AnimatedImages, is_animated_image
from .colour import UNCONVERTED, Colour
from .image_reader_child import ImageFrames, is_images
from .libav import check_frame_size
from .picture_child import Picture, Request
from .pixels import is_plain, upright_rgb, upright_size
from .video_reader_child import VideoFrames

_BEAT_S = 1.0


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends one ``info`` message, then a ``frame`` message per frame, then ``end``.

    At depth 16, each frame has a ``deep`` message before its own.
    """
    messages.end_with_parent(inbox)
    libav.quiet()
    failure = f"could not read {arguments['shown']!r}"
    sender = _Sender(outbox, failure, deep=arguments.get("depth") == 16)
    with closing(_opened(arguments, failure, sender)) as source:
        info = source.describe()
        check_frame_size(info.width, info.height, failure)
        _check_colour(info.colour, failure)
        messages.send(outbox, {"kind": "info", "info": info.to_wire()})
        if not arguments["frames"]:
            return
        for picture in source.pictures():
            sender.send(picture, source.damaged)
        messages.send(outbox, {"kind": "end", "damaged": source.damaged})


def _opened(
    arguments: dict[str, Any], failure: str, sender: _Sender
) -> VideoFrames | ImageFrames | AnimatedImages:
    request = Request(
        Path(arguments["path"]),
        Path(arguments["shown"]),
        failure,
        sender.beat,
        arguments.get("begin"),
        arguments.get("deinterlace", "auto"),
        messages.unpack(arguments.get("fps")),
    )
    if is_images(request.path):
        return ImageFrames(request)
    return (AnimatedImages if is_animated_image(request.path) else VideoFrames)(request)


class _Sender:
    """Converts pictures and sends them, and signs of life in between."""

    def __init__(self, outbox: RawIOBase, failure: str, *, deep: bool) -> None:
        self._outbox, self._failure, self._deep = outbox, failure, deep
        self._reformatter = VideoReformatter()
        self._file_pixels: Any = None  # most files need no numpy
        self._sent_at = time.monotonic()
        self._busy_since = time.perf_counter()

    def send(self, picture: Picture, damaged: int) -> None:
        """Sends one frame as (h, w, 3) uint8 RGB with its time; before it uint16, if requested."""
        frame = picture.frame
        check_frame_size(frame.width, frame.height, self._failure)
        height, width = upright_size(frame)
        if self._deep:
            deep = self._full_converter.deep(frame, mirrored=picture.mirrored)
            messages.send(self._outbox, {"kind": "deep"}, deep)
        if is_plain(frame):
            pixels = upright_rgb(self._reformatter, frame, mirrored=picture.mirrored)
        else:
            pixels = self._full_converter.image(frame, mirrored=picture.mirrored)
        header = {
            "kind": "frame",
            "pts": picture.pts,
            "duration": picture.duration,
            "height": height,
            "width": width,
            "damaged": damaged,
            "busy": [self._busy_since, time.perf_counter()],
        }
        messages.send(self._outbox, header, pixels)
        self._sent_at = time.monotonic()
        self._busy_since = time.perf_counter()

    def beat(self) -> None:
        """Sends a sign of life if no frame was sent for a while."""
        if time.monotonic() - self._sent_at > _BEAT_S:
            messages.send(self._outbox, {"kind": "beat"})
            self._sent_at = time.monotonic()

    @property
    def _full_converter(self) -> Any:
        if self._file_pixels is None:
            from .file_pixels import FilePixels

            self._file_pixels = FilePixels()
        return self._file_pixels


def _check_colour(colour: Colour, failure: str) -> None:
    name = UNCONVERTED.get(colour.matrix)
    if name:
        raise StreamDiffVSRError(
            failure,
            f"its colours are coded as {name}, which is not converted here",
            "convert it to BT.709 or BT.2020 Y'CbCr first",
        )
