"""Where a job can be resumed: frame times, segment boundaries, and the state at each."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError, option
from ..media.reader import FileSource, SourceFrame
from ..scene_cuts import Thumbnail
from ..state import StreamState
from .job import Image, Job


@dataclass(frozen=True, slots=True)
class Times:
    """Where a stream of frames is in time, in ticks; immutable, so that it can be written down.

    Attributes:
        offset: What is added to the file's times since the last jump.
        last: Of the last frame, as written; None before the first.
        step: From the frame before it to the last one.
        late: How much later than by its time and the offset the last frame is shown.
        before: The offset before the last jump, which may have been of one frame only.
        retimed: Frames so far that were moved, those of a jump counted once.
    """

    offset: int = 0
    last: int | None = None
    step: int = 0
    late: int = 0
    before: int = 0
    retimed: int = 0

    def after(self, pts: int, duration: int | None) -> Times:
        """With the next frame, of the file's time and duration: `last` is when it is shown."""
        offset = self.before if self._is_back(pts) else self.offset
        own = pts + offset
        if self.last is None or own >= self.last:
            step = duration or (0 if self.last is None else own - self.last) or self.step
            return replace(self, offset=offset, last=own, step=step, late=0)
        step = max(1, self.step)
        moved = replace(self, step=duration or self.step, retimed=self.retimed + 1)
        if self.last - self.late - own < step:  # no jump: early by less than a frame
            shown = self.last + (1 if self.late else step)
            return replace(moved, last=shown, late=shown - own)
        shown = self.last + step
        return replace(moved, offset=offset + shown - own, last=shown, late=0, before=offset)

    def _is_back(self, pts: int) -> bool:
        """Whether the clock is where it would be without its last jump."""
        if self.last is None or self.before == self.offset or pts + self.before < self.last:
            return False
        expected = self.last + max(1, self.step)
        return abs(pts + self.before - expected) < abs(pts + self.offset - expected)


SHORTEST = 24  # frames: a flicker that looks like cuts must not start an encoder each time
LONGEST = 120  # frames: what a crash may cost


class Segmenter:
    """Counts the frames of the running segment."""

    def __init__(self) -> None:
        self._length = 0

    def starts_segment(self, cut: bool) -> bool:
        """Whether the next frame, a cut or not, is the first of a segment; it is counted."""
        first = self._length == 0 or self.full or (cut and self._length >= SHORTEST)
        self._length = 1 if first else self._length + 1
        return first

    @property
    def full(self) -> bool:
        """Whether the running segment takes no more frames."""
        return self._length >= LONGEST


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
            f"begin anew with {option('overwrite', True)}",
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


STATE, CUTS = POINT_SUFFIXES = (".state", ".cuts")
MAX_CHECKPOINTS = 3  # the last, the one before it if that is damaged, one of an unfinished segment


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run leaves behind a frame.

    Attributes:
        frames: How many came before it, in the part.
        state: Of the stream.
        cuts: The memory of the cut detector.
        pts: The file's own time of the last frame, in ticks.
        times: Where the last frame was put.
        found_cuts: Scene cuts so far, in the part.
        damaged: Damaged packets so far.
    """

    frames: int
    state: StreamState
    cuts: Thumbnail | None
    pts: int | None
    times: Times
    found_cuts: int = 0
    damaged: int = 0

    def to_json(self) -> dict[str, Any]:
        """All but the pictures, which `save` writes."""
        return {
            "frames": self.frames,
            "state": {"seed": self.state.seed, "frame_index": self.state.frame_index},
            "guided": self.state.has_previous,
            "seen": self.cuts is not None,
            "pts": self.pts,
            "times": asdict(self.times),
            "found_cuts": self.found_cuts,
            "damaged": self.damaged,
        }

    def save(self, folder: Path) -> None:
        """Write the pictures, and return when they are on the disk.

        Raises:
            OSError, StreamDiffVSRError: The disk is full.
        """
        if self.state.has_previous:
            self.state.save(_path(folder, self.frames, STATE))
        if self.cuts is not None:
            content = io.BytesIO()  # numpy's own writing hides why a disk takes no more
            np.save(content, self.cuts)
            with _path(folder, self.frames, CUTS).open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())

    @classmethod
    def load(cls, folder: Path, fields: Mapping[str, Any]) -> Checkpoint | None:
        """What `to_json` and `save` wrote; None if the pictures are gone or damaged."""
        state, cuts, frames = StreamState(**fields["state"]), None, fields["frames"]
        try:
            if fields["guided"]:
                state = StreamState.load(_path(folder, frames, STATE))
            if fields["seen"]:
                cuts = np.load(_path(folder, frames, CUTS), allow_pickle=False)
        except (StreamDiffVSRError, OSError, ValueError):
            return None
        return cls(
            frames=frames,
            state=state,
            cuts=cuts,
            pts=fields["pts"],
            times=Times(**fields["times"]),
            found_cuts=fields["found_cuts"],
            damaged=fields["damaged"],
        )


def forget_old_points(folder: Path) -> None:
    """Remove the pictures of all but the last points."""
    for suffix in POINT_SUFFIXES:
        for path in sorted(folder.glob(f"*{suffix}"))[:-MAX_CHECKPOINTS]:
            path.unlink(missing_ok=True)


def _path(folder: Path, frames: int, suffix: str) -> Path:
    return folder / f"{frames:09d}{suffix}"
