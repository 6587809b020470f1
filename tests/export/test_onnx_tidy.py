"""Networks without what does nothing: the same numbers, bit for bit, from fewer nodes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamdiffvsr.export.onnx_export import tidy
from streamdiffvsr.graphs.spec import GRAPHS, onnx_file


def constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def network(
    nodes: list[onnx.NodeProto], constants: list[TensorProto], *outputs: str
) -> onnx.ModelProto:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [tensor("x", TensorProto.FLOAT, [1, 4, 6]), tensor("step", TensorProto.INT32, [1])],
        [tensor(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    x = np.random.default_rng(0).normal(size=(1, 4, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    fed = {"x": x, "step": np.array([2], np.int32)}
    return session.run(None, {i.name: fed[i.name] for i in session.get_inputs()})


def tidied(model: onnx.ModelProto) -> Counter[str]:
    """The operators that are left; the outputs are what they were."""
    before = run(model)
    tidy(model)
    onnx.checker.check_model(model, full_check=True)
    for one, other in zip(before, run(model), strict=True):
        assert np.array_equal(one, other)
    return Counter(node.op_type for node in model.graph.node)


node = helper.make_node


def test_a_conversion_to_the_same_type_is_none():
    model = network(
        [
            node("CastLike", ["scale", "x"], ["s"]),
            node("Cast", ["x"], ["same"], to=TensorProto.FLOAT),
            node("Mul", ["same", "s"], ["y"]),
        ],
        [constant("scale", np.full((4, 1), 0.5, np.float32))],
        "y",
    )
    assert tidied(model) == {"Mul": 1}
    assert not model.graph.value_info


def test_one_index_in_many_tables_is_converted_once():
    nodes, constants = [], []
    for i in range(3):
        constants += [
            constant(f"shape{i}", np.array([-1])),
            constant(f"table{i}", np.arange(24, dtype=np.float32).reshape(4, 6) + i),
        ]
        nodes += [
            node("Reshape", ["step", f"shape{i}"], [f"view{i}"]),
            node("Cast", [f"view{i}"], [f"index{i}"], to=TensorProto.INT64),
            node("Gather", [f"table{i}", f"index{i}"], [f"row{i}"]),
        ]
    nodes.append(node("Sum", ["row0", "row1", "row2"], ["y"]))
    model = network(nodes, constants, "y")
    assert tidied(model) == {"Cast": 1, "Gather": 3, "Sum": 1}
    assert {tensor.name for tensor in model.graph.initializer} == {"table0", "table1", "table2"}


def test_what_is_an_output_keeps_its_name():
    model = network(
        [
            node("Cast", ["x"], ["y"], to=TensorProto.FLOAT),
            node("Relu", ["x"], ["a"]),
            node("Relu", ["x"], ["b"]),
            node("Relu", ["x"], ["c"]),
            node("Add", ["a", "c"], ["sum"]),
        ],
        [],
        "y",
        "b",
        "sum",
    )
    assert tidied(model) == {"Cast": 1, "Relu": 2, "Add": 1}


def test_what_differs_in_anything_stays():
    model = network(
        [
            node("Reshape", ["x", "flat"], ["v"]),
            node("Cast", ["v"], ["h"], to=TensorProto.FLOAT16),
            node("Cast", ["h"], ["w"], to=TensorProto.FLOAT),
            node("Softmax", ["x"], ["s"], axis=1),
            node("Softmax", ["x"], ["t"], axis=2),
            node("Mul", ["x", "two"], ["m"]),
            node("Mul", ["x", "three"], ["n"]),
            node("Sum", ["s", "t", "m", "n"], ["y"]),
        ],
        [constant("flat", [24]), constant("two", np.float32(2)), constant("three", np.float32(3))],
        "y",
        "w",
    )
    assert tidied(model) == {"Reshape": 1, "Cast": 2, "Softmax": 2, "Mul": 2, "Sum": 1}


@pytest.mark.parametrize("name", GRAPHS)
def test_exported_graphs_are_tidy(parity_engines: Path, name: str) -> None:
    network = onnx.load(parity_engines / onnx_file(name), load_external_data=False)
    before = Counter(n.op_type for n in network.graph.node)
    assert "CastLike" not in before
    assert name != "denoise" or before["Cast"] == 1, "`step` is converted once"
    tidy(network)
    assert Counter(n.op_type for n in network.graph.node) == before
