"""The frame loop of one range of a file: read, upscale, write, record the checkpoint."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import Bare, StreamDiffVSRError, option
from ...graphs.arrays import Image, Image16
from ...graphs.spec import SCALE, format_size
from ..frame_stream import CutDetector, Thumbnail, Upscaled
from ..media.reader import FileSource, SourceFrame
from ..media.writer import SegmentWriter
from ..state import StreamState
from .checkpoint import Checkpoint, Segmenter, Times, frames_of
from .job import FrameUpscaler, Job
from .journal import Journal

Floats = npt.NDArray[np.float32]


def restore_16bit(hr: npt.NDArray[np.floating], image: Image, deep: Image16) -> Image16:
    """Returns the output frame with 16 bits: (H, W, 3) uint16 RGB [0, 65535].

    Args:
        hr: The raw output (1, 3, H, W), nominally in [-1, 1].
        image: The input frame that it was made of, (h, w, 3) uint8 RGB.
        deep: The same input frame, (h, w, 3) uint16 RGB.
    """
    lost: Floats = (deep / np.float32(65535) - image / np.float32(255)).astype(np.float32)
    unit: Floats = hr[0].astype(np.float32).transpose(1, 2, 0) / 2 + np.float32(0.5)
    whole: Image16 = np.rint(np.clip(unit + enlarged(lost), 0, 1) * 65535).astype(np.uint16)
    return whole


def enlarged(values: Floats) -> Floats:
    """Returns (4h, 4w, 3) of (h, w, 3), linear between pixel centres, constant at the edges."""
    return _along(_along(values, 0), 1)


def _along(values: Floats, axis: int) -> Floats:
    low = np.moveaxis(values, axis, 0)
    before, after = np.concatenate([low[:1], low[:-1]]), np.concatenate([low[1:], low[-1:]])
    high = np.empty((SCALE * len(low), *low.shape[1:]), np.float32)
    for phase in range(SCALE):
        offset = np.float32((phase + 0.5) / SCALE - 0.5)
        other = after if offset > 0 else before
        high[phase::SCALE] = low + abs(offset) * (other - low)
    return np.moveaxis(high, 0, axis)


@dataclass(frozen=True, slots=True)
class FrameRange:
    """A range of a job's frames, which is one part of the job.

    Attributes:
        number: The index of the part, from 0.
        first: The index in the job of its first frame; unless 0, that frame begins a scene.
        frames: The number of its frames; None means all to the end.
        pts: The file's time of the frame before the first, in ticks; None at the job's start.
        times: The timeline after that frame.
    """

    number: int = 0
    first: int = 0
    frames: int | None = None
    pts: int | None = None
    times: Times = field(default_factory=Times)

    @property
    def name(self) -> str:
        """The name of the part's folder."""
        return f"part-{self.number:03d}"


def upscale_range(
    job: Job, part: FrameRange, folder: Path, upscaler: FrameUpscaler, tell: Callable[[int], None]
) -> Journal:
    """Upscales the frames of a part that its journal does not have yet, and returns the journal.

    Args:
        folder: The folder of the job's parts.
        tell: Called with the number of frames done, including those of earlier runs.

    Raises:
        StreamDiffVSRError: The input's frames change size, the input is no longer what it was, or
            the disk is full. The journal keeps what was finished before.
    """
    journal = Journal.open(folder / part.name)
    state = StreamState(seed=job.options.seed, frame_index=part.first)
    start = journal.point or Checkpoint(0, state, None, part.pts, part.times)
    if part.frames is not None and start.frames >= part.frames:
        return journal
    source, frames = frames_of(job, start, part.first)
    marked = _mark_cuts(job, part, start, frames)
    segments = Segmenter()
    with (
        source,
        _journalled(job, part, journal, start, source) as output,
        closing(upscaler.stream_frames(marked, start.state)) as upscaled,
    ):
        for frame in upscaled:
            if segments.starts_segment(frame.source.cut):
                output.begin_segment()
            output.write(frame)
            if segments.full:
                output.save_point(frame.state)
            output.commit()
            tell(output.checkpoint.frames)
    return journal


@dataclass(frozen=True, slots=True)
class MarkedFrame:
    """A frame of the input.

    Attributes:
        cut: Whether it begins a new scene.
        thumbnail: The memory of the cut detector after this frame.
    """

    frame: SourceFrame
    cut: bool
    thumbnail: Thumbnail | None

    @property
    def image(self) -> Image:
        """(h, w, 3) uint8 RGB."""
        return self.frame.image


def _mark_cuts(
    job: Job, part: FrameRange, start: Checkpoint, frames: Iterator[SourceFrame]
) -> Iterator[MarkedFrame]:
    """Yields the frames up to the end of the part or job, and reads none after it."""
    detector = CutDetector()
    detector.memory = start.cuts
    for done, frame in enumerate(frames, start.frames):
        if job.is_end(part.first + done, frame):
            return
        _check_same_size(job, frame)
        cut = job.options.scene_cuts and detector.is_cut(frame.image)
        yield MarkedFrame(frame, cut, detector.memory)
        if done + 1 == part.frames:
            return


@contextmanager
def _journalled(
    job: Job, part: FrameRange, journal: Journal, start: Checkpoint, source: FileSource
) -> Iterator[_JournalledSegments]:
    """Gives the block a part's output, which enters every segment into the journal once complete.

    An exception in the block removes the incomplete segment.
    """
    writer = SegmentWriter(
        journal.folder,
        size=job.output_size,
        like=job.info,
        format=job.format,
        first_index=part.first + start.frames,
        after_pts=start.times.last,
    )
    output = _JournalledSegments(writer, journal, start, source)
    try:
        with writer:
            yield output
            output.end_segment()
    finally:
        output.commit()


class _JournalledSegments:
    """Writes segments, and a checkpoint for the end of each.

    Attributes:
        checkpoint: The checkpoint after the last frame that was written.
    """

    def __init__(
        self, writer: SegmentWriter, journal: Journal, start: Checkpoint, source: FileSource
    ) -> None:
        self._writer, self._journal, self._source = writer, journal, source
        self.checkpoint, self._damaged_before = start, start.damaged
        self._segment = ""
        # The encoder of a killed run may still remove its files: names must not be the same.
        self._token = secrets.token_hex(4)
        self._points: dict[str, Checkpoint] = {}  # by the segment that ends there

    def begin_segment(self) -> None:
        """Starts a new segment for the following frames."""
        if self._segment not in self._points:  # it ends at a cut
            self.end_segment()
        self._segment = f"{self.checkpoint.frames:09d}-{self._token}"
        self._writer.begin(self._segment)

    def end_segment(self) -> None:
        """Saves the checkpoint at the end of the segment, if there is one; a cut follows it."""
        if self._segment:
            self.save_point(self.checkpoint.state)

    def save_point(self, state: StreamState) -> None:
        """Saves what the frame after the current segment needs, before the segment is committed.

        Args:
            state: The state that the next frame continues from.
        """
        point = replace(self.checkpoint, state=state)
        self._journal.save_point(point)
        self._points[self._segment] = point

    def write(self, made: Upscaled[MarkedFrame]) -> None:
        """Writes a frame into the current segment, with 16 bits where the input has them."""
        frame, before = made.source.frame, self.checkpoint
        times = before.times.after(frame.pts, frame.duration)
        assert times.last is not None
        picture: Image | Image16 = made.image
        if frame.deep is not None:
            picture = restore_16bit(made.raw(), frame.image, frame.deep)
        self._writer.write(picture, times.last, frame.time_base, frame.duration)
        self.checkpoint = Checkpoint(
            frames=before.frames + 1,
            state=made.state.reset(),
            cuts=made.source.thumbnail,
            pts=frame.pts,
            times=times,
            found_cuts=before.found_cuts + made.source.cut,
            damaged=self._damaged_before + self._source.damaged,
        )

    def commit(self) -> None:
        """Enters the segments that are complete and on the disk into the journal."""
        for segment in self._writer.finished():
            self._journal.commit(segment.to_json(), self._points.pop(segment.name))


def _check_same_size(job: Job, frame: SourceFrame) -> None:
    height, width = frame.image.shape[:2]
    if (height, width) != job.info.size:
        end = f"{float(frame.pts * frame.time_base - job.first_seconds):.3f}"
        raise StreamDiffVSRError(
            f"could not upscale {str(job.input)!r}",
            f"its frames change from {format_size(job.info.size)} to "
            f"{format_size((height, width))} at {frame.seconds:.2f} s",
            f"upscale it in parts: {option('end', Bare(end))} first",
        )
