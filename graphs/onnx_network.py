"""Reads the tensors of an ONNX file and replaces its nodes; for networks without control flow.

Shared by the code that writes networks and the code that compiles them. It needs onnx, from the
export extra, and never loads weights: those stay in the file next to the network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

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


def raw_data(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Returns a tensor's bytes, which may be in a weights file of a folder.

    onnx itself refuses a file with several hard links, and the sets of a model share one.

    Raises:
        ValueError: The file's name is not a plain one.
        OSError: It cannot be read.
    """
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor).tobytes()
    entry = {e.key: e.value for e in tensor.external_data}
    if Path(entry["location"]).name != entry["location"]:
        raise ValueError(f"weights in {entry['location']!r}")
    with (folder / entry["location"]).open("rb") as file:
        file.seek(int(entry.get("offset", 0)))
        data: bytes = file.read(int(entry["length"]))
        return data


def value_of(tensor: onnx.TensorProto, folder: Path) -> npt.NDArray[Any]:
    """Returns a tensor's value; see `raw_data`."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.frombuffer(raw_data(tensor, folder), dtype).reshape(tuple(tensor.dims))


def read_network(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file without its weights."""
    return onnx.load(str(path), load_external_data=False)


def weights_files(network: onnx.ModelProto) -> set[str]:
    """Returns the names of the files, next to an ONNX file, in which its weights are stored."""
    entries = (entry for tensor in network.graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def count_operators(path: Path) -> Counter[str]:
    """Returns how many nodes of each operator an ONNX file has."""
    network = onnx.load(str(path), load_external_data=False)
    return Counter(node.op_type for node in network.graph.node)


def skeleton(path: Path) -> list[Hashable]:
    """Returns what an ONNX file computes, without the constants that depend on its size.

    Two graphs of one model with equal skeletons run the same operators on the same weights. Nodes
    that only compute constants do not count: which of them are folded depends on the size.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    known: dict[str, Hashable] = {"": None}
    for value in graph.input:
        known[value.name] = value.name
    for tensor in graph.initializer:
        places = sorted((entry.key, entry.value) for entry in tensor.external_data)
        known[tensor.name] = ("constant", *places)
    lines: list[Hashable] = []
    for node in graph.node:
        inputs = tuple(known[name] for name in node.input)
        if all(value is None or isinstance(value, tuple) for value in inputs):
            known |= dict.fromkeys(node.output, ("constant",))
            continue
        attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
        for index, name in enumerate(node.output):
            known[name] = f"{len(lines)}.{index}"
        lines.append((node.domain, node.op_type, tuple(attributes), inputs))
    return [*lines, *(known[value.name] for value in graph.output)]


def _set(field: Any, entries: list[Any]) -> None:
    del field[:]
    field.extend(entries)


# Operators that pass on their first input unchanged if its type and shape are those of the output.
PASS_ON = ("Cast", "CastLike", "Identity", "Reshape")
INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def tidy(network: onnx.ModelProto) -> None:
    """Removes nodes without effect and duplicates, in place; weights need not be loaded."""
    graph = network.graph
    kinds = tensor_kinds(graph)
    outputs = {value.name for value in graph.output}
    same = dict(_equal_constants(graph))  # a tensor -> the one that replaces it
    made: dict[Hashable, onnx.NodeProto] = {}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        needed = not outputs.isdisjoint(node.output)
        if not needed and _passes_on(node, kinds):
            same[node.output[0]] = node.input[0]
            continue
        twin = made.setdefault(_work(node), node)
        if twin is not node and not needed:
            same |= zip(node.output, twin.output, strict=True)
            continue
        kept.append(node)
    replace_nodes(graph, kept)


def _equal_constants(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Yields (constant, an earlier one that is equal), for integers and scalars but not weights."""
    first: dict[Hashable, str] = {}
    for tensor in graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external or not (tensor.data_type in INTEGERS or not tensor.dims):
            continue
        content = numpy_helper.to_array(tensor).tobytes()
        known = first.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
        if known != tensor.name:
            yield tensor.name, known


def _passes_on(node: onnx.NodeProto, kinds: dict[str, Kind]) -> bool:
    given, made = kinds.get(node.input[0]), kinds.get(node.output[0])
    return node.op_type in PASS_ON and given is not None and given == made


def _work(node: onnx.NodeProto) -> Hashable:
    """Returns a key of what a node computes, equal for two nodes that compute the same."""
    attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
    return node.domain, node.op_type, tuple(node.input), len(node.output), tuple(attributes)


# Operators whose output is a view of their input's memory.
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def activation_bytes(path: Path) -> int:
    """Returns the bytes of the intermediate tensors alive at the worst node of an ONNX file.

    Weights do not count, nor do the graph's own inputs and outputs, for which a caller has buffers.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    sizes = {value.name: _bytes(value) for value in graph.value_info}
    owner: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in VIEWS:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    last_use = {
        owner.get(name, name): index
        for index, node in enumerate(graph.node)
        for name in (*node.input, *node.output)
    }
    peak = now = 0
    alive: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        born = {name: sizes.get(name, 0) for name in node.output if name not in owner}
        alive |= born
        now += sum(born.values())
        peak = max(peak, now)
        touched: Iterable[str] = {owner.get(name, name) for name in (*node.input, *node.output)}
        now -= sum(alive.pop(name, 0) for name in touched if last_use[name] == index)
    return peak


def _bytes(value: onnx.ValueInfoProto) -> int:
    tensor = value.type.tensor_type
    width = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    count: int = prod(dim.dim_value for dim in tensor.shape.dim)
    return count * int(width)
