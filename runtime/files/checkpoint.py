"""Checkpoints, from which a job can be resumed: frame times, segment boundaries and states."""

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
from ...graphs.arrays import Image
from ..frame_stream import Thumbnail
from ..media.reader import FileSource, SourceFrame
from ..state import StreamState
from .job import Job


@dataclass(frozen=True, slots=True)
class Times:
    """The position of a stream of frames in time, in ticks.

    Attributes:
        offset: The offset that is added to the file's times since the last jump.
        last: The time of the last frame, as written; None before the first.
        step: The time from the frame before the last one to the last one.
        late: The time by which the last frame is shown later than its own time plus the offset.
        before: The offset before the last jump, which may have affected one frame only.
        retimed: The number of frames that were moved so far; a jump counts as one.
    """

    offset: int = 0
    last: int | None = None
    step: int = 0
    late: int = 0
    before: int = 0
    retimed: int = 0

    def after(self, pts: int, duration: int | None) -> Times:
        """Returns the position after the next frame, given its time and duration in the file."""
        offset = self.before if self._is_back(pts) else self.offset
        own = pts + offset
        if self.last is None or own >= self.last:
            step = duration or (0 if self.last is None else own - self.last) or self.step
            return replace(self, offset=offset, last=own, step=step, late=0)
        step = max(1, self.step)
        moved = replace(self, step=duration or self.step, retimed=self.retimed + 1)
        if self.last - self.late - own < step:  # no jump: it is early by less than a frame
            shown = self.last + (1 if self.late else step)
            return replace(moved, last=shown, late=shown - own)
        shown = self.last + step
        return replace(moved, offset=offset + shown - own, last=shown, late=0, before=offset)

    def _is_back(self, pts: int) -> bool:
        """Returns whether the clock is where it would be without its last jump."""
        if self.last is None or self.before == self.offset or pts + self.before < self.last:
            return False
        expected = self.last + max(1, self.step)
        return abs(pts + self.before - expected) < abs(pts + self.offset - expected)


SHORTEST = 24  # frames: flicker that looks like cuts must not start an encoder each time
LONGEST = 120  # frames: the most that a crash may cost


class Segmenter:
    """Divides frames into segments, which begin at cuts and have a limited length."""

    def __init__(self) -> None:
        self._length = 0

    def starts_segment(self, cut: bool) -> bool:
        """Returns whether the next frame, which may be a cut, starts a segment, and counts it."""
        first = self._length == 0 or self.full or (cut and self._length >= SHORTEST)
        self._length = 1 if first else self._length + 1
        return first

    @property
    def full(self) -> bool:
        """Returns whether the current segment takes no more frames."""
        return self._length >= LONGEST


def frames_of(
    job: Job, after: Checkpoint | None = None, first: int = 0
) -> tuple[FileSource, Iterator[SourceFrame]]:
    """Returns the source, which the caller closes, and its frames after a checkpoint, or all.

    Args:
        first: The index in the job of the first frame of the checkpoint's part.

    Raises:
        StreamDiffVSRError: The input is no longer what it was.
    """
    if after is None or after.pts is None:
        return _from_start(job)
    image = after.state.previous_lr
    if after.times.offset == 0 and after.damaged == 0:  # else it cannot be found by its time
        source = job.open(float(after.pts * job.info.time_base))
        for frame in source:
            if frame.pts == after.pts and _same(frame, image):
                return source, source
            if frame.pts > after.pts:
                break
        source.close()
    source, frames = _from_start(job)
    found = next(itertools.islice(frames, first + after.frames - 1, None), None)
    if found is None or found.pts != after.pts or not _same(found, image):
        source.close()
        raise StreamDiffVSRError(
            f"could not go on with {str(job.output)!r}",
            f"{str(job.input)!r} has other frames than before",
            f"start over with {option('overwrite', True)}",
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
    """All that a run needs to go on after a frame of its part.

    Attributes:
        frames: The number of the part's frames up to here.
        state: The state of the stream.
        cuts: The memory of the cut detector.
        pts: The last frame's time in the file, in ticks; None at the start.
        times: The timeline after the last frame.
        found_cuts: The number of scene cuts in the part so far.
        damaged: The number of damaged packets so far.
    """

    frames: int
    state: StreamState
    cuts: Thumbnail | None
    pts: int | None
    times: Times
    found_cuts: int = 0
    damaged: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns all but the pictures, which `save` writes."""
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
        """Writes the pictures, and returns when they are on the disk.

        Raises:
            OSError, StreamDiffVSRError: The pictures cannot be written; the disk is full, say.
        """
        if self.state.has_previous:
            self.state.save(_path(folder, self.frames, STATE))
        if self.cuts is not None:
            content = io.BytesIO()  # numpy's own writing hides why a disk refuses
            np.save(content, self.cuts)
            with _path(folder, self.frames, CUTS).open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())

    @classmethod
    def load(cls, folder: Path, fields: Mapping[str, Any]) -> Checkpoint | None:
        """Returns what `to_json` and `save` wrote; None if the pictures are lost or damaged."""
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
    """Removes the pictures of all but the last checkpoints."""
    for suffix in POINT_SUFFIXES:
        for path in sorted(folder.glob(f"*{suffix}"))[:-MAX_CHECKPOINTS]:
            path.unlink(missing_ok=True)


def _path(folder: Path, frames: int, suffix: str) -> Path:
    return folder / f"{frames:09d}{suffix}"
