"""Where in the input a run begins: at its start, at a time, or behind a frame of an earlier run.

Seeking is a matter of trust: it is believed only where the frame that is looked for is found by its
time and, where that is known, is the very same picture. Else everything before is decoded again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import StreamDiffVSRError
from ..media.source import FileSource, SourceFrame
from .job import Image, Job


@dataclass(frozen=True, slots=True)
class ResumeAfter:
    """The frame that a run begins behind.

    Attributes:
        frames: Of the job, up to and with it.
        pts: The file's own time of it, in ticks.
        image: The frame, where it is known.
        sought: Whether times name frames: not where they jump back, or where there is damage.
    """

    frames: int
    pts: int
    image: Image | None
    sought: bool


def frames_of(job: Job, behind: ResumeAfter | None) -> tuple[FileSource, Iterator[SourceFrame]]:
    """The frames from there on, and the source that they come from, to be closed.

    Raises:
        StreamDiffVSRError: The input is no longer what it was.
    """
    if behind is None:
        return _from_start(job)
    if behind.sought:
        source = job.open(float(behind.pts * job.info.time_base))
        for frame in source:
            if frame.pts == behind.pts and _same(frame, behind.image):
                return source, source
            if frame.pts > behind.pts:
                break
        source.close()
    source, frames = _from_start(job)
    last = next(itertools.islice(frames, behind.frames - 1, None), None)
    if last is None or last.pts != behind.pts or not _same(last, behind.image):
        source.close()
        raise StreamDiffVSRError(
            f"could not go on with {str(job.output)!r}",
            f"{str(job.input)!r} has other frames than before",
            "begin anew with --overwrite",
        )
    return source, frames


def _from_start(job: Job) -> tuple[FileSource, Iterator[SourceFrame]]:
    start = job.start_seconds
    if start is None:
        source = job.open(None)
        return source, source
    source = job.open(float(start))
    return source, itertools.dropwhile(lambda f: f.pts * f.time_base < start, source)


def _same(frame: SourceFrame, image: Image | None) -> bool:
    return image is None or np.array_equal(frame.image, image)
