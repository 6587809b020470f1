"""What an exporter writes down and nobody has to compute, taken out of a network.

A conversion to the type that a tensor has, a view of the shape that it has, one thing computed more
than once: engines would each find some of it, at every start or never. Numbers do not change.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import onnx
from onnx import numpy_helper

from ..network import Kind, replace_nodes, tensor_kinds

# Nodes that hand on their first input as it is, where the kind of what they give is its own.
HANDS_ON = ("Cast", "CastLike", "Identity", "Reshape")
WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def tidy(network: onnx.ModelProto) -> None:
    """Remove what does nothing and what is there twice, in place; weights need not be loaded."""
    graph = network.graph
    kinds = tensor_kinds(graph)
    outputs = {value.name for value in graph.output}
    same = dict(_equal_constants(graph))  # a tensor -> the one that is taken in its place
    made: dict[Hashable, onnx.NodeProto] = {}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        needed = not outputs.isdisjoint(node.output)
        if not needed and _hands_on(node, kinds):
            same[node.output[0]] = node.input[0]
            continue
        twin = made.setdefault(_work(node), node)
        if twin is not node and not needed:
            same |= zip(node.output, twin.output, strict=True)
            continue
        kept.append(node)
    replace_nodes(graph, kept)


def _equal_constants(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """(constant, an earlier one that is equal): whole numbers and scalars, no weights."""
    first: dict[Hashable, str] = {}
    for tensor in graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external or not (tensor.data_type in WHOLE or not tensor.dims):
            continue
        content = numpy_helper.to_array(tensor).tobytes()
        known = first.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
        if known != tensor.name:
            yield tensor.name, known


def _hands_on(node: onnx.NodeProto, kinds: dict[str, Kind]) -> bool:
    given, made = kinds.get(node.input[0]), kinds.get(node.output[0])
    return node.op_type in HANDS_ON and given is not None and given == made


def _work(node: onnx.NodeProto) -> Hashable:
    """What a node computes: equal for two that compute the same."""
    attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
    return node.domain, node.op_type, tuple(node.input), len(node.output), tuple(attributes)
