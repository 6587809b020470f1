"""How much memory a graph needs while it runs: its largest set of tensors that are alive at once.

Counted on the exported network, whose shapes are static, in the order of its nodes. What a backend
adds (workspaces, fragments) or saves (fusion, half precision) is for `runtime/memory.py` to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

import onnx

# Another view of the same memory.
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def activation_bytes(path: Path) -> int:
    """Bytes of the intermediate tensors that are alive at the worst node of an ONNX file.

    Neither weights count nor the graph's own inputs and outputs, for which a caller has buffers.
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
