"""A folder of images, or one image, as decoded frames.

Runs in the child. Each image is decoded by itself, by what it is and not by its name; one that
cannot be is an error that names it, as a frame left out would shift all others. It does not convert
pixels. Of a file of several pages the first one counts; an animated PNG is a video by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ....errors import StreamDiffVSRError
from .. import libav
from ..info import VideoInfo
from ..limits import MAX_PIXELS
from .exif import is_mirrored
from .image_names import DEFAULT_FPS, SUFFIXES, images_in
from .picture import Picture, describe_picture

_MAX_BYTES = 1 << 30
_START_BYTES = 4096
_WEBP_ANIMATION = 0x02  # of the flags in its extended header


def is_images(path: Path) -> bool:
    """Whether it is a folder, or a file that begins like an image and not like an animated PNG."""
    if path.is_dir():
        return True
    try:
        if not path.is_file():  # reading from a pipe would take what is read from it
            return False
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
            return _codec_of(start) is not None and not _is_animated_png(start)
    except OSError:
        return False


class ImageFrames:
    """The pictures of a series of images: picture k is shown from k/fps to (k+1)/fps.

    Args:
        path: The folder or the image.
        shown: What the user called it.
        failure: What cannot be done if it cannot be read.
        begin: As of ``FileSource``.
        fps: Frames per second; 24 if None.
        beat: Called between two images.

    Attributes:
        damaged: How many of them gave a picture, but not all of it.

    Raises:
        StreamDiffVSRError: There is no image in the folder, or it cannot be read.
    """

    def __init__(
        self,
        path: Path,
        shown: Path,
        failure: str,
        *,
        begin: float | None,
        fps: Fraction | None,
        beat: Callable[[], None],
    ) -> None:
        self._shown, self._failure, self._beat = shown, failure, beat
        self._fps = fps or Fraction(DEFAULT_FPS)
        self._is_folder = path.is_dir()
        self._files = self._listed(path) if self._is_folder else [path]
        self._begin = begin
        self._first: Picture | None = None
        self.damaged = 0

    def describe(self) -> VideoInfo:
        """As of ``VideoFrames``; the first image is decoded for it."""
        self._first, codec = self._decode(0)
        count = len(self._files)
        return describe_picture(
            self._first.frame,
            path=self._shown,
            codec=codec,
            average_rate=self._fps,
            time_base=1 / self._fps,
            start_time=0,
            duration_seconds=float(count / self._fps),
            counted=True,
            least_frames=count,
            frames=count,
            audio_streams=0,
            container="image2",
            images=True,
        )

    def pictures(self) -> Iterator[Picture]:
        """Each image at its time."""
        start = self._index_at(self._begin)
        if start > 0:
            self.damaged, self._first = 0, None
        for index in range(start, len(self._files)):
            picture, self._first = self._first, None
            self._beat()
            yield picture or self._decode(index)[0]

    def close(self) -> None:
        """Nothing stays open between two images."""

    def _index_at(self, begin: float | None) -> int:
        """The last image at or before that time, by the very numbers of ``SourceFrame.seconds``."""
        if begin is None or begin <= 0:
            return 0
        index = min(math.floor(begin * self._fps), len(self._files) - 1)
        while index + 1 < len(self._files) and float((index + 1) / self._fps) <= begin:
            index += 1
        return index

    def _listed(self, path: Path) -> list[Path]:
        try:
            files = images_in(path)
        except OSError as error:
            raise StreamDiffVSRError(self._failure, libav.describe(error)) from error
        if not files:
            raise StreamDiffVSRError(
                self._failure,
                f"it is a folder without images ({', '.join(SUFFIXES)})",
                "name the video file in it, if there is one",
            )
        return files

    def _called(self, path: Path) -> str:
        return f"its image {path.name!r}" if self._is_folder else "the image"

    def _decode(self, index: int) -> tuple[Picture, str]:
        """The picture of one image, and the name of its codec."""
        path = self._files[index]
        logged = libav.logged_errors()
        try:
            data = path.read_bytes()
            codec = _codec_of(data)
            if codec is None or len(data) > _MAX_BYTES:
                raise ValueError("no PNG, JPEG, WebP or TIFF" if data else "empty")
            if data[12:16] == b"VP8X" and data[20] & _WEBP_ANIMATION:
                raise ValueError("an animated WebP, which libav cannot read")
            # A context of its own: nothing of one image can get into the next.
            context: Any = av.CodecContext.create(codec, "r")
            context.options = {"max_pixels": str(MAX_PIXELS)}
            frames = [*context.decode(av.Packet(data)), *context.decode(None)]
            if not frames:
                raise ValueError("no picture is in it")
        except MemoryError:
            raise
        except Exception as error:
            raise StreamDiffVSRError(
                self._failure,
                f"{self._called(path)} cannot be decoded: {_why(error)}",
                "replace it, or take it out of the folder" if self._is_folder else "",
            ) from error
        self.damaged += libav.logged_errors() > logged or frames[0].is_corrupt
        return Picture(frames[0], index, 1, is_mirrored(data)), codec


def _is_animated_png(start: bytes) -> bool:
    """What tells of its frames stands before the first picture."""
    return start.startswith(b"\x89PNG") and b"acTL" in start.partition(b"IDAT")[0]


def _why(error: Exception) -> str:
    told = libav.describe(error)
    if "max pixel count" in told:  # libav goes on about an option of its own
        return f"it is larger than the {MAX_PIXELS >> 20} megapixels that are read"
    return told


def _codec_of(data: bytes) -> str | None:
    """The decoder for what begins like this."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "mjpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return "tiff" if data.startswith((b"II*\0", b"MM\0*")) else None
