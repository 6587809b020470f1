"""`streamdiffvsr engines debug`: which layer of an engine is the first to differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import FAILED, build_progress
from ..spec import parse_size
from . import options as opt

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
    steps: opt.Steps = 4,
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
