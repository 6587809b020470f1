"""A job's plan in lines for a person and as an object for programs: engines, memory, disk, time.

It refuses what cannot fit. Knows neither how engines are found or built, nor who reads the lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....engines.free_memory import free_host_bytes
from ....engines.manifest import Manifest, read_manifest
from ....errors import StreamDiffVSRError
from ....plan import Plan
from ....spec import format_size
from ...media.formats.kinds import ImageFormat, VideoFormat
from ...memory import MIN_FIT_RATIO, Preflight, check_memory_fit
from ...memory import size as shown
from ..journal import frames_kept
from .disk import Disk, check_disk, look_at_disk
from .look import JobReport, clock, described_input, described_output, policies
from .processes import Processes, processes


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a job will do, need and take.

    Attributes:
        engines: The set; None if it is to be built first, and memory is then not known.
        chunks: Processes with engines of their own.
        kept: Frames of an interrupted run that will not be made again.
        notes: What is done with an input that is not plain.
        frame_seconds: Of the engines, measured just now; None if it was not.
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
        """Of the host, by all processes together; those of a GPU are in `memory`."""
        if self.memory is None:
            return None
        needs = self.memory.needs
        host = needs.total if needs.device == "cpu" else needs.pinned + needs.program
        return host * self.chunks + self.processes.total * self.chunks

    @property
    def seconds(self) -> float | None:
        """That it will take."""
        frames = self.look.frames
        if frames is None or self.frame_seconds is None:
            return None
        return max(0, frames - self.kept) * self.frame_seconds

    def lines(self) -> Iterator[str]:
        """For a person, before it starts."""
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
        """What a user must hear of, terminal or not."""
        for note in self.notes:
            yield f"note: {note}"

    @property
    def tight(self) -> bool:
        """Whether memory or disk may not be enough."""
        return self.disk.tight or (self.memory is not None and self.memory.tight)

    def to_json(self) -> dict[str, Any]:
        """For programs; sizes as "WxH", bytes and seconds as numbers."""
        look, form, manifest = self.look, self.look.job.format, self.manifest
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
            "backend": None if manifest is None else manifest.key.backend,
            "precision": None if manifest is None else manifest.key.precision,
            "device": None if manifest is None else manifest.key.device,
            "flow": None if manifest is None else manifest.key.flow,
            "tile": None if manifest is None else manifest.key.tile,
            "chunks": self.chunks,
            "memory": None if self.memory is None else self.memory.to_json(),
            "processes": self.processes.to_json(),
            "memory_bytes": self.memory_bytes,
            "disk": self.disk.to_json(),
            "kept_frames": self.kept,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def _engines(self) -> str:
        manifest = self.manifest
        if manifest is None:
            return "none yet for that size: they are built first, once (a minute or more)"
        key, graphs = manifest.key, manifest.graphs
        where = f"{key.backend} on {key.device}"
        chosen = Plan(graphs.geometry, graphs.correlation).describe()
        many = f", {self.chunks} times" if self.chunks > 1 else ""
        return f"{manifest.model_name} {key.precision}, {where}{many}; {chosen}"

    def _memory(self, found: Preflight) -> str:
        each = f"; {self.chunks} times all of it" if self.chunks > 1 else ""
        beside = shown(self.processes.total)
        return f"{found.describe()}, and {beside} to decode and encode{each}"


def plan_job(
    look: JobReport,
    engines: Path | None,
    *,
    chunks: int = 1,
    device: str | None = None,
    opened: bool = False,
    disk_check: bool = True,
) -> JobPlan:
    """What follows from a look at the job and its engines.

    Args:
        device: The GPU that they would run on, "cuda:1"; None is the first.
        opened: The engines are open already, and have taken their memory.
        disk_check: Refuse what cannot fit on the disk; else it is only told.

    Raises:
        StreamDiffVSRError: It cannot fit in memory or on the disk, or the engines are of another
            size, or none.
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
    """Refuse where the engines of all chunks and the processes beside them cannot fit together.

    A single set of engines is `check_memory`'s to refuse, with what would fit.
    """
    free = free_host_bytes()
    if needed is None or MIN_FIT_RATIO * needed <= free:
        return
    remedy = "use a smaller --chunks" if plan.chunks > 1 else "use another --codec, or --tile"
    raise StreamDiffVSRError(
        f"could not upscale {str(plan.look.job.input)!r}",
        f"it takes at least {shown(int(MIN_FIT_RATIO * needed))} of memory, "
        f"and {shown(free)} are free",
        f"free some, or {remedy}",
    )
