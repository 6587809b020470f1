"""Defines `streamdiffvsr upscale`, which upscales videos and folders of images."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..building.request import BuildRequest
from ..errors import UsageError
from ..graphs.spec import Size
from . import options as opt
from . import upscale_options as up
from .engines import build_engines, engine_provider
from .upscale_options import CompareMode

if TYPE_CHECKING:
    from ..runtime.files.inputs import InOut, JobList, Outcome
    from ..runtime.files.job import FileOptions
    from ..runtime.files.job_report import JobPlan, JobReport
    from ..runtime.files.upscale import UpscaleReport
    from ..runtime.upscaler import Upscaler


@dataclass(frozen=True, slots=True)
class UpscaleCommand:
    """The options of one `upscale` command, which are the same for all of its inputs."""

    files: FileOptions
    engines: Path | None
    build: BuildRequest
    chunks: int = 1
    compare: Path | None = None
    compare_mode: CompareMode = "side"
    plan: bool = False
    quiet: bool = False
    disk_check: bool = True


class JobRunner:
    """Runs jobs, with the engines of one size open at a time."""

    def __init__(self, asked: UpscaleCommand) -> None:
        self._asked = asked
        self._opened: tuple[Path, Size, Upscaler] | None = None
        self._provider = engine_provider(asked.build)
        self._checked = asked.engines is not None

    def inspect(self, pair: InOut, *, folder_there: bool = True) -> JobReport:
        """Opens the input once, and raises what would stop the job before any work for it."""
        from ..runtime.files.job_report import inspect_job
        from ..runtime.files.upscale import check_begun

        asked = self._asked
        seen = inspect_job(pair, asked.files, folder_there=folder_there)
        if asked.compare is not None:
            from ..runtime.files.compare import check_comparison

            check_comparison(seen.job, asked.compare, mode=asked.compare_mode)
        check_begun(seen.job, None, asked.chunks)
        return seen

    def work(self, seen: JobReport, label: str = "") -> dict[str, Any]:
        """Does the job, or only plans it, and returns the job's entry in the output of `--json`."""
        asked = self._asked
        folder = self._engines(seen.group)
        plan = self._planned(seen, folder)
        self._show(plan)
        if asked.plan:
            names = {"input": str(seen.job.input), "output": str(seen.job.output)}
            return {**names, "plan": plan.to_json()}
        assert folder is not None
        with _reporting_kept_frames(seen.job.output):
            report = self._run(seen, folder, label or seen.job.output.name)
        for note in report.notes:
            if not asked.quiet and note not in plan.notes:  # the plan has shown those
                typer.echo(f"note: {note}", err=True)
        result = {
            **report.to_json(),
            "input": str(seen.job.input),
            "engines": str(folder),
            "seed": asked.files.seed,
            "plan": plan.to_json(),
        }
        return result | self._compared(seen, report)

    def _engines(self, size: Size) -> Path | None:
        """Returns the engine set for a size, and builds it if necessary; None with `--plan`."""
        asked = self._asked
        if asked.engines is not None:
            return asked.engines
        if not self._checked:
            self._provider.check_runs_here()
            self._checked = True
        if asked.plan:
            found = self._provider.find(size)
            if found is None:
                self._provider.check_buildable(size)
            return found
        return build_engines(self._provider, size, quiet=asked.quiet)

    def _planned(self, seen: JobReport, folder: Path | None) -> JobPlan:
        """Returns the plan; it includes the expected time if it is going to be shown."""
        from ..runtime.files.estimates import seconds_per_frame
        from ..runtime.files.job_report import plan_job

        opened = self._opened is not None and self._opened[0] == folder
        device, chunks = self._asked.build.run_on, self._asked.chunks
        plan = plan_job(
            seen,
            folder,
            chunks=chunks,
            device=device,
            opened=opened,
            disk_check=self._asked.disk_check,
        )
        if folder is None or chunks > 1:
            return plan
        upscaler = self._open(folder, seen.job.info.size)
        if not (self._asked.plan or self._person_reads()):
            return plan
        return replace(plan, frame_seconds=seconds_per_frame(upscaler, seen.frames))

    def _open(self, folder: Path, size: Size) -> Upscaler:
        from ..runtime.upscaler import load

        if self._opened is None or self._opened[:2] != (folder, size):
            self._opened = None  # its memory goes before more is taken
            self._opened = folder, size, load(folder, self._asked.build.run_on, size)
        return self._opened[2]

    def _run(self, seen: JobReport, folder: Path, label: str) -> UpscaleReport:
        from ..runtime.files.chunks import upscale_job_in_chunks
        from ..runtime.files.upscale import upscale_job
        from .progress import progress_bar

        job, chunks, device = seen.job, self._asked.chunks, self._asked.build.run_on
        with progress_bar(label, enabled=not self._asked.quiet) as progress:
            if chunks > 1:
                return upscale_job_in_chunks(
                    job, folder, chunks=chunks, device=device, progress=progress
                )
            return upscale_job(job, self._open(folder, job.info.size), progress=progress)

    def _compared(self, seen: JobReport, report: UpscaleReport) -> dict[str, Any]:
        asked = self._asked
        if asked.compare is None:
            return {}
        from ..runtime.files.compare import compare
        from .progress import progress_bar

        with progress_bar(asked.compare.name, enabled=not asked.quiet) as progress:
            made = compare(
                seen.job,
                asked.compare,
                mode=asked.compare_mode,
                frames=report.frames,
                progress=progress,
            )
        return {"compare": {"video": str(made.video), "sheet": str(made.sheet)}}

    def _person_reads(self) -> bool:
        return not self._asked.quiet and sys.stderr.isatty()

    def _show(self, plan: JobPlan) -> None:
        """Prints the plan: all of it at a terminal or with `--plan`, else only its warnings."""
        if self._asked.quiet:
            return
        if self._asked.plan or self._person_reads():
            for line in plan.lines():
                typer.echo(line, err=not self._asked.plan)
            return
        for line in plan.warnings():
            typer.echo(line, err=True)


@contextmanager
def _reporting_kept_frames(output: Path) -> Iterator[None]:
    """Adds the frames that are kept to the message of Ctrl-C or SIGTERM.

    The messages of other failures have them already.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as stop:
        from ..runtime.files.journal import folder_of, frames_kept

        kept = frames_kept(output)
        if not kept:
            raise
        where = f"{kept} finished frames are kept in {folder_of(output)}"
        raise type(stop)(f"{where}: --resume continues after them") from stop


@opt.with_build_options()
def upscale(
    inputs: up.Inputs = None,
    output: up.Output = "",
    overwrite: up.Overwrite = False,
    resume: up.Resume = False,
    plan: up.Plan = False,
    json: opt.Json = False,
    start: up.Start = None,
    end: up.End = None,
    max_frames: up.MaxFrames = None,
    fps: up.Fps = None,
    deinterlace: up.Deinterlace = "auto",
    no_scene_cuts: up.NoSceneCuts = False,
    codec: up.Codec = "auto",
    encoder: up.Encoder = "auto",
    crf: up.Crf = None,
    preset: up.Preset = None,
    audio: up.Audio = "copy",
    images: up.Images = None,
    compare: up.Compare = None,
    compare_mode: up.Mode = "side",
    chunks: up.Chunks = 1,
    no_disk_check: up.NoDiskCheck = False,
    engines: opt.Engines = None,
    seed: opt.Seed = 0,
    *,
    build: BuildRequest,
) -> dict[str, Any]:
    """Upscale videos and folders of images 4x; timestamps, sound and colours are kept.

    The engines for a size are built on first use, and then kept: seconds for the built-in model.
    """
    from ..runtime.files.inputs import name_pairs
    from ..runtime.files.job import FileOptions

    span = up.parse_span(start, end)
    if images is None and output.endswith(("/", os.sep)) and Path(output).suffix:
        images = "png"  # named as a folder by the separator, which a `Path` does not keep
    files = FileOptions(
        seed=seed,
        overwrite=overwrite,
        resume=resume,
        max_frames=max_frames,
        start=span[0],
        end=span[1],
        scene_cuts=not no_scene_cuts,
        deinterlace=deinterlace,
        fps=up.parse_rate(fps, "--fps"),
        codec=codec,
        encoder=encoder,
        crf=crf,
        preset=preset,
        audio=audio,
        images=images,
    )
    asked = UpscaleCommand(
        files,
        engines,
        build,
        chunks,
        compare,
        compare_mode,
        plan,
        json,
        disk_check=not no_disk_check,
    )
    _refuse_contradictions(asked, inputs, output)
    named = name_pairs(inputs or [], output, images=images is not None)
    if named.folder is not None:
        return _batch(named, asked)
    return _single(named.pairs[0], asked)


def summary(report: Mapping[str, Any]) -> str:
    """Returns the line about a finished output."""
    made = f"{report['output']}: {made_in_words(report)}"
    damaged = f"; {report['damaged']} damaged packets in the input" if report["damaged"] else ""
    kept = f"; the first {report['resumed_at']} of an earlier run" if report["resumed_at"] else ""
    return made + damaged + kept


def made_in_words(report: Mapping[str, Any]) -> str:
    """Returns the frames, the sizes, and the time and speed of the work, which is not the video's.

    The speed leaves out the frames of an earlier run.
    """
    sizes = f"{report['input_size']} -> {report['output_size']}"
    speed = f"{report['seconds']} s, {report['fps']:.2f} frames/s"
    return f"{report['frames']} frames, {sizes}, made in {speed}"


def _refuse_contradictions(
    asked: UpscaleCommand, inputs: Sequence[str] | None, output: str
) -> None:
    if not inputs:
        missing = "OUTPUT is missing" if output else "INPUT and OUTPUT are missing"
        raise UsageError(missing, "", "see streamdiffvsr upscale --help")
    if asked.chunks > 1 and not asked.files.scene_cuts:
        raise UsageError(
            "--chunks and --no-scene-cuts exclude each other",
            "chunks begin at scene cuts",
            "leave out one of them",
        )
    if asked.compare is None and asked.compare_mode != "side":
        raise UsageError(
            f"--compare-mode {asked.compare_mode} has no effect",
            "there is no --compare",
            "give --compare FILE, or leave it out",
        )
    if asked.engines is not None:
        opt.refuse_with_engines(asked.build)


def _single(pair: InOut, asked: UpscaleCommand) -> dict[str, Any]:
    if asked.files.resume and not asked.files.overwrite and (done := _done_before(pair)):
        if not asked.quiet:
            typer.echo(f"{pair.output}: {done}")
        names = {"input": str(pair.input), "output": str(pair.output)}
        return {"state": "skipped", **names, "reason": done}
    worker = JobRunner(asked)
    result = worker.work(worker.inspect(pair))
    if not (asked.quiet or asked.plan):
        typer.echo(summary(result))
        if "compare" in result:
            typer.echo("comparison: {video} and {sheet}".format(**result["compare"]))
    return result


def _done_before(pair: InOut) -> str:
    """Returns why `--resume` has nothing left to do for a job, or ""."""
    from ..runtime.files.inputs import why_done
    from ..runtime.files.journal import frames_kept

    return "" if frames_kept(pair.output) else why_done(pair)


def _batch(named: JobList, asked: UpscaleCommand) -> dict[str, Any]:
    from ..runtime.files.inputs import run_batch

    assert named.folder is not None
    if asked.compare is not None:
        raise UsageError("--compare is for one input", "this is a batch", "leave it out")
    if not asked.plan:
        opt.make_folder(named.folder, "choose another OUTPUT")
    started, worker, label = time.monotonic(), JobRunner(asked), ""

    def begin(number: int, pair: InOut) -> None:
        nonlocal label
        label = f"{number}/{len(named.pairs)} {pair.output.name}"

    def ended(outcome: Outcome) -> None:
        if outcome.state == "failed":
            typer.echo(f"error: {outcome.why}", err=True)

    def look(pair: InOut) -> JobReport:
        return worker.inspect(pair, folder_there=named.folder is not None and named.folder.is_dir())

    outcomes = run_batch(
        named.pairs,
        look,
        lambda seen: worker.work(seen, label),
        overwrite=asked.files.overwrite,
        plan=asked.plan,
        begin=begin,
        ended=ended,
    )
    seconds = round(time.monotonic() - started, 2)
    counts = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in ("planned" if asked.plan else "done", "skipped", "failed")
    }
    if not asked.quiet:
        _show_table(outcomes, counts, seconds)
    files = [outcome.to_json() for outcome in outcomes]
    return {"files": files, **counts, "seconds": seconds, "exit_code": int(counts["failed"] > 0)}


def _show_table(outcomes: Sequence[Outcome], counts: Mapping[str, int], seconds: float) -> None:
    """Prints a line for each job, in columns, and one for the batch."""
    width = max(len(str(outcome.pair.output)) for outcome in outcomes)
    for outcome in outcomes:
        if outcome.state == "done":
            what = made_in_words(outcome.fields)
        else:  # why a job failed was printed when it did
            what = "" if outcome.state == "failed" else outcome.why
        typer.echo(f"{outcome.state:<8} {outcome.pair.output!s:<{width}}  {what}".rstrip())
    totals = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    noun = "input" if len(outcomes) == 1 else "inputs"
    typer.echo(f"{len(outcomes)} {noun}: {totals}; {seconds:.1f} s")
