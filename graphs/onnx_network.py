"""Reads the tensors of an ONNX file and replaces its nodes; for networks without control flow.

Shared by the code that writes networks and the code that compiles them. It needs onnx, from the
export extra, and never loads weights: those stay in the file next to the network.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

Kind = tuple[int, tuple[int, ...]]  # element type, shape


def tensor_kinds(graph: onnx.GraphProto) -> dict[str, Kind]:
    """Returns the element type and static shape of every tensor whose type the graph declares."""
    types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}
    kinds = {
        name: (kind.elem_type, tuple(int(dim.dim_value) for dim in kind.shape.dim))
        for name, kind in types.items()
    }
    return kinds | {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replaces a graph's nodes, and drops the constants and tensor types that become unused."""
    read = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    _set(graph.node, nodes)
    _set(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    _set(graph.value_info, [value for value in graph.value_info if value.name in made])


def count_operators(path: Path) -> Counter[str]:
    """Returns how many nodes of each operator an ONNX file has."""
    network = onnx.load(str(path), load_external_data=False)
    return Counter(node.op_type for node in network.graph.node)


def _set(field: Any, entries: list[Any]) -> None:
    del field[:]
    field.extend(entries)
