"""Converts RGB arrays to the frames that encoders take, and resizes RGB arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from ...graphs.arrays import Image
from .colour import FULL

_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_PLANAR_BITS = {"gbrp10le": 10, "gbrp12le": 12, "gbrp16le": 16}


class RgbFrame:
    """The frame that every message of pixels is read into.

    Args:
        size: (H, W) of the frame.
        deep: Whether pixels are uint16 [0, 65535] in native byte order, not uint8.
    """

    def __init__(self, size: tuple[int, int], *, deep: bool = False) -> None:
        height, width = size
        self._row_bytes = (6 if deep else 3) * width
        self._frame = VideoFrame(width, height, native("rgb48") if deep else "rgb24")
        self._deep = deep
        self._padded = self._frame.planes[0].line_size != self._row_bytes
        self._squeezed = VideoFrame(width, height, self._frame.format.name) if deep else None
        self._reformatter = VideoReformatter()

    @property
    def video_frame(self) -> VideoFrame:
        """The RGB frame itself, for an encoder that takes RGB."""
        return self._frame

    def memory(self, count: int) -> memoryview:
        """Returns the buffer that the payload of a message is read into."""
        if self._padded or count == 0:
            return memoryview(bytearray(count))
        return memoryview(self._frame.planes[0])

    def take(self, pixels: memoryview) -> None:
        """Fills the frame from the buffer of :meth:`memory`."""
        if not self._padded:
            return
        rows, step = memoryview(self._frame.planes[0]), self._frame.planes[0].line_size
        for row in range(self._frame.height):
            source = pixels[row * self._row_bytes : (row + 1) * self._row_bytes]
            rows[row * step : row * step + self._row_bytes] = source

    def put(self, image: Image) -> None:
        """Fills the frame from an array, (H, W, 3) uint8 RGB."""
        rows = np.frombuffer(memoryview(self._frame.planes[0]), np.uint8)
        rows = rows.reshape(self._frame.height, -1)
        rows[:, : self._row_bytes] = image.reshape(self._frame.height, -1)

    def converted(
        self,
        pixel_format: str,
        swscale_matrix: int,
        colour_range: int,
        *,
        size: tuple[int, int] | None = None,
    ) -> Any:
        """Returns a new frame, in a YUV format of that matrix and range or in an RGB format.

        Args:
            size: (H, W) to resize to; None keeps the size.
        """
        if pixel_format in _PLANAR_BITS and self._deep:
            return self._planar(pixel_format)
        return self._reformatter.reformat(
            self._frame if self._squeezed is None else self._squeeze(self._squeezed),
            width=size and size[1],
            height=size and size[0],
            format=pixel_format,
            src_color_range=FULL,
            dst_colorspace=swscale_matrix,
            dst_color_range=colour_range,
            interpolation=_QUALITY,
        )

    def _squeeze(self, made: VideoFrame) -> VideoFrame:
        """Returns the frame with white at 255 * 256, as swscale assumes."""
        source, target = (
            np.frombuffer(memoryview(frame.planes[0]), np.uint16) for frame in (self._frame, made)
        )
        np.right_shift(source, 8, out=target)
        np.subtract(source, target, out=target)
        return made

    def _planar(self, pixel_format: str) -> VideoFrame:
        """Returns a planar frame, rounded to the nearest value: swscale would truncate."""
        largest = (1 << _PLANAR_BITS[pixel_format]) - 1
        rgb = self._frame.to_ndarray().astype(np.uint32)
        parts = ((rgb * largest + 32767) // 65535).astype("<u2")
        made = VideoFrame(self._frame.width, self._frame.height, pixel_format)
        for plane, channel in zip(made.planes, (1, 2, 0), strict=True):
            rows = np.frombuffer(memoryview(plane), "<u2").reshape(
                plane.height, plane.line_size // 2
            )
            rows[:, : plane.width] = parts[..., channel]
        return made


def native(name: str) -> str:
    """Returns libav's name of a 16-bit pixel format in native byte order."""
    return name + ("le" if np.little_endian else "be")


_RESIZE_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def resized(
    image: Image, size: tuple[int, int], reformatter: VideoReformatter | None = None
) -> Image:
    """Resizes (h, w, 3) uint8 RGB to (*size, 3) uint8 RGB.

    Args:
        reformatter: One to reuse, which is faster; not for several threads at once.
    """
    height, width = size
    frame = (reformatter or VideoReformatter()).reformat(
        VideoFrame.from_ndarray(image, format="rgb24"),
        width=width,
        height=height,
        format="rgb24",
        interpolation=_RESIZE_QUALITY,
    )
    pixels: Image = frame.to_ndarray().astype(np.uint8, copy=False)
    return pixels


class Bicubic:
    """Enlarges frames by a whole factor; not for several threads at once."""

    def __init__(self, scale: int) -> None:
        self._scale = scale
        self._reformatter = VideoReformatter()

    def __call__(self, image: Image) -> Image:
        """Enlarges (h, w, 3) uint8 RGB to (scale h, scale w, 3) uint8 RGB."""
        size = self._scale * image.shape[0], self._scale * image.shape[1]
        return resized(image, size, self._reformatter)
