"""What is upscaled: the built-in clip at any size, forward and backward without end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ...demo_clip import CLIP
from ...runtime.media.frames.resize import resized
from ...runtime.media.source import FileSource
from ...spec import Size

Image = npt.NDArray[np.uint8]
LENGTH = 24  # frames of the clip; more would be megabytes of the same


@lru_cache(maxsize=8)
def clip(size: Size) -> tuple[Image, ...]:
    """Frames of the built-in clip, (h, w, 3) uint8 RGB.

    Raises:
        StreamDiffVSRError: The clip is not there, or cannot be decoded.
    """
    with FileSource(CLIP) as source:
        frames = [frame.image for frame, _ in zip(source, range(LENGTH), strict=False)]
    return tuple(resized(frame, size) for frame in frames)


def endless(size: Size) -> Iterator[Image]:
    """The clip to and fro, so that every frame moves a little from the one before it."""
    frames = clip(size)
    order = [*frames, *frames[-2:0:-1]]
    while True:
        yield from order
