"""`streamdiffvsr upscale`: files, folders of images, and batches of them.

Options in, jobs out; one line or a table at the end, or one JSON object.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import StreamDiffVSRError, UsageError
from . import options as opt
from . import upscale_options as up
from .upscale_work import JobRunner, UpscaleCommand, refuse_build_options

if TYPE_CHECKING:
    from ..runtime.files.ahead.look import JobReport
    from ..runtime.files.batch import Outcome
    from ..runtime.files.inputs import InOut, JobList


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
    model: opt.Model = None,
    seed: opt.Seed = 0,
    color_match: opt.ColorMatch = "auto",
    backend: opt.BackendName = "auto",
    precision: opt.PrecisionName = None,
    steps: opt.Steps = 4,
    flow_scale: opt.FlowScale = None,
    tile: opt.Tile = "auto",
    device: opt.Device = "auto",
    revision: opt.Revision = None,
) -> dict[str, Any]:
    """Upscale videos and folders of images 4x; times, sound and colours are kept.

    Engines for the size are taken from the cache, or built first, unless --engines names them.
    """
    from ..runtime.files.inputs import name_pairs
    from ..runtime.files.job import FileOptions

    span = up.parse_span(start, end)
    if images is None and output.endswith(("/", os.sep)) and Path(output).suffix:
        images = "png"  # a folder, whatever its name: a path does not keep the separator
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
    build = opt.BuildOptions(
        backend,
        precision,
        steps,
        flow_scale,
        tile,
        device,
        revision,
        color_match=color_match,
    )
    asked = UpscaleCommand(
        files,
        engines,
        model,
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
    """A finished output in one line."""
    line = "{output}: {frames} frames, {input_size} -> {output_size}, {seconds} s ({fps} fps)"
    damaged = f"; {report['damaged']} damaged packets in the input" if report["damaged"] else ""
    kept = f"; the first {report['resumed_at']} of an earlier run" if report["resumed_at"] else ""
    return line.format(**report) + damaged + kept


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
            f"--compare-mode {asked.compare_mode} has nothing to divide",
            "there is no --compare",
            "give --compare FILE, or leave it out",
        )
    refuse_build_options(asked)


def _single(pair: InOut, asked: UpscaleCommand) -> dict[str, Any]:
    if asked.files.resume and not asked.files.overwrite and (done := _done_before(pair)):
        if not asked.quiet:
            typer.echo(f"{pair.output}: {done}")
        names = {"input": str(pair.input), "output": str(pair.output)}
        return {"state": "skipped", **names, "reason": done}
    worker = JobRunner(asked)
    told = worker.work(worker.inspect(pair))
    if not (asked.quiet or asked.plan):
        typer.echo(summary(told))
        if "compare" in told:
            typer.echo("comparison: {video} and {sheet}".format(**told["compare"]))
    return told


def _done_before(pair: InOut) -> str:
    """Why a job that may be gone on with needs nothing more, or ""."""
    from ..runtime.files.batch import why_done
    from ..runtime.files.journal import frames_kept

    return "" if frames_kept(pair.output) else why_done(pair)


def _batch(named: JobList, asked: UpscaleCommand) -> dict[str, Any]:
    from ..runtime.files.batch import run_batch

    assert named.folder is not None
    if asked.compare is not None:
        raise UsageError("--compare is for one input", "this is a batch", "leave it out")
    if not asked.plan:
        _make_folder(named.folder)
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
    """A line for each job, in columns, and one for all."""
    width = max(len(str(outcome.pair.output)) for outcome in outcomes)
    for outcome in outcomes:
        if outcome.state == "done":
            line = "{frames} frames, {input_size} -> {output_size}, {seconds} s ({fps} fps)"
            what = line.format(**outcome.told)
        else:  # why a job failed was told when it did
            what = "" if outcome.state == "failed" else outcome.why
        typer.echo(f"{outcome.state:<8} {outcome.pair.output!s:<{width}}  {what}".rstrip())
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    noun = "input" if len(outcomes) == 1 else "inputs"
    typer.echo(f"{len(outcomes)} {noun}: {told}; {seconds:.1f} s")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot make the folder {str(folder)!r}",
            error.strerror or str(error),
            "choose another OUTPUT",
        ) from error
