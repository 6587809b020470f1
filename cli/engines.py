"""Defines `streamdiffvsr engines`, which builds, lists, removes and debugs engine sets."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..building.request import AUTO, BuildRequest
from ..errors import StreamDiffVSRError
from ..graphs.spec import Size, check_size, format_bytes, format_size, parse_size
from . import options as opt
from .console import FAILED, build_progress

if TYPE_CHECKING:
    from ..building.debug import LayerRequest, Operators, Report
    from ..building.provider import EngineProvider
    from ..engines.cache_listing import CachedSet

engines_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)

OlderThan = Annotated[
    float | None,
    typer.Option(
        "--older-than",
        metavar="DAYS",
        min=0,
        help="Also remove sets that were built more than DAYS days ago.",
    ),
]
Everything = Annotated[bool, opt.flag("--all", "Remove all sets in the cache.")]
TrustedFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder of the engine set.", show_default=False)
]
Revoke = Annotated[
    bool, opt.flag("--revoke", "Take it back: a set that you have not built is refused again.")
]
DryRun = Annotated[bool, opt.flag("--dry-run", "Show what would be removed; remove nothing.")]


@engines_app.callback()
@opt.with_build_options()
def engines(
    context: typer.Context,
    sizes: opt.Sizes = None,
    out: opt.EnginesOut = None,
    batch: opt.Batch = 1,
    json: opt.Json = False,
    *,
    build: BuildRequest,
) -> dict[str, Any] | None:
    """Build a model's engines for one or more input sizes.

    They go into the user's cache, where the other commands find them. The graphs of a model other
    than the built-in one are exported first, once, which takes a minute or more.
    """
    if context.invoked_subcommand is not None:
        return None
    started = time.monotonic()
    provider, device = engine_provider(replace(build, batch=batch)), build.run_on
    wanted = [build.profile.usual] if build.profile else opt.parse_sizes(sizes)
    built = []
    for size in wanted:
        folder = out / format_size(size) if out is not None and len(wanted) > 1 else out
        made = build_engines(provider, size, folder, quiet=json)
        built.append(opt.described(made, device))
        if not json:
            typer.echo("{size} {precision}, {backend} on {device}: {path}".format(**built[-1]))
            report_memory(made, device, always=True)
    return {"engines": built, "seconds": round(time.monotonic() - started, 2)}


@engines_app.command("list")
def list_engines(json: opt.Json = False) -> dict[str, Any]:
    """List the engine sets in the user's cache, and those elsewhere that `engines trust` accepted.

    The latter are named by the folders in which they were then.
    """
    from ..engines.cache import engines_root
    from ..engines.cache_listing import list_sets
    from ..engines.trust import trusted_elsewhere

    sets, problem = list_sets(engines_root()), _key_problem()
    elsewhere: dict[str, Path] = {}
    with contextlib.suppress(StreamDiffVSRError):  # the problem of the key, which is said below
        elsewhere = trusted_elsewhere()
    if not json:
        for entry in sets:
            batch = f"batch {entry.batch}" if entry.batch > 1 else ""
            options = " ".join(
                filter(None, (f"{entry.steps} steps", entry.flow, entry.tile, batch))
            )
            what = f"{entry.model or '?'} {entry.size} {entry.precision} {options}".rstrip()
            where = f"{entry.backend or '?'} on {entry.device or '?'}"
            size = f"{format_bytes(entry.bytes, 'MiB')}, {_age(entry.age_days)}"
            trusted = f"not trusted: {entry.untrusted}" if entry.untrusted else "trusted"
            state = f"stale: {entry.stale}" if entry.stale else f"gate {entry.gate}, {trusted}"
            typer.echo(f"{what}, {where}, {size}, {state}\n  {entry.path}")
        typer.echo(f"{_total(sets)} in {engines_root()}")
        for digest, folder in elsewhere.items():
            typer.echo(f"trusted outside the cache: {folder}, manifest {digest[:16]}")
        if problem:
            typer.echo(problem, err=True)
    return {
        "root": str(engines_root()),
        "engines": [entry.to_json() for entry in sets],
        "trusted_elsewhere": [
            {"path": str(folder), "manifest": digest} for digest, folder in elsewhere.items()
        ],
        "key_problem": problem,
    }


@engines_app.command("prune")
def prune_engines(
    older_than: OlderThan = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    json: opt.Json = False,
) -> dict[str, Any]:
    """Remove the engine sets in the user's cache that can no longer be used here.

    These are damaged sets, sets made for another version of this program or of a library, and the
    leftovers of interrupted builds. Sets that are not trusted are kept: they may be trusted yet, or
    are built again when they are needed.
    """
    from ..engines.cache import engines_root
    from ..engines.cache_listing import prune

    removed = prune(
        engines_root(), older_than_days=older_than, everything=everything, dry_run=dry_run
    )
    if not json:
        verb = "would remove" if dry_run else "removed"
        for entry in removed:
            typer.echo(f"{verb} {entry.path} ({format_bytes(entry.bytes, 'MiB')}): {entry.stale}")
        typer.echo(f"{verb} {_total(removed)}")
    return {
        "root": str(engines_root()),
        "dry_run": dry_run,
        "removed": [entry.to_json() for entry in removed],
        "bytes": sum(entry.bytes for entry in removed),
    }


@engines_app.command("trust")
def trust_engines(
    folder: TrustedFolder, revoke: Revoke = False, json: opt.Json = False
) -> dict[str, Any]:
    """Trust an engine set that was built elsewhere, as it is now.

    Engines are programs: trust only those of people whose programs you would run. A set that this
    user has built, or whose builder shares the key of STREAMDIFFVSR_ENGINES_KEY or
    STREAMDIFFVSR_ENGINES_KEY_FILE, is trusted without this.
    """
    from ..engines.trust import distrust, is_trusted, trust

    if revoke:
        was = distrust(folder)
        if still := is_trusted(folder):
            now = "still loaded, as you built it (a key of yours has signed it)"
        else:
            now = "no longer trusted" if was else "was not trusted"
        if not json:
            typer.echo(f"{now}: {folder}")
        return {"path": str(folder), "trusted": still, "was_trusted": was}
    manifest, digest = trust(folder)
    key = manifest.key
    if not json:
        what = f"{Path(manifest.model_name).name} {key.size} {key.precision}, {key.backend} on"
        files = f"{len(manifest.files)} files, manifest {digest}"
        typer.echo(f"trusted: {what} {key.gpu or key.device}, {files}: {folder}")
    return {"path": str(folder), "trusted": True, "manifest": digest}


def engine_provider(build: BuildRequest) -> EngineProvider:
    """Returns the provider that finds or builds a command's engines, with messages on stderr."""
    from ..building.provider import EngineProvider

    return EngineProvider(build, lambda line: typer.echo(line, err=True))


def build_engines(
    provider: EngineProvider, size: Size, out: Path | None = None, *, quiet: bool
) -> Path:
    """Returns the folder of an engine set, and builds the set first if there is none.

    Args:
        out: The folder to build it in; None for the user's cache.
        quiet: Whether to leave out the progress on stderr.
    """
    with build_progress(enabled=not quiet) as progress:
        return provider.get(size, progress, out=out)


def report_memory(engines: Path, device: str | None = None, *, always: bool = False) -> None:
    """Writes the memory that an engine set needs to stderr, at a terminal or if it is tight.

    Args:
        device: The device of the run; None for the set's own.
        always: Whether to write it in any case.
    """
    from ..runtime.memory import check_memory_fit

    found = check_memory_fit(engines, device)
    if always or found.tight or sys.stderr.isatty():
        typer.echo(found.describe(), err=True)


def _key_problem() -> str:
    """Returns why it is not known which sets are trusted, and what to do, or ""."""
    from ..engines.trust import check_keys

    try:
        check_keys()
    except StreamDiffVSRError as error:
        return str(error)
    return ""


def _age(days: float) -> str:
    hours, minutes = days * 24, days * 24 * 60
    if minutes < 2:
        return "new"
    if hours < 2:
        return f"{minutes:.0f} minutes old"
    return f"{hours:.0f} hours old" if hours < 48 else f"{days:.0f} days old"


def _total(sets: Sequence[CachedSet]) -> str:
    left = sum(entry.path.name.startswith(".") for entry in sets)  # hidden while being built
    whole = len(sets) - left
    parts = [f"{whole} engine set{'' if whole == 1 else 's'}"] if whole or not left else []
    parts += [f"the remains of {left} interrupted build{'' if left == 1 else 's'}"] if left else []
    return f"{' and '.join(parts)}, {format_bytes(sum(each.bytes for each in sets), 'MiB')}"


Graph = Annotated[
    str,
    typer.Argument(
        metavar="GRAPH",
        help="The graph to check: prepare, features, flow, guide, temporal, denoise or decode.",
    ),
]
OF_COMPILED_ENGINES = ("compute_capabilities", "workspace_mib", "optimization_level")
DebugSize = Annotated[
    str, typer.Option("--size", metavar="WxH", help="Size of the input frames in pixels.")
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="E",
        min=0,
        help="Report a layer if its largest error exceeds E times the largest value of its exact "
        "output (E itself if that value is below 1)."
        + opt.default("the limit that builds are checked with: 0.0001 for fp32, 0.05 for fp16"),
    ),
]
First = Annotated[
    int,
    typer.Option("--first", metavar="N", min=1, help="Show at most N of the layers that differ."),
]


@opt.with_build_options(without=OF_COMPILED_ENGINES)
def debug(
    graph: Graph,
    size: DebugSize = opt.DEFAULT_SIZE,
    tolerance: Tolerance = None,
    first: First = 10,
    json: opt.Json = False,
    *,
    build: BuildRequest,
) -> dict[str, Any]:
    """List the layers of an engine that differ from ONNX Runtime in float32, in execution order."""
    from ..building.debug import LayerRequest, debug_engine

    provider = engine_provider(build)
    if build.backend == AUTO and not json:
        typer.echo(provider.choice.describe(), err=True)
    request = LayerRequest(graph, provider.request, parse_size(size, "--size"), tolerance)
    with build_progress(enabled=not json) as progress:
        report = debug_engine(request, progress)
    if not json:
        _show(report, request, first)
    return _described(report, request, first)


def _show(report: Report, request: LayerRequest, first: int) -> None:
    build = request.build
    outputs = ", ".join(f"{name} {error:.2g}" for name, error in report.outputs.items())
    what = f"{request.graph}, {build.backend} {build.precision} on {build.device}"
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
        typer.echo(
            f"{where}  {found.layer.name:<{width}}  {found.layer.op} {shape}: {found.described}"
        )


def _described(report: Report, request: LayerRequest, first: int) -> dict[str, Any]:
    """Returns what `--json` prints; an error that is not finite is null."""
    return {
        "graph": request.graph,
        "backend": request.build.backend,
        "precision": request.build.precision,
        "device": request.build.device,
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


@opt.with_build_options(without=("backend", "device", *OF_COMPILED_ENGINES))
def operators(
    size: DebugSize = opt.DEFAULT_SIZE, json: opt.Json = False, *, build: BuildRequest
) -> dict[str, Any]:
    """Count the operators of every graph, as exported and as rewritten for TensorRT."""
    from ..building.debug import count_graphs

    request = replace(build, backend="onnxruntime", device="cpu").settled()
    wanted = parse_size(size, "--size")
    check_size(wanted)
    with build_progress(enabled=not json) as progress:
        counted = count_graphs(request, wanted, progress)
    if not json:
        typer.echo("| graph | exported | given to TensorRT | operators |\n|---|---|---|---|")
        for one in counted:
            typer.echo(_row(one))
    return {"graphs": [one.to_json() for one in counted]}


def _row(one: Operators) -> str:
    """Returns a graph's row of the table; an operator whose number changes shows both numbers."""
    operators = []
    for name in sorted(one.exported | one.rewritten, key=lambda op: (-one.exported[op], op)):
        before, after = one.exported[name], one.rewritten[name]
        operators.append(f"{name} {before}" if before == after else f"{name} {before} to {after}")
    counts = f"{one.exported.total()} | {one.rewritten.total()}"
    return f"| `{one.graph}` | {counts} | {', '.join(operators)} |"
