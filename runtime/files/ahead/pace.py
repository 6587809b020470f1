"""How fast opened engines are here, from a few frames, for the time a job will take.

Knows no files. A measurement worth its name is `bench`'s; this is one for people who wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

import numpy as np
import numpy.typing as npt

from ..job import FrameUpscaler

WORTH_FRAMES = 40  # of a shorter job the frames would be a noticeable part, and it ends soon
TIMED = 3  # frames behind the first, which has no previous frame and finds nothing warm
ENOUGH_S = 1.5  # or fewer, where they are slow


def seconds_per_frame(upscaler: FrameUpscaler, frames: int | None) -> float | None:
    """The median of a few frames; None for a job too short for that.

    Args:
        frames: Of the job; None if it is not known.
    """
    if frames is not None and frames < WORTH_FRAMES:
        return None
    outputs = upscaler.stream(_grey_frames(upscaler.size))
    ends = []
    try:
        for _ in outputs:
            ends.append(time.perf_counter())
            if len(ends) > TIMED or (len(ends) > 1 and ends[-1] - ends[0] > ENOUGH_S):
                break
    finally:
        outputs.close()  # ends what reads ahead
    return median(later - earlier for earlier, later in pairwise(ends))


def _grey_frames(size: tuple[int, int]) -> Iterator[npt.NDArray[np.uint8]]:
    frame = np.full((*size, 3), 128, np.uint8)
    for _ in range(TIMED + 2):  # a stream may take one more than it gives back
        yield frame
