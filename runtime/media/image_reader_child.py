"""Decodes a folder of images, or one image, as frames of equal duration."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from ...errors import StreamDiffVSRError
from . import libav
from .colour import FULL
from .image_kinds_child import (
    AVIF,
    JPEG2000,
    MAX_BYTES,
    PNG,
    START_BYTES,
    TIFF,
    Kind,
    UnreadImageError,
    avif_needs_libav,
    has_transparent_bits,
    is_animation,
    jpeg2000_bits,
    kind_of,
)
from .info import VideoInfo
from .libav import MAX_PIXELS
from .picture_child import Picture, Request, describe_picture
from .readable import DEFAULT_FPS, SUFFIXES, images_in, is_numbered, numbered_images

# In JPEG and PNG, the bytes before the EXIF data, which is a small TIFF file.
_PLACE = re.compile(rb"(?:Exif\0\0|eXIf)(?=II\*\0|MM\0\*)")
_ORIENTATION = 0x0112
MIRRORED = (2, 4, 5, 7)


def is_mirrored(data: bytes) -> bool:
    """Returns whether the EXIF orientation of a PNG or JPEG file is a mirrored one."""
    found = _PLACE.search(data)
    return found is not None and _orientation(data[found.end() :]) in MIRRORED


def _orientation(tiff: bytes) -> int:
    """Returns the orientation in the first directory of a TIFF file; 1, upright, without one."""
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # the data ends too early
        pass
    return 1


_BT601 = 5  # libav's number of the matrix


def is_images(path: Path) -> bool:
    """Returns whether it is a folder, a pattern of numbered images, or a file of one image.

    This includes images of kinds that are not read: opening them reports the kind.
    """
    if path.is_dir() or is_numbered(path):
        return True
    try:
        if not path.is_file():  # reading would consume a pipe
            return False
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        kind = kind_of(start, path.suffix)
        return kind is not None and not is_animation(path, start, kind)
    except UnreadImageError:
        return True
    except OSError:
        return False


class ImageFrames:
    """The pictures of a series of images: picture k is shown from k/fps to (k+1)/fps.

    Attributes:
        damaged: Number of images that were only partly decoded.

    Raises:
        StreamDiffVSRError: There is no image in the folder, or it cannot be read.
    """

    def __init__(self, request: Request) -> None:
        path, self._shown, self._failure, self._beat, self._begin, _, fps = request
        self._fps = fps or Fraction(DEFAULT_FPS)
        self._is_folder = path.is_dir()
        self._is_one = not self._is_folder and not is_numbered(path)
        self._files = [path] if self._is_one else self._listed(path)
        self._first: Picture | None = None
        self.damaged = 0

    def describe(self) -> VideoInfo:
        """Decodes the first image and returns the description."""
        self._first, codec, transparent = self._decode(0)
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
            alpha=transparent,
        )

    def pictures(self) -> Iterator[Picture]:
        """Yields each image with its time."""
        start = self._index_at(self._begin)
        if start > 0:
            self.damaged, self._first = 0, None
        for index in range(start, len(self._files)):
            picture, self._first = self._first, None
            self._beat()
            yield picture or self._decode(index)[0]

    def close(self) -> None:
        """Does nothing: no file stays open between two images."""

    def _index_at(self, begin: float | None) -> int:
        """Returns the last image at or before a time, computed like ``SourceFrame.seconds``."""
        if begin is None or begin <= 0:
            return 0
        index = min(math.floor(begin * self._fps), len(self._files) - 1)
        while index + 1 < len(self._files) and float((index + 1) / self._fps) <= begin:
            index += 1
        return index

    def _listed(self, path: Path) -> list[Path]:
        try:
            files = images_in(path) if self._is_folder else numbered_images(path)
        except OSError as error:
            raise StreamDiffVSRError(self._failure, libav.describe(error)) from error
        if not files and not self._is_folder:
            raise StreamDiffVSRError(
                self._failure,
                "no image has a name of that pattern",
                "check the folder, and how many digits the names have",
            )
        if not files:
            raise StreamDiffVSRError(
                self._failure,
                f"it is a folder without images ({', '.join(SUFFIXES)})",
                "name the video file in it, if there is one",
            )
        return files

    def _name_of(self, path: Path) -> str:
        return "the image" if self._is_one else f"its image {path.name!r}"

    def _failure_of(self, path: Path) -> str:
        return self._failure if self._is_one else f"{self._failure}: {self._name_of(path)}"

    def _decode(self, index: int) -> tuple[Picture, str, bool]:
        """Returns the picture of one image, its codec, and whether transparency was removed."""
        path = self._files[index]
        logged = libav.logged_errors()
        try:
            data = path.read_bytes()
            if len(data) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES >> 30} GiB")
            kind = self._kind(path, data)
            decoded = _decode_image(data, kind, self._failure_of(path))
        except (MemoryError, StreamDiffVSRError):
            raise
        except UnreadImageError as error:
            raise StreamDiffVSRError(
                self._failure,
                f"{self._name_of(path)} is {error}, which is not read",
                "convert it to PNG or TIFF of 8 or 16 bits first",
            ) from error
        except Exception as error:
            raise StreamDiffVSRError(
                self._failure,
                f"{self._name_of(path)} cannot be decoded: {_why(error)}",
                "" if self._is_one else "replace it, or take it out of the folder",
            ) from error
        frame = decoded.frame
        self.damaged += libav.logged_errors() > logged or frame.is_corrupt
        return Picture(frame, index, 1, decoded.mirrored), kind.codec, decoded.transparent

    def _kind(self, path: Path, data: bytes) -> Kind:
        start = data[:START_BYTES]
        kind = kind_of(start, path.suffix)
        if kind is None:
            raise ValueError("it is no image of a kind that is read" if data else "empty")
        if not self._is_one and is_animation(path, start, kind):
            raise StreamDiffVSRError(
                self._failure,
                f"{self._name_of(path)} is an animation of several pictures",
                "name it by itself, or take it out of the folder",
            )
        return kind


def _why(error: Exception) -> str:
    cause = libav.describe(error)
    if "max pixel count" in cause:  # libav would name an option of its own
        return f"it is larger than the {MAX_PIXELS >> 20} megapixels that are read"
    return cause


class _Decoded(NamedTuple):
    """A libav frame of an image.

    Attributes:
        frame: The frame.
        mirrored: As in ``Picture``.
        transparent: Whether its transparency was already blended onto black.
    """

    frame: Any
    mirrored: bool = False
    transparent: bool = False


def _decode_image(data: bytes, kind: Kind, failure: str) -> _Decoded:
    """Decodes the first picture of an image file; ``failure`` begins error messages.

    Raises:
        StreamDiffVSRError: It is too large.
        UnreadImageError: It has pixels of a kind that is not read.
        Exception: libav or Pillow cannot decode it.
    """
    if kind is TIFF:
        from .image_files_child import decode_tiff

        frame, transparent = decode_tiff(data, failure)
        return _Decoded(frame, transparent=transparent)
    if kind is AVIF and avif_needs_libav(data):
        return _deep_avif(data, failure)
    deep = kind is JPEG2000 and jpeg2000_bits(data) > 8
    # libav ignores transparency in black-and-white PNG.
    if (kind.pillow and not deep) or (kind is PNG and has_transparent_bits(data)):
        from .image_files_child import Tags, opened, upright_frame

        frame = upright_frame(opened(data, kind.pillow or "PNG", failure))
        return _Decoded(Tags.of(data).put_on(frame) if kind is AVIF else frame)
    return _Decoded(_by_libav(data, kind), mirrored=is_mirrored(data))


def _deep_avif(data: bytes, failure: str) -> _Decoded:
    """Decodes with libav, which applies the rotation but does not report mirroring."""
    from .image_files_child import opened

    orientation = opened(data, "AVIF", failure).getexif().get(_ORIENTATION)
    with av.open(io.BytesIO(data), "r", format="mov") as container:
        frame = next(container.decode(libav.moving_picture(container)))
    return _Decoded(frame, mirrored=orientation in MIRRORED)


def _by_libav(data: bytes, kind: Kind) -> Any:
    frame = libav.decode_image(kind.codec, data)
    if kind is JPEG2000 and not frame.format.is_rgb:  # full range, which libav does not report
        frame.colorspace, frame.color_range = _BT601, FULL
    return frame
