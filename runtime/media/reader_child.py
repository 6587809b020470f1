"""Describes a file to the parent process, then sends its frames one by one.

Frames come from ``video_reader_child`` or ``image_reader_child``, or are those of an animated WebP
or AVIF, read here as a video that plays once: Pillow builds each picture from those before it, one
at a time, and times are those of the file. libav reads animated GIF and PNG, and AVIF of more than
8 bits.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any, NamedTuple

from av.video.reformatter import VideoReformatter

from ...errors import StreamDiffVSRError
from ..processes import messages
from . import libav
from .colour import UNCONVERTED, Colour
from .image_kinds_child import (
    AVIF,
    MAX_BYTES,
    START_BYTES,
    WEBP,
    Kind,
    avif_needs_libav,
    is_animation,
    kind_of,
    riff_chunks,
)
from .image_reader_child import ImageFrames, is_images
from .info import VideoInfo
from .libav import check_frame_size
from .picture_child import Picture, Request, describe_picture
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


_TOO_SHORT_MS, _INSTEAD_MS = 10, 100  # as in browsers


class _Times(NamedTuple):
    """The times and durations of the pictures, in ticks of the base."""

    base: Fraction
    shown: array[int]
    lengths: array[int]
    sample_aspect: Fraction = Fraction(1)


def is_animated_image(path: Path) -> bool:
    """Returns whether it is an animation that libav does not read correctly."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return False
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        kind = kind_of(start, path.suffix)
        if kind not in (WEBP, AVIF) or not is_animation(path, start, kind):
            return False
        return kind is WEBP or not avif_needs_libav(path.read_bytes())
    except (OSError, ValueError):
        return False


class AnimatedImages:
    """The pictures of one animation.

    Attributes:
        damaged: Always 0: a picture that cannot be decoded is an error.

    Raises:
        StreamDiffVSRError: It cannot be read, or is too large.
    """

    def __init__(self, request: Request) -> None:
        path, self._shown, failure, self._beat, self._begin, *_ = request
        self._failure = failure
        self.damaged = 0
        data = path.read_bytes()
        kind = kind_of(data[:START_BYTES])
        assert kind is not None
        self._kind: Kind = kind
        if kind is WEBP:  # Pillow allocates memory when it opens one
            check_frame_size(_number(data, 24) + 1, _number(data, 27) + 1, failure)
        try:
            from .image_files_child import Tags, opened

            self._tags = Tags.of(data)
            self._image: Any = opened(data, kind.pillow, failure)
            self._times = _webp_times(data) if kind is WEBP else _avif_times(path)
        except (MemoryError, StreamDiffVSRError):
            raise
        except Exception as error:
            raise self._broken(error) from error
        self._count: int = min(self._image.n_frames, len(self._times.shown))
        self._first: Any = None

    def describe(self) -> VideoInfo:
        """Decodes the first picture and returns the description."""
        if not self._count:
            raise StreamDiffVSRError(self._failure, "no picture is in it")
        self._first = frame = self._decoded(0)
        base, shown, lengths, aspect = self._times
        last = self._count - 1
        seconds = (shown[last] + lengths[last] - shown[0]) * base
        return describe_picture(
            frame,
            path=self._shown,
            codec=self._kind.codec,
            sample_aspect=aspect,
            average_rate=self._count / seconds if seconds else None,
            time_base=base,
            start_time=shown[0],
            duration_seconds=float(seconds) or None,
            frames=self._count,
            counted=True,
            least_frames=self._count,
            audio_streams=0,
            container=self._kind.name.lower(),
        )

    def pictures(self) -> Iterator[Picture]:
        """Yields each picture with its time, from ``begin`` on; all before are decoded too."""
        base, shown, lengths, _ = self._times
        start = 0
        while (
            self._begin is not None
            and start + 1 < self._count
            and float(shown[start + 1] * base) <= self._begin
        ):
            start += 1
        for index in range(self._count):
            self._beat()
            frame, self._first = self._first or self._decoded(index), None
            if index >= start:
                yield Picture(frame, shown[index], lengths[index])

    def close(self) -> None:
        """Closes the file."""
        self._image.close()

    def _decoded(self, index: int) -> Any:
        from .image_files_child import upright_frame

        try:
            self._image.seek(index)
            self._image.load()
            return self._tags.put_on(upright_frame(self._image))
        except MemoryError:
            raise
        except Exception as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> StreamDiffVSRError:
        return StreamDiffVSRError(
            self._failure, f"the animation cannot be decoded: {libav.describe(error)}"
        )


def _webp_times(data: bytes) -> _Times:
    """Returns times in milliseconds, from the duration of each frame."""
    times, now = _Times(Fraction(1, 1000), array("q"), array("q")), 0
    for name, start, _ in riff_chunks(data):
        if name == b"ANMF":
            duration = _number(data, start + 12)
            times.shown.append(now)
            times.lengths.append(duration if duration > _TOO_SHORT_MS else _INSTEAD_MS)
            now += times.lengths[-1]
    return times


def _avif_times(path: Path) -> _Times:
    """Returns the times of the track's packets, which are in order of display."""
    with libav.open_input(path) as container:
        stream = libav.moving_picture(container)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        times = _Times(Fraction(stream.time_base), array("q"), array("q"), aspect)
        for packet in libav.packets(container, [stream]):
            if packet is not None and packet.size and packet.pts is not None:
                times.shown.append(packet.pts)
                times.lengths.append(packet.duration or 1)
        return times


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 3], "little")
