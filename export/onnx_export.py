"""Exports a graph to ONNX, merges duplicate initializers and counts the live activations."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from math import prod
from pathlib import Path

import onnx
import onnxscript.optimizer
import torch
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor
from polygraphy.backend.onnx import fold_constants as polygraphy_fold
from torch import nn

from ..graphs.onnx_network import Kind, replace_nodes, tensor_kinds
from ..graphs.spec import GraphSpec, onnx_file
from .graph_folder import Form, example_inputs, tracing

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


OPSET = 20
NO_LIMIT = 2**40  # folding may produce tensors of any size, such as transposed weights
SMALL_BYTES = 2**16  # tensors up to this size are stored in the network itself
MAX_ITEM_BYTES = 8


def export_graph(module: nn.Module, spec: GraphSpec, path: Path) -> None:
    """Writes one module as `path` and `path` + `.data`, with constants folded.

    Weights are written from torch's memory to the file one by one: a whole copy of them in protobuf
    would take gigabytes in each stage that it passes through.
    """
    with tracing():
        program = torch.onnx.export(
            module,
            example_inputs(spec),
            dynamo=True,
            opset_version=OPSET,
            input_names=[s.name for s in spec.inputs],
            output_names=[s.name for s in spec.outputs],
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # Not `optimize=True`: its rewriter is quadratic in the number of nodes (minutes for flow),
        # and the engines make its other optimizations themselves.
        onnxscript.optimizer.inline(program.model)
        onnxscript.optimizer.fold_constants(
            program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT
        )
        onnxscript.optimizer.remove_unused_nodes(program.model)
        program.save(str(path), external_data=True)
        del program
        fold_small_constants(path)


def fold_small_constants(path: Path) -> None:
    """Folds the remaining constants of a saved network and tidies it, reading only small tensors.

    Polygraphy runs the constant part in ONNX Runtime, which supports more operators than the
    exporter's own folding; the weights stay in their file.
    """
    network = onnx.load(str(path), load_external_data=False)
    for tensor in network.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external and prod(tensor.dims) * MAX_ITEM_BYTES <= SMALL_BYTES:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    folded = polygraphy_fold(network, size_threshold=SMALL_BYTES)
    tidy(folded)
    onnx.save_model(folded, str(path))
    if not any(t.data_location == onnx.TensorProto.EXTERNAL for t in folded.graph.initializer):
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def _write(module: nn.Module, spec: GraphSpec, folder: Path) -> int:
    path = folder / onnx_file(spec.name)
    export_graph(module, spec, path)
    return activation_bytes(path)


ONNX = Form(_write, ("torch", "onnx", "onnxscript", "polygraphy"), str(OPSET))
