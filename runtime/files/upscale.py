"""Upscales a whole video file, for the command line, the demo and ComfyUI.

Frames are made in parts and segments, which outlive a crash, and are joined when all of them are
there: only a complete output gets its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError, option
from ...graphs.spec import Size, format_size
from ..media.encoders import VideoFormat
from ..media.formats import check_size
from ..media.info import Segment, VideoInfo
from ..media.join import Joined, JoinFailedError, join
from ..media.preflight import check_output
from ..media.writer import SegmentWriter
from .frame_loop import FrameRange, upscale_range
from .job import FileOptions, FrameUpscaler, Job, Progress
from .journal import Journal, clear, differing, folder_of, frames_kept, locked, note_job

__all__ = ["FileOptions", "FrameUpscaler", "UpscaleReport", "upscale_file", "upscale_job"]

# Makes every part in a folder, and reports how many frames of the job are done.
RunParts = Callable[[Job, Path, Callable[[int], None]], Sequence[Journal]]


@dataclass(frozen=True, slots=True)
class UpscaleReport:
    """The result of upscaling one input.

    Attributes:
        output: The file, or folder of images, that was written.
        frames: The number of its frames.
        seconds: The duration of this run, from the start to the finished output.
        fps: Frames per second in that time, without those of an earlier run.
        input_size, output_size: (h, w) and (H, W).
        damaged: The number of the input's packets with any sign of damage.
        retimed: The number of frames that were moved, as they were not later than the one before.
        cuts: The number of scene cuts, at which the previous frame was forgotten.
        resumed_at: The number of frames that an earlier run had made; 0 if there was none.
        copied: The number of streams taken over, by kind, such as {"audio": 1, "subtitle": 2}.
        notes: What was left out and why; a line each.
    """

    output: Path
    frames: int
    seconds: float
    fps: float
    input_size: Size
    output_size: Size
    damaged: int
    retimed: int
    cuts: int
    resumed_at: int
    copied: dict[str, int]
    notes: tuple[str, ...]

    @property
    def audio_streams(self) -> int:
        """The number of streams of sound that were taken over."""
        return self.copied.get("audio", 0)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON can carry it; sizes as "WxH", as on the command line."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        sizes = {name: format_size(fields[name]) for name in ("input_size", "output_size")}
        plain = {"output": str(self.output), "notes": list(self.notes)}
        return fields | sizes | plain | {"audio_streams": self.audio_streams}


def upscale_file(
    input: str | PathLike[str],
    output: str | PathLike[str],
    upscaler: FrameUpscaler,
    options: FileOptions | None = None,
    *,
    progress: Progress | None = None,
) -> UpscaleReport:
    """Upscales a video 4x.

    Args:
        input: The LR video: a plain file, as sound and picture are read separately, or a folder of
            images.
        output: The HR video; its ending chooses the container. A folder gets images.
        upscaler: An upscaler for frames of the input's size.
        progress: Called with the number of frames done and an estimate of all; what it raises ends
            the job.

    Raises:
        StreamDiffVSRError: The input cannot be read, the output cannot be written or cannot hold
            the sound, which is tried before the first frame; or the size does not fit the upscaler,
            or changes within the input. There is no output then; the finished part of it is kept to
            be resumed, if the options say so.
    """
    job = open_job(input, output, options or FileOptions(), upscaler.size)
    return upscale_job(job, upscaler, progress=progress)


def open_job(
    input: str | PathLike[str], output: str | PathLike[str], options: FileOptions, size: Size
) -> Job:
    """Returns a job whose frames fit engines of that size (h, w), and whose sound can be joined.

    Raises:
        StreamDiffVSRError: See `upscale_file`.
    """
    output = Path(output)
    check_output(output, source=input, overwrite=options.overwrite, images=options.images)
    job = Job.of(Path(input), output, options)
    job.check_size(size)
    job.left_out()  # what cannot be joined is refused before any frame is made
    return job


def upscale_job(
    job: Job, upscaler: FrameUpscaler, *, progress: Progress | None = None
) -> UpscaleReport:
    """Upscales a job that `open_job` or `inspect_job` has opened; see `upscale_file`.

    Raises:
        StreamDiffVSRError: See `upscale_file`.
    """

    def one_part(job: Job, folder: Path, tell: Callable[[int], None]) -> Sequence[Journal]:
        part = FrameRange(frames=job.options.max_frames)
        return [upscale_range(job, part, folder, upscaler, tell)]

    return carry_out(job, upscaler.size, upscaler.identity, 1, one_part, progress)


def carry_out(
    job: Job, size: Size, engines: str, chunks: int, run_parts: RunParts, progress: Progress | None
) -> UpscaleReport:
    """Runs the parts of a job and joins them.

    Args:
        size: (h, w) of the frames that the engines take.
        engines: The identity of the upscaler.
        chunks: The number of parts that was asked for; a run is resumed only with the same number.
    """
    started = time.perf_counter()
    options = job.options
    check_output(job.output, source=job.input, overwrite=options.overwrite, images=options.images)
    job = job.renewed()
    job.check_size(size)

    def tell(done: int) -> None:
        if progress:
            progress(done, None if job.estimate is None else max(done, job.estimate))

    identity = job.identity(engines, chunks)
    with _unfinished(job, identity) as (folder, kept):
        journals = run_parts(job, folder, tell)
        if not any(journal.frames for journal in journals):
            raise StreamDiffVSRError(
                f"could not upscale {str(job.input)!r}",
                "there is no frame at the times asked for",
                f"it is {job.info.duration_seconds or 0:.2f} s long: change "
                f"{option('start')} or {option('end')}",
            )
        try:
            joined = _join(job, journals)
        except JoinFailedError:  # with another choice of sound, the finished frames may be joined
            del identity["options"]["audio"]
            note_job(folder, identity)
            raise
        clear(folder)
    return _report(job, journals, joined, kept, time.perf_counter() - started)


@contextmanager
def _unfinished(job: Job, identity: dict[str, Any]) -> Iterator[tuple[Path, int]]:
    """Gives the block the folder for the parts, and the number of frames an earlier run left there.

    Finished frames are kept if the block fails, and the error says so.
    """
    with locked(job.output) as folder:
        kept = check_begun(job, identity["engines"], identity["chunks"])
        try:
            if not kept:
                clear(folder)
            note_job(folder, identity)
            yield folder, kept
        except BaseException as error:
            left = frames_kept(job.output) if job.options.keep_unfinished else 0
            if not left:
                clear(folder)
            elif isinstance(error, StreamDiffVSRError):
                resume = option("resume", True)
                remedy = f"{left} finished frames are kept: {resume} continues after them"
                remedy = f"{error.remedy}; {remedy}" if error.remedy else remedy
                raise StreamDiffVSRError(error.what, error.why, remedy) from error
            raise


def check_begun(job: Job, engines: str | None, chunks: int) -> int:
    """Returns the number of frames of an earlier run that this one continues from.

    Args:
        engines: The identity of the upscaler; None if it is not known yet.

    Raises:
        StreamDiffVSRError: There are such frames, and the options do not say whether to use them;
            or the earlier run had other options, engines or input.
    """
    kept, options = frames_kept(job.output), job.options
    if not kept or (options.overwrite and not options.resume):
        return 0
    identity = job.identity(engines or "", chunks)
    if engines is None:
        del identity["engines"]
    failure = f"could not write {str(job.output)!r}"
    if not options.resume:
        raise StreamDiffVSRError(
            failure,
            f"an interrupted run has left {kept} frames of it",
            f"go on with {option('resume', True)}, or start over with {option('overwrite', True)}",
        )
    if other := differing(folder_of(job.output), identity):
        raise StreamDiffVSRError(
            failure,
            f"the interrupted run was another one: {', '.join(other)}",
            f"resume it as it was begun, or start over with {option('overwrite', True)}",
        )
    return kept


def _join(job: Job, journals: Sequence[Journal]) -> Joined:
    segments = [(j.folder, Segment.from_json(segment)) for j in journals for segment in j.segments]
    first, last = segments[0][1], segments[-1][1]
    trimmed = job.start_seconds is not None
    start, end = first.first_pts * first.time_base, job.end_seconds
    if sum(segment.frames for _, segment in segments) == job.options.max_frames:
        end = last.end_pts * last.time_base
    return join(
        segments,
        job.output,
        like=job.info,
        format=job.format,
        audio=job.options.audio,
        # A clock that has wrapped around may begin below zero, where players show nothing.
        shift=start - max(job.first_seconds, Fraction(0)) if trimmed else min(start, Fraction(0)),
        span=(start if trimmed else None, end),
        overwrite=job.options.overwrite,
    )


def _report(
    job: Job, journals: Sequence[Journal], joined: Joined, kept: int, seconds: float
) -> UpscaleReport:
    points = [journal.point for journal in journals if journal.point]
    frames = sum(point.frames for point in points)
    return UpscaleReport(
        output=job.output,
        frames=frames,
        seconds=round(seconds, 3),
        fps=round((frames - kept) / seconds, 3),
        input_size=job.info.size,
        output_size=job.output_size,
        damaged=sum(point.damaged for point in points),
        # Each part continues the timeline, and so the count, of the parts before it.
        retimed=max((point.times.retimed for point in points), default=0)
        + sum(segment["retimed"] for journal in journals for segment in journal.segments),
        cuts=sum(point.found_cuts for point in points) + len(points) - 1,  # parts begin at cuts
        resumed_at=kept,
        copied=dict(joined.copied),
        notes=joined.notes,
    )


@contextmanager
def write_video(
    path: Path,
    *,
    size: Size,
    format: VideoFormat,
    like: VideoInfo | None = None,
    time_base: Fraction | None = None,
    overwrite: bool = False,
    timed: bool = False,
) -> Iterator[SegmentWriter]:
    """Gives the block a writer of frames; the file exists once the block has ended.

    The frames become one segment, from which :func:`join` makes the output with the tags of the
    source and without its sound. Any error, Ctrl-C included, leaves no file.

    Args:
        size: (H, W) of the frames.
        format: The encoding.
        like: The source of tags, colours and pixel aspect, if there is one.
        time_base: Seconds per tick; None for that of `like`. At least one of the two is needed.
        overwrite: Replace an existing file.
        timed: See `SegmentWriter`.

    Raises:
        StreamDiffVSRError: See :func:`check_output`; or the size cannot be encoded, there was no
            frame, the disk is full, or another program has created the output meanwhile.
    """
    failure = f"could not write {str(path)!r}"
    check_output(path, source=like.path if like else None, overwrite=overwrite)
    if path.is_dir():  # which `check_output` allows for images
        raise StreamDiffVSRError(failure, "it exists and is not a plain file")
    check_size(size, format.codec, failure)
    with locked(path) as folder:
        clear(folder)
        try:
            with SegmentWriter(
                folder,
                size=size,
                like=like,
                time_base=time_base,
                format=format,
                failure=failure,
                timed=timed,
            ) as writer:
                writer.begin("video")
                yield writer
            segments = [(folder, segment) for segment in writer.finished()]
            if not segments:
                raise StreamDiffVSRError(failure, "there was no frame to write")
            join(
                segments,
                path,
                like=like,
                format=format,
                audio="none",
                copy_rest=False,
                overwrite=overwrite,
            )
        finally:
            clear(folder)
