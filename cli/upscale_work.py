"""One job of `upscale`, from its names to what is told of it: look, engines, plan, run, compare.

The command line's side of `runtime.files`: it finds or builds engines, and speaks to the user.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from ..spec import Size
from . import options as opt
from .engines import build_engines, check_runs_here
from .upscale_options import CompareMode

if TYPE_CHECKING:
    from ..runtime.files.ahead.job_plan import JobPlan
    from ..runtime.files.ahead.look import JobReport
    from ..runtime.files.inputs import InOut
    from ..runtime.files.job import FileOptions
    from ..runtime.files.upscale import UpscaleReport
    from ..runtime.upscaler import Upscaler


@dataclass(frozen=True, slots=True)
class UpscaleCommand:
    """What the command line asks for, whatever the input."""

    files: FileOptions
    engines: Path | None
    model: str | None
    build: opt.BuildOptions
    chunks: int = 1
    compare: Path | None = None
    compare_mode: CompareMode = "side"
    plan: bool = False
    quiet: bool = False
    disk_check: bool = True


class JobRunner:
    """Does jobs, with the engines of one size open at a time."""

    def __init__(self, asked: UpscaleCommand) -> None:
        self._asked = asked
        self._opened: tuple[Path, Upscaler] | None = None
        self._checked = asked.engines is not None

    def inspect(self, pair: InOut, *, folder_there: bool = True) -> JobReport:
        """Open the input once; whatever would stop the job is told before any work for it."""
        from ..runtime.files.ahead.look import inspect_job
        from ..runtime.files.upscale import check_begun

        asked = self._asked
        seen = inspect_job(pair, asked.files, folder_there=folder_there)
        if asked.compare is not None:
            from ..runtime.files.compare import check_comparison

            check_comparison(seen.job, asked.compare, mode=asked.compare_mode)
        check_begun(seen.job, None, asked.chunks)
        return seen

    def work(self, seen: JobReport, label: str = "") -> dict[str, Any]:
        """Do the job, or only plan it; gives what `--json` tells of it."""
        asked = self._asked
        folder = self._engines(seen.group)
        plan = self._planned(seen, folder)
        self._tell(plan)
        if asked.plan:
            names = {"input": str(seen.job.input), "output": str(seen.job.output)}
            return {**names, "plan": plan.to_json()}
        assert folder is not None
        with _kept_is_told(seen.job.output):
            report = self._run(seen, folder, label or seen.job.output.name)
        for note in report.notes:
            if not asked.quiet and note not in plan.notes:  # those have been told before
                typer.echo(f"note: {note}", err=True)
        told = {
            **report.to_json(),
            "input": str(seen.job.input),
            "engines": str(folder),
            "seed": asked.files.seed,
            "plan": plan.to_json(),
        }
        return told | self._compared(seen, report)

    def _engines(self, size: Size) -> Path | None:
        """The set for a size: given, found, or built now; None if it is only planned for."""
        asked = self._asked
        if asked.engines is not None:
            return asked.engines
        if not self._checked:
            check_runs_here(asked.build)
            self._checked = True
        if asked.plan:
            return _found(asked, size)
        return build_engines(asked.model, size, asked.build, None, quiet=asked.quiet)

    def _planned(self, seen: JobReport, folder: Path | None) -> JobPlan:
        """The plan; with the time that it will take, where somebody is there to read it."""
        from ..runtime.files.ahead.job_plan import plan_job
        from ..runtime.files.ahead.pace import seconds_per_frame

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
        upscaler = self._open(folder)
        if not (self._asked.plan or self._person_reads()):
            return plan
        return replace(plan, frame_seconds=seconds_per_frame(upscaler, seen.frames))

    def _open(self, folder: Path) -> Upscaler:
        from ..runtime.upscaler import load

        if self._opened is None or self._opened[0] != folder:
            self._opened = None  # its memory goes before more is taken
            self._opened = folder, load(folder, self._asked.build.run_on)
        return self._opened[1]

    def _run(self, seen: JobReport, folder: Path, label: str) -> UpscaleReport:
        from ..runtime.files.chunks import upscale_chunks
        from ..runtime.files.progress import progress_bar
        from ..runtime.files.upscale import upscale_file

        job, chunks, device = seen.job, self._asked.chunks, self._asked.build.run_on
        with progress_bar(label, enabled=not self._asked.quiet) as progress:
            if chunks > 1:
                return upscale_chunks(
                    job.input,
                    job.output,
                    folder,
                    job.options,
                    chunks=chunks,
                    device=device,
                    progress=progress,
                )
            upscaler = self._open(folder)
            return upscale_file(job.input, job.output, upscaler, job.options, progress=progress)

    def _compared(self, seen: JobReport, report: UpscaleReport) -> dict[str, Any]:
        asked = self._asked
        if asked.compare is None:
            return {}
        from ..runtime.files.compare import compare
        from ..runtime.files.progress import progress_bar

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

    def _tell(self, plan: JobPlan) -> None:
        """All of it to a person and of --plan, warnings to whoever reads stderr."""
        if self._asked.quiet:
            return
        if self._asked.plan or self._person_reads():
            for line in plan.lines():
                typer.echo(line, err=not self._asked.plan)
            return
        for line in plan.warnings():
            typer.echo(line, err=True)


@contextmanager
def _kept_is_told(output: Path) -> Iterator[None]:
    """Where the user stops a job, the line that says so tells what is left of it.

    A failure's own line says that already.
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
        told = f"{kept} finished frames are kept in {folder_of(output)}"
        raise type(stop)(f"{told}: --resume goes on behind them") from stop


def _found(asked: UpscaleCommand, size: Size) -> Path | None:
    """The set for a size, if it is in the cache."""
    from ..building.builder import find

    settled = asked.build.settled()
    for unused in ("compute_capabilities", "workspace_mib"):
        settled.pop(unused)
    if asked.model == opt.AUTO:
        return None  # which weights that is may take a network to say
    return find(asked.model or opt.BUILT_IN, size=size, **settled)


def refuse_build_options(asked: UpscaleCommand) -> None:
    """Raise `UsageError` where a given set is to be built otherwise."""
    given = opt.BuildOptions(device=asked.build.device)  # that is of the run, too
    if asked.engines is not None and (asked.model is not None or asked.build != given):
        raise UsageError(
            "--engines cannot be mixed with options of a build",
            "those engines are built already",
            "leave out --engines, or those options",
        )
