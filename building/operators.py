"""What the graphs of a model consist of: as they are exported, and as TensorRT is given them.

Exports into a folder that is removed again; builds nothing, and needs no TensorRT.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engines.precision import FP8
from ..errors import UsageError
from ..graph_set import onnx_file
from ..spec import GRAPHS, Size
from .memory import check_memory
from .order import export
from .request import resolve

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Operators:
    """How many nodes of each operator one graph has."""

    graph: str
    exported: Counter[str]
    rewritten: Counter[str]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "graph": self.graph,
            "exported": dict(self.exported.most_common()),
            "tensorrt": dict(self.rewritten.most_common()),
        }


def count_graphs(
    model: str, *, size: Size, precision: str, progress: Progress = lambda _: None, **options: Any
) -> list[Operators]:
    """The operators of every graph.

    Args:
        options: More of `builder.build`'s that decide how a graph is exported.

    Raises:
        StreamDiffVSRError: The model cannot be exported here.
    """
    if precision == FP8:
        raise UsageError(
            "the operators of fp8 graphs are not counted",
            "they are those of fp16 with pairs of conversions to eight bits in denoise",
            "use --precision fp16",
        )
    from ..engines.trt_graph import rewrite_graph
    from ..export.digest import model_files
    from ..network import count_operators

    order, _ = resolve(model, size=size, precision=precision, **options)
    check_memory(model_files(order.source), order.key)
    counted = []
    with tempfile.TemporaryDirectory(prefix="streamdiffvsr-graphs-") as name:
        folder = Path(name)
        export(replace(order, stage=folder), progress)
        for graph in GRAPHS:
            path = folder / onnx_file(graph)
            exported = count_operators(path)
            rewrite_graph(path, group_norms=True)
            counted.append(Operators(graph, exported, count_operators(path)))
    return counted
