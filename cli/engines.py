"""`streamdiffvsr engines`: builds, lists, removes and debugs engine sets."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import StreamDiffVSRError
from ..graphs.spec import DEFAULT_STEPS, Size, check_size, format_size, parse_size
from . import options as opt
from .console import FAILED, build_progress

if TYPE_CHECKING:
    from ..engines.cache_listing import CachedSet

MIB = 2**20

engines_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)

OlderThan = Annotated[
    float | None,
    typer.Option("--older-than", metavar="DAYS", min=0, help="And sets built longer ago."),
]
Everything = Annotated[bool, typer.Option("--all", metavar="", help="Every set of the cache.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", metavar="", help="Only say what would be removed.")
]


@engines_app.callback()
def engines(
    context: typer.Context,
    model: opt.Model = None,
    sizes: opt.Sizes = None,
    backend: opt.BackendName = "auto",
    precision: opt.PrecisionName = None,
    out: opt.EnginesOut = None,
    steps: opt.Steps = DEFAULT_STEPS,
    flow_scale: opt.FlowScale = None,
    tile: opt.Tile = "auto",
    device: opt.Device = "auto",
    revision: opt.Revision = None,
    compute_capabilities: opt.ComputeCapabilities = None,
    workspace: opt.Workspace = None,
    optimization_level: opt.OptimizationLevel = None,
    color_match: opt.ColorMatch = "auto",
    json: opt.Json = False,
) -> dict[str, Any] | None:
    """Build engines of a model for an input size: once per machine, a minute or more each."""
    if context.invoked_subcommand is not None:
        return None
    started = time.monotonic()
    options = opt.BuildOptions(
        backend,
        precision,
        steps,
        flow_scale,
        tile,
        device,
        revision,
        compute_capabilities,
        workspace,
        optimization_level,
        color_match,
    )
    wanted = dict.fromkeys(parse_size(text, "--size") for text in sizes or [opt.DEFAULT_SIZE])
    built = []
    for size in wanted:
        folder = out / format_size(size) if out is not None and len(wanted) > 1 else out
        made = build_engines(model, size, options, folder, quiet=json)
        built.append(opt.described(made, options.run_on))
        if not json:
            typer.echo("{size} {precision}, {backend} on {device}: {path}".format(**built[-1]))
            tell_memory(made, options.run_on, always=True)
    return {"engines": built, "seconds": round(time.monotonic() - started, 2)}


@engines_app.command("list")
def list_engines(json: opt.Json = False) -> dict[str, Any]:
    """List the engine sets in the user's cache."""
    from ..engines.cache import engines_root
    from ..engines.cache_listing import list_sets

    sets = list_sets(engines_root())
    if not json:
        for entry in sets:
            what = f"{entry.model or '?'} {entry.size} {entry.precision}".rstrip()
            where = f"{entry.backend or '?'} on {entry.device or '?'}"
            told = f"{entry.bytes / MIB:.1f} MiB, {_age(entry.age_days)}"
            state = f"stale: {entry.stale}" if entry.stale else f"gate {entry.gate}"
            typer.echo(f"{what}, {where}, {told}, {state}\n  {entry.path}")
        typer.echo(f"{_total(sets)} in {engines_root()}")
    return {"root": str(engines_root()), "engines": [entry.to_json() for entry in sets]}


@engines_app.command("prune")
def prune_engines(
    older_than: OlderThan = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    json: opt.Json = False,
) -> dict[str, Any]:
    """Remove engine sets of the cache that are broken, or of another version of a library."""
    from ..engines.cache import engines_root
    from ..engines.cache_listing import prune

    removed = prune(
        engines_root(), older_than_days=older_than, everything=everything, dry_run=dry_run
    )
    if not json:
        verb = "would remove" if dry_run else "removed"
        for entry in removed:
            typer.echo(f"{verb} {entry.path} ({entry.bytes / MIB:.1f} MiB): {entry.stale}")
        typer.echo(f"{verb} {_total(removed)}")
    return {
        "root": str(engines_root()),
        "dry_run": dry_run,
        "removed": [entry.to_json() for entry in removed],
        "bytes": sum(entry.bytes for entry in removed),
    }


def build_engines(
    model: str | None, size: Size, options: opt.BuildOptions, out: Path | None, *, quiet: bool
) -> Path:
    """The folder of an engine set that is built now or was there; progress goes to stderr."""
    from ..building.builder import build

    model = model or opt.BUILT_IN
    first: list[str] = []
    settled = options.settled(first.append)
    check_size(size)
    if model == opt.AUTO:
        from ..export.model_source import released_or_built_in

        model = released_or_built_in(lambda line: typer.echo(line, err=True))
    with build_progress(enabled=not quiet, first=first) as progress:
        return build(model, size=size, out=out, progress=progress, **settled)


def check_runs_here(options: opt.BuildOptions) -> None:
    """Raise `StreamDiffVSRError` if engines built so could not run on this machine."""
    from ..engines.host import why_no_gpu
    from ..engines.interface import kind_of, ordinal_of
    from ..engines.registry import BACKENDS

    settled = options.settled()
    device = settled["device"]
    if kind_of(device) == "cuda" and (obstacle := why_no_gpu(ordinal_of(device))):
        on_cpu = "cpu" in BACKENDS[settled["backend"]].devices
        here = "use --device cpu" if on_cpu else "use --backend onnxruntime"
        raise StreamDiffVSRError(
            f"engines of {settled['backend']} for a GPU cannot run here",
            obstacle,
            f"{here}, or build them for another machine: streamdiffvsr engines",
        )


def tell_memory(engines: Path, device: str | None = None, *, always: bool = False) -> None:
    """Say on stderr what a run of an engine set needs: to a person, and where it is much."""
    from ..runtime.memory import check_memory_fit

    found = check_memory_fit(engines, device)
    if always or found.tight or sys.stderr.isatty():
        typer.echo(found.describe(), err=True)


def _age(days: float) -> str:
    hours = days * 24
    return f"{hours:.0f} hours old" if hours < 48 else f"{days:.0f} days old"


def _total(sets: Sequence[CachedSet]) -> str:
    noun = "engine set" if len(sets) == 1 else "engine sets"
    return f"{len(sets)} {noun}, {sum(entry.bytes for entry in sets) / MIB:.1f} MiB"


if TYPE_CHECKING:
    from ..building.debug import Report, Request

Graph = Annotated[
    str,
    typer.Argument(
        metavar="GRAPH", help="prepare, features, flow, guide, temporal, denoise or decode."
    ),
]
OF_KEPT_ENGINES = ("compute_capabilities", "workspace_mib", "optimization_level", "color_match")
DebugSize = Annotated[str, typer.Option("--size", metavar="WxH", help="Of the input.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="E",
        min=0,
        help="Error of a layer, relative to its largest value (at least 1).",
        show_default="the parity gate's",
    ),
]
First = Annotated[int, typer.Option("--first", metavar="N", min=1, help="Layers to show.")]


def debug(
    graph: Graph,
    model: opt.Model = None,
    size: DebugSize = opt.DEFAULT_SIZE,
    backend: opt.BackendName = "auto",
    precision: opt.PrecisionName = None,
    device: opt.Device = "auto",
    steps: opt.Steps = DEFAULT_STEPS,
    flow_scale: opt.FlowScale = None,
    tile: opt.Tile = "auto",
    revision: opt.Revision = None,
    tolerance: Tolerance = None,
    first: First = 10,
    json: opt.Json = False,
) -> dict[str, Any]:
    """Name the first layer of an engine that differs from ONNX Runtime in float32."""
    from ..building.debug import Request, debug_engine

    options = opt.BuildOptions(backend, precision, steps, flow_scale, tile, device, revision)
    settled = options.settled(lambda line: None if json else typer.echo(line, err=True))
    for name in OF_KEPT_ENGINES:
        del settled[name]
    request = Request(
        graph=graph,
        model=model or opt.BUILT_IN,
        size=parse_size(size, "--size"),
        tolerance=tolerance,
        **settled,
    )
    with build_progress(enabled=not json) as progress:
        report = debug_engine(request, progress)
    if not json:
        _show(report, request, first)
    return _described(report, request, first)


def _show(report: Report, request: Request, first: int) -> None:
    outputs = ", ".join(f"{name} {error:.2g}" for name, error in report.outputs.items())
    what = f"{request.graph}, {request.backend} {request.precision} on {request.device}"
    typer.echo(f"{what}: error of its outputs {outputs} (tolerance {report.tolerance:.2g})")
    if not report.layers:
        typer.echo(
            "no layer diverges when each is an output" if report.diverges else "no layer diverges"
        )
        return
    shown = report.layers[:first]
    typer.echo(f"{len(report.layers)} layers diverge; in order:")
    width = max(len(found.layer.name) for found in shown)
    for found in shown:
        shape = "x".join(map(str, found.layer.tensor.shape))
        where = f"{found.place:>6} of {found.count}"
        typer.echo(f"{where}  {found.layer.name:<{width}}  {found.layer.op} {shape}: {found.told}")


def _described(report: Report, request: Request, first: int) -> dict[str, Any]:
    """What `--json` prints; an error that is not finite is null."""
    return {
        "graph": request.graph,
        "backend": request.backend,
        "precision": request.precision,
        "device": request.device,
        "tolerance": report.tolerance,
        "outputs": {name: _finite(error) for name, error in report.outputs.items()},
        "diverging": len(report.layers),
        "layers": [
            {
                "node": found.layer.name,
                "op": found.layer.op,
                "output": found.layer.tensor.name,
                "shape": list(found.layer.tensor.shape),
                "error": _finite(found.error),
                "place": found.place,
                "of": found.count,
            }
            for found in report.layers[:first]
        ],
        "exit_code": FAILED if report.diverges else 0,
    }


def _finite(error: float) -> float | None:
    return error if error < float("inf") else None


if TYPE_CHECKING:
    from ..building.debug import Operators


def operators(
    model: opt.Model = None,
    size: DebugSize = opt.DEFAULT_SIZE,
    precision: opt.PrecisionName = None,
    steps: opt.Steps = DEFAULT_STEPS,
    flow_scale: opt.FlowScale = None,
    tile: opt.Tile = "auto",
    revision: opt.Revision = None,
    json: opt.Json = False,
) -> dict[str, Any]:
    """Count the nodes of every graph, as it is exported and as TensorRT is given it."""
    from ..building.debug import count_graphs

    options = opt.BuildOptions("onnxruntime", precision, steps, flow_scale, tile, "cpu", revision)
    wanted = parse_size(size, "--size")
    check_size(wanted)
    with build_progress(enabled=not json) as progress:
        counted = count_graphs(
            model or opt.BUILT_IN, size=wanted, progress=progress, **options.settled()
        )
    if not json:
        typer.echo("| graph | exported | given to TensorRT | operators |\n|---|---|---|---|")
        for one in counted:
            typer.echo(_row(one))
    return {"graphs": [one.to_json() for one in counted]}


def _row(one: Operators) -> str:
    """One graph; an operator whose number changes has both."""
    told = []
    for name in sorted(one.exported | one.rewritten, key=lambda op: (-one.exported[op], op)):
        before, after = one.exported[name], one.rewritten[name]
        told.append(f"{name} {before}" if before == after else f"{name} {before} to {after}")
    counts = f"{one.exported.total()} | {one.rewritten.total()}"
    return f"| `{one.graph}` | {counts} | {', '.join(told)} |"
