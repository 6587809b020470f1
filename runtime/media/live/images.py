"""A folder of numbered images: one file for each frame, whole or not there.

Runs in the child. PNG keeps every pixel; JPEG is what every viewer expects of one: BT.601, full
range. The times of the frames are not kept. It does not choose names.
"""

from __future__ import annotations

import contextlib
import errno
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ...disk import beside
from ..frames.colour import FULL
from ..frames.rgb import RgbFrame

_SWS_BT601 = 5  # swscale's own number of it
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "png": ("rgb24", {"compression_level": "1", "pred": "up"}),
    "mjpeg": ("yuvj420p", {"qmin": "2", "qmax": "2"}),
}


class ImageSeries:
    """Writes FOLDER / (NAME % number) for numbers from ``first``."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._height, self._width = arguments["size"]
        self._rgb = RgbFrame((self._height, self._width))
        self.encoder: str = arguments["format"]
        self._folder, self._name = Path(arguments["path"]).parent, Path(arguments["path"]).name
        self._number: int = arguments["first"]
        self._overwrite: bool = arguments["overwrite"]
        self._folder.mkdir(exist_ok=True)
        self._pixel_format, self._options = _ENCODERS[self.encoder]
        self._encode(0)  # what the codec refuses is told now

    def memory(self, count: int) -> memoryview:
        """As ``Output``."""
        return self._rgb.memory(count)

    def write(self, pixels: memoryview, ticks: int) -> None:
        """As ``Output``."""
        self._rgb.take(pixels)
        path = self._folder / (self._name % self._number)
        if not self._overwrite and path.exists():
            raise FileExistsError(errno.EEXIST, "it already exists")
        part = beside(path, ".", ".part")
        try:
            part.write_bytes(self._encode(ticks))
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        self._number += 1

    def close(self) -> None:
        """As ``Output``."""

    def _encode(self, ticks: int) -> bytes:
        context: Any = av.CodecContext.create(self.encoder, "w")  # a new one: each stands alone
        context.width, context.height = self._width, self._height
        context.pix_fmt, context.time_base = self._pixel_format, Fraction(1, 90000)
        context.options = self._options
        frame = self._rgb.video_frame
        if self._pixel_format != "rgb24":
            frame = self._rgb.converted(self._pixel_format, _SWS_BT601, FULL)
        frame.pts = ticks
        return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])
