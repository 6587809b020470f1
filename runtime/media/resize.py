"""Resizes RGB arrays."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from ...graphs.arrays import Image

_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


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
        interpolation=_QUALITY,
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
