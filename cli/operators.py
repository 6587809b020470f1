"""`streamdiffvsr engines operators`: what the graphs consist of that a backend is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ..console import build_progress
from ..spec import check_size, parse_size
from . import options as opt
from .debug import DebugSize

if TYPE_CHECKING:
    from ..building.operators import Operators


def operators(
    model: opt.Model = None,
    size: DebugSize = opt.DEFAULT_SIZE,
    precision: opt.PrecisionName = None,
    steps: opt.Steps = 4,
    flow_scale: opt.FlowScale = None,
    tile: opt.Tile = "auto",
    revision: opt.Revision = None,
    json: opt.Json = False,
) -> dict[str, Any]:
    """Count the nodes of every graph, as it is exported and as TensorRT is given it."""
    from ..building.operators import count_graphs

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
