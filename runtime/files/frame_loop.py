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
from ...graphs.spec import SCALE, format_size
from ..frame_stream import Upscaled
from ..media.reader import FileSource, SourceFrame
from ..media.writer import SegmentWriter
from ..scene_cuts import CutDetector, Thumbnail
from ..state import StreamState
from .checkpoint import Checkpoint, ResumeAfter, Segmenter, Times, frames_of
from .job import FrameUpscaler, Image, Job
from .journal import Journal

Image16 = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]


def restore_16bit(hr: npt.NDArray[np.floating], image: Image, deep: Image16) -> Image16:
    """The output frame, (H, W, 3) uint16 RGB [0, 65535].

    Args:
        hr: The raw output (1, 3, H, W), nominally in [-1, 1].
        image: The input that it was made of, (h, w, 3) uint8 RGB.
        deep: The same picture, (h, w, 3) uint16 RGB.
    """
    lost: Floats = (deep / np.float32(65535) - image / np.float32(255)).astype(np.float32)
    unit: Floats = hr[0].astype(np.float32).transpose(1, 2, 0) / 2 + np.float32(0.5)
    whole: Image16 = np.rint(np.clip(unit + enlarged(lost), 0, 1) * 65535).astype(np.uint16)
    return whole


def enlarged(values: Floats) -> Floats:
    """(h, w, 3) -> (4h, 4w, 3), linear between the centres of pixels, constant at the edges."""
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
    """Which frames of a job.

    Attributes:
        number: Its place among the parts.
        first: How many frames of the job come before it; its first one begins a scene then.
        frames: How many it has; None: all to the end.
        pts: The file's own time of the frame before its first, in ticks; None at the job's start.
        times: Where that frame was put.
    """

    number: int = 0
    first: int = 0
    frames: int | None = None
    pts: int | None = None
    times: Times = field(default_factory=Times)

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"part-{self.number:03d}"


def upscale_range(
    job: Job, part: FrameRange, folder: Path, upscaler: FrameUpscaler, tell: Callable[[int], None]
) -> Journal:
    """Upscale the frames of a part that its journal does not have yet.

    Args:
        folder: Of the job's parts.
        tell: Called with the frames done, those of earlier runs included.

    Raises:
        StreamDiffVSRError: The input's frames change size, it is not what it was, or the disk is
            full. The journal has what was finished before.
    """
    journal = Journal.open(folder / part.name)
    state = StreamState(seed=job.options.seed, frame_index=part.first)
    start = journal.point or Checkpoint(0, state, None, part.pts, part.times)
    if part.frames is not None and start.frames >= part.frames:
        return journal
    source, frames = frames_of(job, _behind(part, start))
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
                output.hold(frame.state)
            output.commit()
            tell(output.checkpoint.frames)
    return journal


@dataclass(frozen=True, slots=True)
class MarkedFrame:
    """A frame of the input.

    Attributes:
        cut: Whether it begins another scene.
        thumbnail: What the detector of cuts remembers after it.
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
    """The frames up to the end of the part or of the job, and not one more is read."""
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


def _behind(part: FrameRange, point: Checkpoint) -> ResumeAfter | None:
    if point.pts is None:
        return None
    count = part.first + point.frames
    sought = point.times.offset == 0 and point.damaged == 0
    return ResumeAfter(count, point.pts, point.state.previous_lr, sought)


@contextmanager
def _journalled(
    job: Job, part: FrameRange, journal: Journal, start: Checkpoint, source: FileSource
) -> Iterator[_JournalledSegments]:
    """A part's output: every segment is in the journal as soon as it is whole.

    Leaving the block by an exception removes the segment that is not whole.
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
        checkpoint: After the last frame that was written.
    """

    def __init__(
        self, writer: SegmentWriter, journal: Journal, start: Checkpoint, source: FileSource
    ) -> None:
        self._writer, self._journal, self._source = writer, journal, source
        self.checkpoint, self._damaged_before = start, start.damaged
        self._segment = ""
        # What a killed run's encoder still removes must not be named like a file of this run.
        self._token = secrets.token_hex(4)
        self._held: dict[str, Checkpoint] = {}  # by the segment that ends there

    def begin_segment(self) -> None:
        """Let the following frames go into another segment."""
        if self._segment not in self._held:  # it ends at a cut
            self.end_segment()
        self._segment = f"{self.checkpoint.frames:09d}-{self._token}"
        self._writer.begin(self._segment)

    def end_segment(self) -> None:
        """Hold a checkpoint at the end of a segment, if there is one, whose next frame is a cut."""
        if self._segment:
            self.hold(self.checkpoint.state)

    def hold(self, state: StreamState) -> None:
        """Write down what the frame after the running segment needs, before it is committed.

        Args:
            state: The state that this frame goes on from.
        """
        point = replace(self.checkpoint, state=state)
        self._journal.hold(point)
        self._held[self._segment] = point

    def write(self, made: Upscaled[MarkedFrame]) -> None:
        """Write a frame into the running segment, in 16 bits where the input has them."""
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
        """Enter the segments that are whole and on the disk into the journal."""
        for segment in self._writer.finished():
            self._journal.commit(segment.to_json(), self._held.pop(segment.name))


def _check_same_size(job: Job, frame: SourceFrame) -> None:
    height, width = frame.image.shape[:2]
    if (height, width) != job.info.size:
        raise StreamDiffVSRError(
            f"could not upscale {str(job.input)!r}",
            f"its frames change from {format_size(job.info.size)} to "
            f"{format_size((height, width))} at {frame.seconds:.2f} s",
            f"upscale it in parts: {option('end', Bare(_time(frame, job)))} first",
        )


def _time(frame: SourceFrame, job: Job) -> str:
    return f"{float(frame.pts * frame.time_base - job.first_seconds):.3f}"
