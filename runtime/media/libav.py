"""Opens media with libav: allowed demuxers, size limits, and errors in plain words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from ...durable import CAUSES
from ...errors import StreamDiffVSRError
from . import diagnosis
from .readable import DEMUXERS

MAX_SIDE = 16384
MAX_PIXELS = 1 << 26  # 67 million: 8K is 33 million


def check_frame_size(width: int, height: int, failure: str) -> None:
    """Refuses frames that are too large; ``failure`` begins the message.

    Raises:
        StreamDiffVSRError: The frame has too many pixels, or too many on one side.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise StreamDiffVSRError(
            failure,
            f"its frames are {width}x{height}, and at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS >> 20} megapixels are read",
        )


_HEIF_BRANDS = ("avif", "avis", "heic", "heix", "hevc", "hevx", "mif1", "msf1")
_BUFFER_BYTES = 1 << 18
_MAX_READ_ERRORS = 32  # in a row: a demuxer that returns only errors would go on for ever


class LocalFile:
    """A file without a name for libav, which then judges its content and opens no other file.

    Attributes:
        left: Bytes left to read before the file seems to end; None for no limit.
    """

    def __init__(self, path: Path) -> None:
        self.left: int | None = None
        self._file = path.open("rb")
        self.close = self._file.close
        if self._file.seekable():
            self.seek, self.tell = self._file.seek, self._file.tell

    def read(self, count: int) -> bytes:
        """Returns the next bytes."""
        if self.left is None:
            return self._file.read(count)
        found = self._file.read(min(count, self.left))
        self.left -= len(found)
        return found


def quiet() -> None:
    """Keeps libav's error lines countable, and out of the child's stderr."""
    logger = logging.getLogger("libav")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    av.logging.set_level(av.logging.ERROR)


def logged_errors() -> int:
    """Returns how many error lines libav has logged: some damage shows in no other way."""
    return av.logging.get_last_error()[0]


def decode_image(codec: str, data: bytes) -> Any:
    """Returns the frame of an encoded image, from a new decoder that keeps no earlier image.

    Raises:
        ValueError: There is no picture in it.
    """
    context: Any = av.CodecContext.create(codec, "r")
    context.options = {"max_pixels": str(MAX_PIXELS)}
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    if not frames:
        raise ValueError("no picture is in it")
    return frames[0]


def describe(error: BaseException) -> str:
    """Returns the cause in one line: libav's own words and its last error line."""
    if isinstance(error, OSError) and error.errno in CAUSES:
        return CAUSES[error.errno]
    text = str(getattr(error, "strerror", "") or error) or type(error).__name__
    log = getattr(error, "log", None)
    return f"{text} ({log[2].strip()})" if log else text


def open_video(path: Path, failure: str) -> InputContainer:
    """Opens a file that must hold video; ``failure`` begins the message if that fails.

    Raises:
        StreamDiffVSRError: It is missing, a folder, empty, unreadable, too damaged to open, not a
            media file, or has no video.
    """
    if not path.exists():
        raise StreamDiffVSRError(failure, "there is no such file", "check its name and folder")
    if path.is_dir():
        raise StreamDiffVSRError(failure, "it is a folder", "name the video file in it")
    if not os.access(path, os.R_OK):
        raise StreamDiffVSRError(failure, "no permission to read it")
    if path.is_file() and path.stat().st_size == 0:
        raise StreamDiffVSRError(failure, "the file is empty")
    try:
        container = open_input(path)
    except Exception as error:
        raise StreamDiffVSRError(failure, *_why_not_opened(path, error)) from error
    if moving_picture(container) is None:
        raise StreamDiffVSRError(failure, *_why_no_video(path, container))
    return container


def open_input(path: Path, reader: LocalFile | None = None) -> InputContainer:
    """Opens a local media file by its content, not its name; raises PyAV's errors.

    Args:
        reader: The file to read from, to limit what is read; None opens the path.
    """
    return av.open(
        reader or LocalFile(path),
        "r",
        format="mjpeg" if _begins_with_jpeg(path) else None,
        # No protocol: no demuxer opens what a file names.
        options={"format_whitelist": DEMUXERS, "protocol_whitelist": "none"},
        metadata_errors="replace",
        buffer_size=_BUFFER_BYTES,
    )


def _begins_with_jpeg(path: Path) -> bool:
    """Returns whether it begins with a JPEG: libav detects only longer Motion JPEG streams."""
    if not path.is_file():  # reading would consume a pipe
        return False
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def moving_picture(container: InputContainer) -> Any:
    """Returns the first video stream that is not a cover image; None if there is none.

    In AVIF and HEIF files, the longest one that is not the transparency of another.
    """
    cover = av.stream.Disposition.attached_pic
    found = [s for s in container.streams.video if not s.disposition & cover]
    if container.metadata.get("major_brand") in _HEIF_BRANDS:
        main = av.stream.Disposition.default
        found.sort(key=lambda s: (-s.frames, not s.disposition & main))
    return found[0] if found else None


def packets(container: InputContainer, streams: Sequence[Any]) -> Iterator[Any]:
    """Yields packets of the streams, then flush packets; None for each error of the demuxer.

    A damaged stretch is skipped, as libav can often continue after it.
    """
    errors_in_a_row = 0
    while errors_in_a_row < _MAX_READ_ERRORS:
        try:
            for packet in container.demux(streams):
                errors_in_a_row = 0
                yield packet
            return
        except Exception:  # the demuxer raises IndexError too, not only FFmpegError
            errors_in_a_row += 1
            yield None


def _why_not_opened(path: Path, error: Exception) -> tuple[str, str]:
    _, name, line = getattr(error, "log", None) or (0, "", "")
    refused = "ormat not on whitelist" in line
    if refused or isinstance(error, av.error.InvalidDataError):
        return diagnosis.why_not_opened(path, describe(error), name if refused else "")
    if encrypted := diagnosis.encryption(path):  # garbage fails in many ways
        return encrypted
    if isinstance(error, EOFError) or diagnosis.is_cut(path):
        return "it is cut off before its first frame", "copy or download it again"
    return describe(error), ""


def _why_no_video(path: Path, container: InputContainer) -> tuple[str, str]:
    streams = container.streams
    others = [
        name
        for name, found in (("sound", streams.audio), ("subtitles", streams.subtitles))
        if found
    ]
    if not others and (encrypted := diagnosis.encryption(path)):
        return encrypted
    return f"it has no video stream{', only ' if others else ''}{' and '.join(others)}", ""
