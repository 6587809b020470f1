"""Makes the graph of one size from an exported graph whose height, width and batch are symbolic.

Sizes are propagated from the inputs, what depends on sizes alone is computed, and what an export
cannot express is added: the padding of odd frames, the cropping of their outputs, and the chunks in
which an on-demand lookup runs. It needs onnx, never torch, and leaves the weights in their file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..graphs.onnx_network import replace_nodes, tidy, value_of, weights_files
from ..graphs.plan import chunk_length
from ..graphs.spec import GraphSpec

Values = npt.NDArray[Any]
# A result that depends on sizes alone is stored up to this size, in bytes, and computed beyond it.
FOLDED_BYTES = 2**16
FEW = 8  # entries of a float tensor that may decide a type, such as the factors of a resize


def specialise(
    source: Path, target: Path, padded: GraphSpec, spec: GraphSpec, positions: int | None = None
) -> set[str]:
    """Writes the graph of one size.

    Args:
        source: A symbolic graph.
        target: The file to write.
        padded: The graph at the size that the networks run at.
        spec: The graph at the frame's own size: smaller inputs are padded by repeating their last
            row and column, and larger outputs are cropped.
        positions: The pixels of the feature maps that an on-demand lookup is split for; None: its
            own. A small graph that stands for a large one is split into as many chunks.

    Returns:
        The names of the weights files that it points at; they are expected in its folder.
    """
    network = onnx.load(str(source), load_external_data=False)
    graph = network.graph
    nodes = _padded(graph, padded, spec)
    known = _Known(network, source.parent, spec)
    nodes = [kept for node in nodes for kept in known.run(node)]
    nodes = _chunked(_cropped(nodes, known, spec), known, positions)
    graph.initializer.extend(known.stored(nodes))
    for values, tensors in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            value.CopyFrom(helper.make_value_info(tensor.name, known.types[tensor.name]))
    del graph.value_info[:]
    graph.value_info.extend(helper.make_value_info(*entry) for entry in known.types.items())
    replace_nodes(graph, nodes)
    tidy(network)
    onnx.save_model(network, str(target))
    return weights_files(network)


class _Known:
    """The types of a graph's tensors at one size, and the values that follow from sizes alone."""

    def __init__(self, network: onnx.ModelProto, folder: Path, spec: GraphSpec) -> None:
        self._opsets = {opset.domain: opset.version for opset in network.opset_import}
        self._folder = folder
        self._weights = {tensor.name: tensor for tensor in network.graph.initializer}
        self.values: dict[str, Values] = {}
        self.types: dict[str, TypeProto] = {
            t.name: helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(np.dtype(t.dtype)), t.shape
            )
            for t in spec.inputs
        }
        self.types |= {
            t.name: helper.make_tensor_type_proto(t.data_type, t.dims)
            for t in self._weights.values()
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return tuple(int(dim.dim_value) for dim in self.types[name].tensor_type.shape.dim)

    def run(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yields the node if frames have to run it; else its results are stored as values."""
        found = self._folded(node)
        if found is None:
            self._infer(node)
            yield node
            return
        for name, value in zip(node.output, found, strict=True):
            self.add(name, value)

    def add(self, name: str, value: Values) -> None:
        """Adds a constant."""
        self.values[name] = value
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.types[name] = helper.make_tensor_type_proto(kind, value.shape)

    def stored(self, nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
        """Yields the values that nodes read, as constants."""
        read = {name for node in nodes for name in node.input}
        for name, value in self.values.items():
            if name in read and name not in self._weights:
                yield numpy_helper.from_array(value, name)

    def _folded(self, node: NodeProto) -> list[Values] | None:
        if node.op_type == "Shape":
            start, end = (
                next((a.i for a in node.attribute if a.name == name), None)
                for name in ("start", "end")
            )
            return [np.array(self.shape(node.input[0])[start:end], np.int64)]
        names = [name for name in node.input if name]
        if not all(self._is_constant(name) for name in names):
            return None
        feeds = {name: self._value(name) for name in names}
        found: list[Values] = list(ReferenceEvaluator(node).run(None, feeds))  # type: ignore[arg-type]
        largest = max(FOLDED_BYTES, sum(value.nbytes for value in feeds.values()))
        return found if sum(value.nbytes for value in found) <= largest else None

    def _is_constant(self, name: str) -> bool:
        if name in self.values:
            return True
        tensor = self._weights.get(name)
        return tensor is not None and prod(tensor.dims) * 8 <= FOLDED_BYTES

    def _decides(self, name: str) -> bool:
        """Returns whether a type may depend on a constant's value: weights never decide one."""
        kind = self.types[name].tensor_type.elem_type
        return kind == TensorProto.INT64 or prod(self.shape(name)) <= FEW

    def _value(self, name: str) -> Values:
        if name not in self.values:
            self.values[name] = value_of(self._weights[name], self._folder)
        return self.values[name]

    def _infer(self, node: NodeProto) -> None:
        schema = onnx.defs.get_schema(node.op_type, self._opsets[node.domain], node.domain)
        data = {
            name: numpy_helper.from_array(self._value(name), name)
            for name in node.input
            if name and self._is_constant(name) and self._decides(name)
        }
        given = {name: self.types[name] for name in node.input if name}
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        self.types |= onnx.shape_inference.infer_node_outputs(
            schema, node, given, data, opset_imports=opsets
        )


def _padded(graph: onnx.GraphProto, padded: GraphSpec, spec: GraphSpec) -> list[NodeProto]:
    """Returns the nodes with those that pad smaller inputs to what the networks take."""
    nodes = list(graph.node)
    for wide, given in zip(padded.inputs, spec.inputs, strict=True):
        if wide.shape == given.shape:
            continue
        name = given.name
        place = next(i for i, node in enumerate(nodes) if name in node.input)
        if nodes[place].op_type == "Cast":  # TensorRT gathers no bytes
            name, place = nodes[place].output[0], place + 1
        for axis, (target, side) in enumerate(zip(wide.shape, given.shape, strict=True)):
            if target == side:
                continue
            index, made = f"{given.name}.index{axis}", f"{given.name}.padded{axis}"
            clamped = np.minimum(np.arange(target), side - 1)
            graph.initializer.append(numpy_helper.from_array(clamped, index))
            for node in nodes[place:]:
                node.input[:] = [made if x == name else x for x in node.input]
            nodes.insert(place, helper.make_node("Gather", [name, index], [made], made, axis=axis))
            name, place = made, place + 1
    return nodes


def _cropped(nodes: list[NodeProto], known: _Known, spec: GraphSpec) -> list[NodeProto]:
    """Returns the nodes with those that crop larger outputs to the frame's size."""
    nodes = list(nodes)
    for tensor in spec.outputs:
        if known.shape(tensor.name) == tensor.shape:
            continue
        whole, bounds = f"{tensor.name}.whole", [f"{tensor.name}.{x}" for x in ("from", "to")]
        for node in nodes:
            node.input[:] = [whole if x == tensor.name else x for x in node.input]
            node.output[:] = [whole if x == tensor.name else x for x in node.output]
        known.types[whole] = known.types[tensor.name]
        known.add(bounds[0], np.zeros(len(tensor.shape), np.int64))
        known.add(bounds[1], np.array(tensor.shape, np.int64))
        crop = helper.make_node("Slice", [whole, *bounds], [tensor.name], tensor.name)
        nodes += known.run(crop)
    return nodes


def _chunked(nodes: list[NodeProto], known: _Known, positions: int | None) -> list[NodeProto]:
    """Returns the nodes with the lookups of an on-demand correlation split into chunks.

    A lookup is a product of gathered rows (n, rows, C) with queries (n, C, 1).
    """
    readers = Counter(name for node in nodes for name in node.input)
    makers = {name: node for node in nodes for name in node.output}
    instead: dict[str, list[NodeProto]] = {}
    for product in (node for node in nodes if node.op_type == "MatMul"):
        rows = makers.get(product.input[0])
        if rows is None or rows.op_type != "Gather" or readers[rows.output[0]] > 1:
            continue
        count, window, channels = known.shape(rows.output[0])
        whole = positions or count
        chunks = min(count, -(-whole // chunk_length(whole, channels, window)))
        if chunks > 1:
            ends = [count * i // chunks for i in range(chunks + 1)]
            lengths = [end - start for start, end in pairwise(ends)]
            instead[rows.output[0]] = []
            instead[product.output[0]] = list(_in_chunks(rows, product, known, lengths))
    return [new for node in nodes for new in instead.get(node.output[0], [node])]


def _in_chunks(
    rows: NodeProto, product: NodeProto, known: _Known, lengths: list[int]
) -> Iterator[NodeProto]:
    table, index, query, out = rows.input[0], rows.input[1], product.input[1], product.output[0]
    known.add(f"{out}.lengths", np.array(lengths, np.int64))
    made: dict[str, list[str]] = {}
    for kind, name in (("index", index), ("query", query)):
        made[kind] = [f"{out}.{kind}{i}" for i in range(len(lengths))]
        yield from known.run(helper.make_node("Split", [name, f"{out}.lengths"], made[kind]))
    products = []
    for i, (where, which) in enumerate(zip(made["index"], made["query"], strict=True)):
        gathered, part = f"{out}.rows{i}", f"{out}.part{i}"
        yield from known.run(helper.make_node("Gather", [table, where], [gathered], axis=0))
        yield from known.run(helper.make_node("MatMul", [gathered, which], [part]))
        products.append(part)
    yield helper.make_node("Concat", products, [out], axis=0)
