"""fp8: the weighted layers of `denoise` and nothing else, and what that leaves of its numbers."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamdiffvsr.building.fp8 import MODULES, calibration_clips
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.engines.parity import noise_to_signal, run_on_host
from streamdiffvsr.engines.tensorrt_graph import rewrite_graph
from streamdiffvsr.export.model import load_model
from streamdiffvsr.export.quantisation import (
    DEQUANTISE,
    OPERATORS,
    QUANTISE,
    confine,
    denoise_inputs,
    quantise,
    weighted_layers,
)
from streamdiffvsr.graphs.onnx_network import count_operators, weights_files
from streamdiffvsr.graphs.spec import Geometry, onnx_file
from streamdiffvsr.tests.engines.graphs import copy_graph, specs_of

SIZE = (48, 64)


def constant(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def test_layers_are_what_multiplies_by_a_weight():
    node = helper.make_node
    constants = {"filter": (8, 8, 3, 3), "matrix": (8, 8), "bias": (8,)}
    constants |= {"keys": (1, 2, 8, 4), "table": (4, 8)}
    graph = helper.make_graph(
        [
            node("Conv", ["x", "filter"], ["a"], "convolution"),
            node("MatMul", ["a", "matrix"], ["b"], "projection"),
            node("Gemm", ["b", "matrix", "bias"], ["c"], "layer"),
            node("MatMul", ["b", "keys"], ["d"], "attention to the prompt"),
            node("MatMul", ["d", "b"], ["e"], "attention"),
            node("Gather", ["table", "step"], ["f"], "row of a step"),
            node("Mul", ["matrix", "e"], ["g"], "product"),
        ],
        "graph",
        [],
        [],
        [constant(name, *shape) for name, shape in constants.items()],
    )
    assert weighted_layers(graph) == ["convolution", "projection", "layer"]


def test_whatever_shares_a_tensor_with_a_layer_gets_it_as_it_was():
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Relu", ["in"], ["x"], "before"),
            node("QuantizeLinear", ["x", "s", "z"], ["q"], "x_q"),
            node("DequantizeLinear", ["q", "s", "z"], ["x_dq"], "x_dq"),
            node("MatMul", ["x_dq", "w_dq"], ["y"], "layer"),
            node("Add", ["x_dq", "y"], ["sum"], "residual"),
        ],
        "graph",
        [],
        [],
    )
    confine(graph, ["layer"])
    layer, residual = graph.node[3], graph.node[4]
    assert list(layer.input) == ["x_dq", "w_dq"]
    assert list(residual.input) == ["x", "y"]


@pytest.fixture(scope="module")
def quantised(
    parity_engines: Path, parity_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any, Path, list[dict[str, Any]]]:
    """The recorded model's `denoise` before and after, the file, and what it was calibrated on."""
    for name in MODULES:
        pytest.importorskip(name, reason="fp8 needs nvidia-modelopt: pip install -e '.[fp8]'")
    folder = tmp_path_factory.mktemp("quantised")
    path = copy_graph(parity_engines, "denoise", folder)
    before = onnx.load(str(path))
    clip = calibration_clips(SIZE)[0][:2]
    inputs = denoise_inputs(load_model(parity_model), Geometry(SIZE), [clip])
    wide = [
        {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in given.items()}
        for given in inputs
    ]
    quantise(path, wide)
    assert weights_files(onnx.load(str(path), load_external_data=False)) == {"denoise.onnx.data"}
    assert not [p for p in folder.iterdir() if p.is_dir()]
    return before, onnx.load(str(path)), path, wide


@pytest.mark.slow
def test_only_the_weighted_layers_take_eight_bits(quantised):
    before, after, *_ = quantised
    layers = set(weighted_layers(before.graph))
    takers = defaultdict(set)
    made_by = {output: node for node in after.graph.node for output in node.output}
    for node in after.graph.node:
        for name in node.input:
            if name in made_by and made_by[name].op_type == "DequantizeLinear":
                takers[node.name].add(node.op_type)
    assert set(takers) <= layers and {op for ops in takers.values() for op in ops} <= {*OPERATORS}
    assert len(takers) > 0.75 * len(layers)  # all but those with too few channels to gain anything
    weights = {
        made_by[node.input[1]].input[0]
        for node in after.graph.node
        if node.op_type in OPERATORS and node.name in takers
    }
    quantised_weights = [made_by[name].input[0] for name in weights]
    named = {name.split(".")[0] for name in quantised_weights if "." in name}
    assert {"unet", "controlnet"} <= named


@pytest.mark.slow
def test_weights_and_tables_stay_as_they_were(quantised):
    """Bit for bit what every node takes, the tables of the DDIM update and of time unrounded."""
    before, after, *_ = quantised
    exact = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer}
    kept = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer if t.data_type < 17}
    made_by = {output: node for node in after.graph.node for output in node.output}
    nodes = {node.name: node for node in after.graph.node}
    rounded = set()
    for node in before.graph.node:
        for was, now in zip(node.input, nodes[node.name].input, strict=True):
            while now in made_by and made_by[now].op_type in (QUANTISE, DEQUANTISE):
                rounded.add(was)
                now = made_by[now].input[0]
            if was in exact:
                assert np.array_equal(kept[now], exact[was]), was
    tables = {node.input[0] for node in before.graph.node if node.op_type == "Gather"}
    assert {"latent_scale", "output_scale"} < tables and not rounded & tables
    assert len(rounded) > 50


@pytest.mark.slow
def test_it_computes_nearly_the_same(quantised, parity_engines):
    """Off by what eight bits cost: no more, and no less, or nothing was quantised."""
    _, _, path, inputs = quantised
    spec = specs_of(parity_engines)["denoise"]
    exact = OrtEngine(parity_engines / onnx_file("denoise"), spec)
    coarse = OrtEngine(path, spec)
    for given in inputs:
        outputs = [np.empty(spec.outputs[0].shape, np.float32) for _ in range(2)]
        for engine, output in zip((exact, coarse), outputs, strict=True):
            run_on_host(engine, given, {"denoised": output})
        assert 1e-4 < noise_to_signal(outputs[1], outputs[0]) < 0.1


@pytest.mark.slow
def test_tensorrt_gets_it_rewritten_like_any_other(quantised, parity_engines, tmp_path):
    _, _, path, inputs = quantised
    for part in path.parent.iterdir():
        shutil.copy(part, tmp_path)
    rewritten, before = tmp_path / path.name, count_operators(path)
    rewrite_graph(rewritten, group_norms=True)
    onnx.checker.check_model(str(rewritten))
    after = count_operators(rewritten)
    assert (before["InstanceNormalization"], after["GroupNormalization"]) == (88, 88)
    assert after["Transpose"] > before["Transpose"]
    for op in (*OPERATORS, QUANTISE, DEQUANTISE):
        assert after[op] == before[op]
    # A rounding to eight bits tips over where its operand moves by 1e-6, and the rest with it: both
    # are as far from the exact graph, and not from each other.
    spec = specs_of(parity_engines)["denoise"]
    files = (parity_engines / onnx_file("denoise"), path, rewritten)
    exact, coarse, other = (OrtEngine(file, spec) for file in files)
    for given in inputs:
        outputs = [np.empty(spec.outputs[0].shape, np.float32) for _ in files]
        for engine, output in zip((exact, coarse, other), outputs, strict=True):
            run_on_host(engine, given, {"denoised": output})
        told, moved = (noise_to_signal(output, outputs[0]) for output in outputs[1:])
        assert moved < 1.25 * told


def test_a_failure_leaves_no_temporary_files_elsewhere(tmp_path, parity_engines, monkeypatch):
    from streamdiffvsr.export import quantisation

    def fail(source: Path, *_: object) -> None:
        import tempfile

        assert Path(tempfile.gettempdir()).is_relative_to(tmp_path)
        raise RuntimeError("of the quantiser")

    monkeypatch.setattr(quantisation, "_run_modelopt", fail)
    monkeypatch.setattr(quantisation, "_reader", lambda *_: None)
    folder = tmp_path / "graphs"
    folder.mkdir()
    path = copy_graph(parity_engines, "denoise", folder)
    with pytest.raises(RuntimeError, match="of the quantiser"):
        quantise(path, [{}])
    assert not [p for p in folder.iterdir() if p.is_dir()]
    shutil.rmtree(folder)
