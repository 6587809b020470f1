"""Reports what a job will do and need, before its first frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...engines.host import free_host_bytes
from ...engines.manifest import Manifest, read_manifest
from ...errors import Bare, StreamDiffVSRError, UsageError, option, said
from ...graphs.plan import Plan
from ...graphs.spec import Size, format_bytes, format_size
from ..media.colour import writes_mastering
from ..media.encoders import ImageFormat, VideoFormat
from ..media.preflight import check_output
from ..memory import MIN_FIT_RATIO, Preflight, check_memory_fit
from .estimates import Disk, Processes, check_disk, look_at_disk, processes
from .inputs import InOut
from .job import FileOptions, Job
from .journal import frames_kept


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job whose input has been opened once.

    Attributes:
        frames: The number of frames of the output; None if unknown.
        seconds: The duration of the output; None if unknown.
        left_out: Streams that the output will not have, and why; a line each.
    """

    job: Job
    frames: int | None
    seconds: float | None
    left_out: tuple[str, ...] = ()

    @property
    def group(self) -> Size:
        """The input size (h, w): jobs of one size share their engines."""
        return self.job.info.size

    @property
    def least_frames(self) -> int:
        """The number of frames that there are at least."""
        return min(self.frames or 0, self.job.info.least_frames)


def inspect_job(pair: InOut, options: FileOptions, *, folder_there: bool = True) -> JobReport:
    """Opens the input and chooses how the output is written.

    Args:
        folder_there: Whether the output's folder exists; a batch creates it later.

    Raises:
        StreamDiffVSRError: The job cannot run: the input cannot be read, the output cannot be
            written or cannot hold the sound, or there is no frame at the times asked for.
        UsageError: An option has no meaning for this input.
    """
    if folder_there:
        check_output(
            pair.output, source=pair.input, overwrite=options.overwrite, images=options.images
        )
    job = Job.of(pair.input, pair.output, options)
    if options.fps is not None and not job.info.images:
        raise UsageError(
            f"{option('fps')} does not fit {str(pair.input)!r}",
            "it is a video, whose own times are kept",
            "leave it out",
        )
    if options.deinterlace not in ("auto", "off") and job.info.images:
        raise UsageError(
            f"{option('deinterlace', options.deinterlace)} does not fit {str(pair.input)!r}",
            "images are taken for whole pictures",
            "leave it out, or make a video of them first",
        )
    return JobReport(job, *expected(job), job.left_out())


def expected(job: Job) -> tuple[int | None, float | None]:
    """Returns the frames and seconds that will be written, as far as they are known.

    Raises:
        StreamDiffVSRError: The job certainly starts after the end of the input.
    """
    info, options = job.info, job.options
    whole, rate, frames = info.duration_seconds, info.average_rate, job.estimate
    start = float(options.start or 0)
    if whole is not None and start >= whole:
        if not info.counted:
            return None, None
        raise StreamDiffVSRError(
            f"could not upscale {str(job.input)!r}",
            f"it ends at {whole:.2f} s, before {option('start', Bare(f'{start:g}'))}",
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
    """Yields a line on how each peculiarity of the input is treated, and each part left out."""
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
        yield "HDR mastering metadata left out: only H.265 and AV1 in software can carry it"
    if info.interlaced:
        yield (
            "interlaced, and not deinterlaced: its lines will comb"
            if options.deinterlace == "off"
            else said(
                "interlaced: each frame is deinterlaced first "
                f"({option('deinterlace', 'off')} leaves it)"
            )
        )
    elif options.deinterlace not in ("auto", "off"):
        by = option("deinterlace", options.deinterlace)
        yield said(f"each frame is deinterlaced first, by {by}")
    if info.sample_aspect != 1 and not (isinstance(form, VideoFormat) and form.stores_aspect):
        ratio = f"{info.sample_aspect.numerator}:{info.sample_aspect.denominator}"
        yield f"pixel aspect {ratio} left out: h264, h265, .mp4 and .mov can store it"
    if info.skewed:
        yield "to be shown at an angle, and upscaled as it is stored: only quarter turns are made"
    if info.alpha:
        yield "transparency: shown on black, the output has none"
    yield from look.left_out


def described_input(look: JobReport) -> str:
    """Returns a line that describes the input."""
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
    """Returns a line that describes the output."""
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
    """Returns a duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job with the engines, memory, disk space and time that it needs.

    Attributes:
        engines: The engine set; None if it has to be built first, and then `memory` is unknown.
        chunks: The number of processes with engines of their own.
        kept: The number of frames of an interrupted run that will not be made again.
        notes: How peculiarities of the input are treated; a line each.
        frame_seconds: The measured time per frame; None if it was not measured.
    """

    look: JobReport
    engines: Path | None
    manifest: Manifest | None
    memory: Preflight | None
    processes: Processes
    disk: Disk
    chunks: int
    kept: int
    notes: tuple[str, ...]
    frame_seconds: float | None = None

    @property
    def memory_bytes(self) -> int | None:
        """The host memory that all processes take together; `memory` has that of a GPU."""
        if self.memory is None:
            return None
        needs = self.memory.needs
        host = needs.total if needs.device == "cpu" else needs.pinned + needs.program
        return host * self.chunks + self.processes.total * self.chunks

    @property
    def seconds(self) -> float | None:
        """The seconds that the job will take; None if unknown."""
        frames = self.look.frames
        if frames is None or self.frame_seconds is None:
            return None
        return max(0, frames - self.kept) * self.frame_seconds

    def lines(self) -> Iterator[str]:
        """Yields the lines that a user sees before the job starts."""
        yield f"input: {described_input(self.look)}"
        yield f"output: {described_output(self.look)}"
        yield f"engines: {self._engines()}"
        if self.memory is not None:
            yield self._memory(self.memory)
        yield self.disk.describe()
        if self.kept:
            yield f"kept: {self.kept} frames of an interrupted run"
        if self.seconds is not None and self.frame_seconds:
            rate = f"{1 / self.frame_seconds:.3g} frames a second"
            yield f"time: about {clock(self.seconds)} ({rate})"
        yield from self.warnings()

    def warnings(self) -> Iterator[str]:
        """Yields the lines that a user must see even without a terminal."""
        for note in self.notes:
            yield f"note: {note}"

    @property
    def tight(self) -> bool:
        """Returns whether memory or disk may not be enough."""
        return self.disk.tight or (self.memory is not None and self.memory.tight)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan for programs; sizes as "WxH", bytes and seconds as numbers."""
        look, form, key = self.look, self.look.job.format, self.manifest and self.manifest.key
        of_engines = ("backend", "precision", "device", "flow", "tile")
        how = (
            {
                "container": form.container,
                "codec": form.codec,
                "encoder": form.encoder,
                "audio": look.job.options.audio,
            }
            if isinstance(form, VideoFormat)
            else {"images": form.suffix[1:]}
        )
        return {
            "input_size": format_size(look.job.info.size),
            "output_size": format_size(look.job.output_size),
            "frames": look.frames,
            "frames_counted": look.job.info.counted,
            "video_seconds": look.seconds,
            "input_codec": look.job.info.codec,
            "depth": look.job.info.depth,
            **how,
            "engines": None if self.engines is None else str(self.engines),
            **{name: getattr(key, name, None) for name in of_engines},
            "chunks": self.chunks,
            "memory": None if self.memory is None else self.memory.to_json(),
            "processes": asdict(self.processes),
            "memory_bytes": self.memory_bytes,
            "disk": asdict(self.disk),
            "kept_frames": self.kept,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def _engines(self) -> str:
        manifest = self.manifest
        if manifest is None:
            return "none yet for that size: they are built first, once"
        key, graphs = manifest.key, manifest.graphs
        where = f"{key.backend} on {key.device}"
        chosen = Plan(graphs.geometry, graphs.correlation).describe()
        many = f", {self.chunks} times" if self.chunks > 1 else ""
        return f"{manifest.model_name} {key.precision}, {where}{many}; {chosen}"

    def _memory(self, found: Preflight) -> str:
        each = f"; {self.chunks} times all of it" if self.chunks > 1 else ""
        codecs = format_bytes(self.processes.total)
        return f"{found.describe()}, and {codecs} to decode and encode{each}"


def plan_job(
    look: JobReport,
    engines: Path | None,
    *,
    chunks: int = 1,
    device: str | None = None,
    opened: bool = False,
    disk_check: bool = True,
) -> JobPlan:
    """Plans a job with an engine set, or without one that has still to be built.

    Args:
        device: The GPU that the engines will run on, "cuda:1"; None is the first.
        opened: Whether the engines are open already, and have taken their memory.
        disk_check: Whether to refuse a job that cannot fit on the disk, or only report it.

    Raises:
        StreamDiffVSRError: The job cannot fit in memory or on the disk, or the engine set is
            missing, damaged or made for another size.
    """
    manifest = None if engines is None else read_manifest(engines)
    if manifest is not None:
        look.job.check_size(manifest.graphs.geometry.size)
    sound = look.job.info.audio_streams * (look.seconds or 0.0)
    disk = look_at_disk(
        look.job.output,
        look.job.format,
        size=look.job.output_size,
        frames=look.frames,
        least_frames=look.least_frames,
        sound_seconds=0.0 if isinstance(look.job.format, ImageFormat) else sound,
    )
    if disk_check:
        check_disk(disk, look.job.output)
    plan = JobPlan(
        look=look,
        engines=engines,
        manifest=manifest,
        memory=None if engines is None else check_memory_fit(engines, device),
        processes=processes(look.job.info.size, look.job.output_size, look.job.format),
        disk=disk,
        chunks=chunks,
        kept=frames_kept(look.job.output) if look.job.options.resume else 0,
        notes=tuple(policies(look)),
    )
    _check_host_memory(plan, plan.processes.total if opened else plan.memory_bytes)
    return plan


def _check_host_memory(plan: JobPlan, needed: int | None) -> None:
    """Raises if the engines of all chunks and the other processes cannot fit in memory together.

    `check_memory` refuses a single set of engines, and suggests what would fit.
    """
    free = free_host_bytes()
    if needed is None or MIN_FIT_RATIO * needed <= free:
        return
    remedy = f"use another {option('codec')}, or {option('tile')}"
    if plan.chunks > 1:
        remedy = f"use a smaller {option('chunks')}"
    raise StreamDiffVSRError(
        f"could not upscale {str(plan.look.job.input)!r}",
        f"it takes at least {format_bytes(int(MIN_FIT_RATIO * needed))} of memory, "
        f"and {format_bytes(free)} are free",
        f"free some, or {remedy}",
    )
