"""What a job will do, need and take, told before its first frame; it asks for nothing.

The input is looked at before any engine is touched; what cannot work is refused here. With the
engines, memory, disk and time follow. It knows nothing of the command line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ....errors import StreamDiffVSRError, UsageError
from ....spec import Size, format_size
from ...media.formats.hdr import writes_mastering
from ...media.formats.kinds import ImageFormat, VideoFormat
from ...media.preflight import check_output
from ..inputs import InOut
from ..job import FileOptions, Job


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job whose input has been opened once.

    Attributes:
        frames: How many there will be; None if it is not known.
        seconds: Of them; None if it is not known.
        left_out: Streams that the output will not have, and why; a line each.
    """

    job: Job
    frames: int | None
    seconds: float | None
    left_out: tuple[str, ...] = ()

    @property
    def least_frames(self) -> int:
        """How many there surely are."""
        return min(self.frames or 0, self.job.info.least_frames)

    @property
    def group(self) -> Size:
        """(h, w): jobs of one size share their engines."""
        return self.job.info.size


def inspect_job(pair: InOut, options: FileOptions, *, folder_there: bool = True) -> JobReport:
    """Read what the input is and choose how the output is written.

    Args:
        folder_there: The folder of the output is there; else it is still to be made, for a batch.

    Raises:
        StreamDiffVSRError: What would stop the job: the input cannot be read, the output not be
            written or not hold the sound, there is nothing at the times asked for.
        UsageError: An option that means nothing for this output.
    """
    if folder_there:
        check_output(
            pair.output, source=pair.input, overwrite=options.overwrite, images=options.images
        )
    job = Job.of(pair.input, pair.output, options)
    if options.fps is not None and not job.info.images:
        raise UsageError(
            f"--fps does not fit {str(pair.input)!r}",
            "it is a video, whose own times are kept",
            "leave it out",
        )
    if options.deinterlace not in ("auto", "off") and job.info.images:
        raise UsageError(
            f"--deinterlace {options.deinterlace} does not fit {str(pair.input)!r}",
            "images are taken for whole pictures",
            "leave it out, or make a video of them first",
        )
    return JobReport(job, *expected(job), job.left_out())


def expected(job: Job) -> tuple[int | None, float | None]:
    """Frames and seconds that will be written, as far as they are known.

    Raises:
        StreamDiffVSRError: The part to take surely begins behind the end.
    """
    info, options = job.info, job.options
    whole, rate, frames = info.duration_seconds, info.average_rate, job.estimate
    start = float(options.start or 0)
    if whole is not None and start >= whole:
        if not info.counted:
            return None, None
        raise StreamDiffVSRError(
            f"could not upscale {str(job.input)!r}",
            f"it ends at {whole:.2f} s, before --start {start:g}",
            "choose an earlier start",
        )
    ends = [float(one) for one in (whole, options.end) if one is not None]
    seconds = min(ends) - start if ends else None
    if rate and seconds is not None:
        frames = frames or math.ceil(seconds * rate)
        if options.max_frames is not None:
            seconds = min(seconds, float(options.max_frames / rate))
    if frames is not None and options.max_frames is not None:
        frames = min(frames, options.max_frames)
    return frames, seconds


def policies(look: JobReport) -> Iterator[str]:
    """What is done with inputs that are not plain, a line each."""
    info, form, options = look.job.info, look.job.format, look.job.options
    if isinstance(form, VideoFormat) and form.note:
        yield form.note
    if info.depth > 8 and not form.deep:
        yield f"the output has 8 bits of the input's {info.depth}"
    if info.hdr:
        tagged = (
            "and tagged as they were"
            if isinstance(form, VideoFormat)
            else "but images do not say so"
        )
        yield (
            f"HDR ({info.hdr}): its values are upscaled as they are {tagged}, "
            "by a model that has learned from SDR"
        )
    if info.mastering and not (isinstance(form, VideoFormat) and writes_mastering(form.encoder)):
        yield "HDR mastering metadata left out: only H.265 and AV1 in software are told of it"
    if info.interlaced:
        yield (
            "interlaced, and upscaled so: its lines will comb"
            if options.deinterlace == "off"
            else "interlaced: each frame is deinterlaced first (--deinterlace off leaves it)"
        )
    elif options.deinterlace not in ("auto", "off"):
        yield f"each frame is deinterlaced first, by --deinterlace {options.deinterlace}"
    if info.sample_aspect != 1 and not (isinstance(form, VideoFormat) and form.tells_aspect):
        ratio = f"{info.sample_aspect.numerator}:{info.sample_aspect.denominator}"
        yield f"pixel aspect {ratio} left out: h264, h265, .mp4 and .mov can tell it"
    if info.skewed:
        yield "to be shown at an angle, and upscaled as it is stored: only quarter turns are made"
    if info.alpha:
        yield "transparency: shown on black, the output has none"
    yield from look.left_out


def described_input(look: JobReport) -> str:
    """One line: what comes in."""
    info = look.job.info
    length = "" if look.seconds is None else f", {clock(look.seconds)}"
    about = "" if info.counted else "about "
    frames = "frames unknown" if look.frames is None else f"{about}{look.frames} frames"
    kind = "images" if info.images else info.codec
    sound = f", {info.audio_streams} of sound" if info.audio_streams else ""
    return (
        f"{info.path}: {format_size(info.size)}, {frames}{length}, {kind} {info.depth}-bit{sound}"
    )


def described_output(look: JobReport) -> str:
    """One line: what goes out."""
    job, form = look.job, look.job.format
    size = format_size(job.output_size)
    if isinstance(form, ImageFormat):
        bits = "16-bit " if form.deep else ""
        return f"{job.output}: {size}, a folder of {bits}{form.suffix[1:]} images"
    quality = form.options.get("crf") or form.options.get("qp")
    how = f", crf {quality}" if quality else ""
    bits = "10-bit " if "10" in form.pixel_format else ""
    return f"{job.output}: {size}, {bits}{form.codec} by {form.encoder}{how}"


def clock(seconds: float) -> str:
    """h:mm:ss, as people read lengths."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
