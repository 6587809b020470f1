"""Bicubic resizing by swscale: what a frame gets when the model cannot make it in time.

The one use of libav outside a child process: it works on pixels that were decoded already, opens
nothing and waits for nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

Image = npt.NDArray[np.uint8]
_RESIZE_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def resized(
    image: Image, size: tuple[int, int], reformatter: VideoReformatter | None = None
) -> Image:
    """(h, w, 3) uint8 RGB -> (*size, 3) uint8 RGB.

    Args:
        reformatter: One to be used again, which is quicker; not for several threads at once.
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
        """(h, w, 3) uint8 RGB -> (scale h, scale w, 3) uint8 RGB."""
        size = self._scale * image.shape[0], self._scale * image.shape[1]
        return resized(image, size, self._reformatter)
