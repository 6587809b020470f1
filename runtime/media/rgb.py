"""One RGB frame in libav's own memory, and the YUV made of it.

Runs in the child. The bytes of a frame are read straight from the pipe to where libav takes them,
if its rows are not padded. It knows nothing of encoders, and chooses no colours.
"""

from __future__ import annotations

from typing import Any

from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from .colour import FULL

_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class RgbFrame:
    """The frame that every message of pixels is read into.

    Args:
        size: (H, W).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        self._row_bytes = 3 * width
        self._frame = VideoFrame(width, height, "rgb24")
        self._padded = self._frame.planes[0].line_size != self._row_bytes
        self._reformatter = VideoReformatter()

    @property
    def video_frame(self) -> VideoFrame:
        """The RGB frame itself, for an encoder that takes RGB."""
        return self._frame

    def memory(self, count: int) -> memoryview:
        """Where the payload of a message is read to."""
        if self._padded or count == 0:
            return memoryview(bytearray(count))
        return memoryview(self._frame.planes[0])

    def take(self, pixels: memoryview) -> None:
        """Use what was read to :meth:`memory`."""
        if not self._padded:
            return
        rows, step = memoryview(self._frame.planes[0]), self._frame.planes[0].line_size
        for row in range(self._frame.height):
            source = pixels[row * self._row_bytes : (row + 1) * self._row_bytes]
            rows[row * step : row * step + self._row_bytes] = source

    def converted(self, pixel_format: str, swscale_matrix: int, colour_range: int) -> Any:
        """A frame of its own in a YUV format, of that matrix and range."""
        return self._reformatter.reformat(
            self._frame,
            format=pixel_format,
            src_color_range=FULL,
            dst_colorspace=swscale_matrix,
            dst_color_range=colour_range,
            interpolation=_QUALITY,
        )
