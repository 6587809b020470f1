"""The command line: engines, upscale, live, bench, doctor, demo.

Options in, a library call or two, a line or a JSON object out. Nothing heavy is imported before a
command needs it, so `--help` is quick. Sizes are WxH here and (h, w) in Python.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from . import cli_options as opt
from .cli_bench import bench_app
from .cli_debug import debug
from .cli_engines import build_engines, check_runs_here, engines_app, tell_memory
from .cli_live import live, with_preview_at
from .console import end, run
from .errors import UsageError
from .spec import SCALE, Size

DEMO_FOLDER = Path("demo-out")

app = typer.Typer(
    help="4x video super-resolution as the video arrives.",
    epilog="First steps: streamdiffvsr doctor, then streamdiffvsr demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
engines_app.command("debug")(debug)
app.add_typer(engines_app, name="engines")
app.command()(live)
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: run a command line, return its exit code."""
    given = with_preview_at(sys.argv[1:] if arguments is None else arguments)

    def action() -> dict[str, Any] | None:
        command = typer.main.get_command(app)
        with command.make_context("streamdiffvsr", given or ["--help"]) as context:
            result: dict[str, Any] | None = command.invoke(context)
            return result

    code = run(action, as_json="--json" in given)
    return end(code) if arguments is None else code


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"streamdiffvsr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_show_version,
            is_eager=True,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    pass


@app.command()
def upscale(
    input: opt.Input,
    output: opt.Output,
    engines: opt.Engines = None,
    model: opt.Model = None,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    max_frames: opt.MaxFrames = None,
    backend: opt.BackendName = "auto",
    precision: opt.PrecisionName = None,
    steps: opt.Steps = 4,
    flow_scale: opt.FlowScale = None,
    tile: opt.Tile = "auto",
    device: opt.Device = "auto",
    revision: opt.Revision = None,
    json: opt.Json = False,
) -> dict[str, Any]:
    """Upscale a video file 4x; sound and times are kept.

    Without --engines, those for its size are taken from the cache, or built first.
    """
    options = opt.BuildOptions(backend, precision, steps, flow_scale, tile, device, revision)
    if engines is not None and (model is not None or options != opt.BuildOptions()):
        raise UsageError(
            "--engines cannot be mixed with options of a build",
            "those engines are built already",
            "leave out --engines, or all but --seed, --overwrite, --max-frames and --json",
        )
    size = _looked_at(input, output, overwrite)
    if engines is None:
        check_runs_here(options)
        engines = build_engines(model, size, options, None, quiet=json)
    keywords = {"seed": seed, "overwrite": overwrite, "max_frames": max_frames}
    report = _upscale(input, output, engines, keywords, quiet=json)
    if not json:
        typer.echo(summary(report))
    return {**report, "engines": str(engines), "seed": seed}


@app.command()
def doctor(json: opt.Json = False) -> dict[str, Any]:
    """Say what this machine has, what can run here, and how to get what is missing."""
    from .doctor import examine
    from .doctor_report import show

    report = examine()
    if not json:
        show(report)
    return report.to_json()


@app.command()
def demo(out: opt.DemoOut = DEMO_FOLDER, json: opt.Json = False) -> dict[str, Any]:
    """Upscale the built-in clip with the built-in model, and draw what that gained."""
    from .demo import run_demo

    return run_demo(out, quiet=json)


def summary(report: dict[str, Any]) -> str:
    """A finished file in one line."""
    line = "{output}: {frames} frames, {input_size} -> {output_size}, {seconds} s ({fps} fps)"
    damaged = f"; {report['damaged']} damaged packets in the input" if report["damaged"] else ""
    return line.format(**report) + damaged


def _looked_at(input: Path, output: Path, overwrite: bool) -> Size:
    """The input's size; whatever would stop the job is told before minutes of work for it."""
    from .runtime.media.preflight import check_output
    from .runtime.media.preflight import check_size as check_encodable
    from .runtime.media.probe import probe

    check_output(output, source=input, overwrite=overwrite)
    height, width = probe(input).size
    check_encodable((SCALE * height, SCALE * width), f"could not write {str(output)!r}")
    return height, width


def _upscale(
    input: Path, output: Path, engines: Path, keywords: dict[str, Any], *, quiet: bool
) -> dict[str, Any]:
    from .runtime.files.progress import progress_bar
    from .runtime.files.upscale import upscale_file
    from .runtime.upscaler import load

    if not quiet:
        tell_memory(engines)
    upscaler = load(engines)
    with progress_bar(output.name, enabled=not quiet) as progress:
        return upscale_file(input, output, upscaler, progress=progress, **keywords).to_json()


if __name__ == "__main__":
    sys.exit(main())
