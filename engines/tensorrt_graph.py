"""Rewrites an exported graph for TensorRT: the same numbers from nodes that it compiles better.

A group norm is exported as an instance norm between two reshapes, which is fastest on ONNX
Runtime's CPU; here it becomes the one node that TensorRT has a layer for. The keys of attention to
the prompt are constants that are exported transposed; here they get their transposition back,
because TensorRT fuses an attention into one kernel if it finds the transposition of K, but not if
it finds a product with a constant matrix. The effect of both is in docs/engines.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..durable import write_atomically
from ..errors import StreamDiffVSRError
from ..graphs.onnx_network import replace_nodes, tensor_kinds, value_of

OPSET = 21  # the first whose GroupNormalization has a scale for each channel
HEADS_DIMS = 4  # batch, head, key, channel


def rewrite_graph(path: Path, *, group_norms: bool) -> None:
    """Rewrites an exported ONNX file in place; its weights file stays as it is.

    Args:
        group_norms: Whether the library takes a group norm with a scale for each channel.

    Raises:
        StreamDiffVSRError: It cannot be written.
    """
    network = onnx.load(str(path), load_external_data=False)
    found = _Pattern(network.graph, path.parent)
    norms = dict(_group_norms(found)) if group_norms else {}
    instead = norms | dict(_transposed_keys(found))
    nodes = [new for node in network.graph.node for new in instead.get(node.output[0], [node])]
    replace_nodes(network.graph, nodes)
    for opset in network.opset_import:
        if norms and opset.domain == "":
            opset.version = max(opset.version, OPSET)
    _save(network, path)


# The first output of a node, and the nodes that replace it.
Replacement = tuple[str, list[NodeProto]]


class _Pattern:
    """A graph's links: which node makes a tensor, which nodes read it, and the constants."""

    def __init__(self, graph: onnx.GraphProto, folder: Path) -> None:
        self.graph, self.folder = graph, folder
        self.kinds = tensor_kinds(graph)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {out.name: [] for out in graph.output}
        self._outputs = set(self._readers)
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def nodes(self, op: str) -> list[NodeProto]:
        """Returns all nodes of an operator, in order."""
        return [node for node in self.graph.node if node.op_type == op]

    def add(self, constant: TensorProto) -> None:
        """Adds a constant; constants that no node reads are removed at the end."""
        self.graph.initializer.append(constant)
        self.constants[constant.name] = constant

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape; empty if the graph does not declare it."""
        return self.kinds[name][1] if name in self.kinds else ()

    def value(self, name: str) -> npt.NDArray[Any]:
        """Returns a constant's value, which may be in the weights file."""
        return value_of(self.constants[name], self.folder)

    def after(self, node: NodeProto, op: str) -> NodeProto | None:
        """Returns the only reader of a node's output if its operator is `op`, else None."""
        readers = self._readers.get(node.output[0], [])
        if node.output[0] in self._outputs or len(readers) != 1 or readers[0].op_type != op:
            return None
        return readers[0]

    def operand(self, node: NodeProto, other: NodeProto) -> str | None:
        """Returns the constant that a node combines with the output of `other`, or None."""
        names = [name for name in node.input if name != other.output[0]]
        return names[0] if len(names) == 1 and names[0] in self.constants else None


def _group_norms(found: _Pattern) -> Iterator[Replacement]:
    """Yields a group norm for each Reshape, InstanceNormalization, Reshape, Mul, Add.

    This is how PyTorch's exporter writes it.
    """
    for norm in found.nodes("InstanceNormalization"):
        split, joined = found.makers.get(norm.input[0]), found.after(norm, "Reshape")
        scaled = joined and found.after(joined, "Mul")
        shifted = scaled and found.after(scaled, "Add")
        if split is None or joined is None or scaled is None or shifted is None:
            continue
        if found.after(split, norm.op_type) is None or not _is_plain(found, split, norm, joined):
            continue
        channels = found.shape(joined.output[0])[1]
        scale = _by_channel(found, found.operand(scaled, joined), channels)
        shift = _by_channel(found, found.operand(shifted, scaled), channels)
        if scale is None or shift is None:
            continue
        node = helper.make_node(
            "GroupNormalization",
            [split.input[0], scale, shift],
            list(shifted.output),
            name=shifted.output[0],
            num_groups=found.shape(norm.input[0])[1],
            epsilon=next(a.f for a in norm.attribute if a.name == "epsilon"),
            stash_type=TensorProto.FLOAT,  # means and variances in float32, as in torch
        )
        yield from ((old.output[0], []) for old in (split, norm, joined, scaled))
        yield shifted.output[0], [node]


def _is_plain(found: _Pattern, split: NodeProto, norm: NodeProto, joined: NodeProto) -> bool:
    """Returns whether it is an unweighted group norm: (1, C, ...) -> (1, groups, rest) and back."""
    given, groups = found.shape(split.input[0]), found.shape(norm.input[0])
    return (
        split.op_type == "Reshape"
        and len(given) > 2
        and given == found.shape(joined.output[0])
        and len(groups) == 3
        and groups[0] == given[0]
        and given[1] % groups[1] == 0
        and all(name in found.constants for name in norm.input[1:])
        and bool(np.all(found.value(norm.input[1]) == 1))
        and bool(np.all(found.value(norm.input[2]) == 0))
    )


def _by_channel(found: _Pattern, name: str | None, channels: int) -> str | None:
    """Returns the name of a constant (C, 1, 1) in shape (C,); None if it has another shape."""
    if name is None or found.shape(name) != (channels, 1, 1):
        return None
    flat = f"{name}.by_channel"
    if flat not in found.constants:
        tensor = TensorProto()
        tensor.CopyFrom(found.constants[name])
        tensor.name, tensor.dims[:] = flat, [channels]
        found.add(tensor)
    return flat


def _transposed_keys(found: _Pattern) -> Iterator[Replacement]:
    """Yields each attention's product of Q and a constant Kᵀ as a product with K transposed."""
    for product in found.nodes("MatMul"):
        weights = found.after(product, "Softmax")
        if weights is None or found.after(weights, "MatMul") is None:
            continue
        keys = product.input[1]
        if keys not in found.constants or len(found.shape(keys)) != HEADS_DIMS:
            continue
        rows, columns = f"{keys}.rows", f"{product.output[0]}.keys"
        if rows not in found.constants:
            value = np.ascontiguousarray(found.value(keys).swapaxes(2, 3))
            found.add(numpy_helper.from_array(value, rows))
        transposed = helper.make_node("Transpose", [rows], [columns], columns, perm=[0, 1, 3, 2])
        fused = NodeProto()
        fused.CopyFrom(product)
        fused.input[1] = columns
        yield product.output[0], [transposed, fused]


def _save(network: onnx.ModelProto, path: Path) -> None:
    try:
        with write_atomically(path) as part:
            onnx.save_model(network, str(part))
    except OSError as error:
        raise StreamDiffVSRError(f"cannot write {path}", str(error)) from error
