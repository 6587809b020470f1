"""An ONNX network as it lies in a file: what its tensors are, and what of it is of no use.

Shared by those who write networks and those who compile them. Needs onnx, of the export extra, and
never a weight: those stay in the file beside the network. For networks without control flow.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

Kind = tuple[int, tuple[int, ...]]  # element type, shape


def tensor_kinds(graph: onnx.GraphProto) -> dict[str, Kind]:
    """Type and shape of every tensor of a graph that says them; shapes are static."""
    types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}
    kinds = {
        name: (kind.elem_type, tuple(int(dim.dim_value) for dim in kind.shape.dim))
        for name, kind in types.items()
    }
    return kinds | {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give a graph other nodes, and drop the constants and what is said of tensors they leave."""
    read = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    _set(graph.node, nodes)
    _set(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    _set(graph.value_info, [value for value in graph.value_info if value.name in made])


def count_operators(path: Path) -> Counter[str]:
    """How many nodes of each operator an ONNX file has."""
    network = onnx.load(str(path), load_external_data=False)
    return Counter(node.op_type for node in network.graph.node)


def _set(field: Any, entries: list[Any]) -> None:
    del field[:]
    field.extend(entries)
