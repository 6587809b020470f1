"""Puts the commands together: engines, upscale, live, serve, bench, doctor and demo.

Heavy libraries are imported only when a command needs them, so `--help` is quick. Sizes are WxH on
the command line and (h, w) in Python.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from . import options as opt
from .bench import bench_app
from .console import end, run
from .engines import debug, engines_app, operators
from .live import live
from .live_preview import with_preview_at
from .serve import serve
from .upscale import upscale

DEMO_FOLDER = Path("demo-out")

app = typer.Typer(
    help="4x video super-resolution as the video arrives.",
    epilog="First steps: streamdiffvsr doctor, then streamdiffvsr demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
engines_app.command("debug", cls=opt.Command)(debug)
engines_app.command("operators")(operators)
app.add_typer(engines_app, name="engines")
app.command(cls=opt.Command)(upscale)
app.command(cls=opt.Command)(live)
app.command(cls=opt.Command)(serve)
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code; the entry point of the console script."""
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
        opt.flag("--version", "Print the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command()
def doctor(json: opt.Json = False) -> dict[str, Any]:
    """Check what this machine has and what can run on it, and show how to get what is missing."""
    from .doctor import examine, show

    report = examine()
    if not json:
        show(report)
    return report.to_json()


@app.command()
def demo(
    out: opt.DemoOut = DEMO_FOLDER, device: opt.Device = "auto", json: opt.Json = False
) -> dict[str, Any]:
    """Upscale the built-in clip with the built-in model, and draw a comparison with bicubic."""
    from .demo import run_demo

    return run_demo(out, device, quiet=json)
