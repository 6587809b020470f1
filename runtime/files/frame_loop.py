"""The frame loop of one range of a file: read, upscale, write, record the checkpoint."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Bare, StreamDiffVSRError, option
from ...graphs.spec import SCALE, format_size
from ..media.encoders import ImageFormat
from ..media.reader import FileSource, SourceFrame
from ..media.writer import ImageSegmentWriter, SegmentWriter
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


@dataclass(frozen=True, slots=True)
class _Taken:
    """A frame that the upscaler has, and what the detector knew when it took it."""

    frame: SourceFrame
    cut: bool
    memory: Thumbnail | None


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
    point = journal.point or Checkpoint(0, state, None, part.pts, part.times)
    if part.frames is not None and point.frames >= part.frames:
        return journal
    source, frames = frames_of(job, _behind(part, point))
    with source:
        run = _RangeRun(job, part, journal, point, source)
        run.follow(frames, upscaler, tell)
    return journal


def _behind(part: FrameRange, point: Checkpoint) -> ResumeAfter | None:
    if point.pts is None:
        return None
    count = part.first + point.frames
    sought = point.times.offset == 0 and point.damaged == 0
    return ResumeAfter(count, point.pts, point.state.previous_lr, sought)


class _RangeRun:
    def __init__(
        self, job: Job, part: FrameRange, journal: Journal, point: Checkpoint, source: FileSource
    ) -> None:
        self._job, self._part, self._journal, self._source = job, part, journal, source
        self._point = point  # behind the last frame that was written
        self._damaged = point.damaged
        self._detector = CutDetector() if job.options.scene_cuts else None
        if self._detector:
            self._detector.memory = point.cuts
        self._segmenter = Segmenter()
        self._waiting: deque[_Taken] = deque()  # read by the upscaler, not yet given back
        self._segment = ""
        # What a killed run's encoder still removes must not be named like a file of this run.
        self._token = secrets.token_hex(4)
        self._held: dict[str, Checkpoint] = {}  # by the segment that ends there
        self._writer = _writer(job, part, journal, point)

    def follow(
        self, frames: Iterator[SourceFrame], upscaler: FrameUpscaler, tell: Callable[[int], None]
    ) -> None:
        """Write every frame, and each segment into the journal as soon as it is whole."""
        outputs = upscaler.stream(self._images(frames), self._point.state, cuts=self._is_cut)
        try:
            for out in outputs:
                self._write(out, lambda: outputs.state)
                self._commit()
                tell(self._point.frames)
            if self._segment:
                self._hold(self._point.state.reset())  # of use to nobody: there is no next frame
            self._writer.close()
        except BaseException:
            self._writer.abort()
            raise
        finally:
            try:
                outputs.close()  # ends what reads ahead
            finally:
                self._commit()

    def _images(self, frames: Iterator[SourceFrame]) -> Iterator[Image]:
        count, detector = self._point.frames, self._detector
        for frame in frames:
            if count == self._part.frames or self._job.is_end(self._part.first + count, frame):
                return
            self._check_same_size(frame)
            cut = detector is not None and detector.is_cut(frame.image)
            self._waiting.append(_Taken(frame, cut, detector.memory if detector else None))
            yield frame.image
            count += 1
            if count == self._part.frames:  # not one frame more is read
                return

    def _is_cut(self, image: Image) -> bool:
        return self._waiting[-1].cut

    def _write(self, out: Image, state: Callable[[], StreamState]) -> None:
        taken = self._waiting.popleft()
        frame, times = taken.frame, self._point.times.after(taken.frame.pts, taken.frame.duration)
        if self._segmenter.starts_segment(taken.cut):
            if self._segment and self._segment not in self._held:
                self._hold(self._point.state.reset())  # it ends at a cut
            self._segment = f"{self._point.frames:09d}-{self._token}"
            self._writer.begin(self._segment)
        assert times.last is not None
        picture: Image | Image16 = out
        if frame.deep is not None:
            hr = state().previous_hr
            assert hr is not None
            picture = restore_16bit(hr, frame.image, frame.deep)
        self._writer.write(picture, times.last, frame.time_base, frame.duration)
        self._point = self._next_point(taken, times)
        if self._segmenter.full:
            self._hold(state())

    def _next_point(self, taken: _Taken, times: Times) -> Checkpoint:
        before = self._point
        index = self._part.first + before.frames + 1
        return Checkpoint(
            frames=before.frames + 1,
            state=StreamState(seed=self._job.options.seed, frame_index=index),
            cuts=taken.memory,
            pts=taken.frame.pts,
            times=times,
            found_cuts=before.found_cuts + taken.cut,
            damaged=self._damaged + self._source.damaged,
        )

    def _hold(self, state: StreamState) -> None:
        point = replace(self._point, state=state)
        self._journal.hold(point)
        self._held[self._segment] = point

    def _commit(self) -> None:
        for segment in self._writer.finished():
            self._journal.commit(segment.to_json(), self._held.pop(segment.name))

    def _check_same_size(self, frame: SourceFrame) -> None:
        height, width = frame.image.shape[:2]
        if (height, width) != self._job.info.size:
            raise StreamDiffVSRError(
                f"could not upscale {str(self._job.input)!r}",
                f"its frames change from {format_size(self._job.info.size)} to "
                f"{format_size((height, width))} at {frame.seconds:.2f} s",
                f"upscale it in parts: {option('end', Bare(_time(frame, self._job)))} first",
            )


def _time(frame: SourceFrame, job: Job) -> str:
    return f"{float(frame.pts * frame.time_base - job.first_seconds):.3f}"


def _writer(job: Job, part: FrameRange, journal: Journal, point: Checkpoint) -> SegmentWriter:
    common: dict[str, Any] = {
        "size": job.output_size,
        "like": job.info,
        "after_pts": point.times.last,
    }
    if isinstance(job.format, ImageFormat):
        first = part.first + point.frames
        return ImageSegmentWriter(journal.folder, format=job.format, first_index=first, **common)
    return SegmentWriter(journal.folder, format=job.format, **common)
