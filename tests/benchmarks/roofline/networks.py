"""Small ONNX files to count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

Shape = Sequence[int | str]


def value(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def weight(name: str, shape: Sequence[int]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)


def number(name: str, of: int) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(of, np.int64), name)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def save(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    """A graph of float32 tensors, whose name begins with i if they are int64."""
    values = [
        [value(k, s, TensorProto.INT64 if k[0] == "i" else TensorProto.FLOAT) for k, s in v.items()]
        for v in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "graph", *values, initializer=list(weights))
    opsets = [helper.make_opsetid("", 20)]
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path
