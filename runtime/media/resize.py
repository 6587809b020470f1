"""Bicubic enlargement by swscale: what a frame gets when the model cannot make it in time.

The one use of libav outside a child process: it works on pixels that were decoded already, opens
nothing and waits for nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

Image = npt.NDArray[np.uint8]
_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Bicubic:
    """Enlarges frames by a whole factor; not for several threads at once."""

    def __init__(self, scale: int) -> None:
        self._scale = scale
        self._reformatter = VideoReformatter()

    def __call__(self, image: Image) -> Image:
        """(h, w, 3) uint8 RGB -> (scale h, scale w, 3) uint8 RGB."""
        height, width = self._scale * image.shape[0], self._scale * image.shape[1]
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        large = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=_QUALITY
        )
        pixels: Image = large.to_ndarray().astype(np.uint8, copy=False)
        return pixels
