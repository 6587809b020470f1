"""Graphs as TensorRT is given them: other nodes, the same numbers, fewer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="graphs are exported with the export extra")

import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from streamdiffvsr.engines.tensorrt_build import BuildSettings, build_plan
from streamdiffvsr.engines.tensorrt_graph import OPSET, rewrite_graph
from streamdiffvsr.engines.tensorrt_library import TrtLog, load_library
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.blocks import Attention
from streamdiffvsr.export.graphs import PromptTable
from streamdiffvsr.export.onnx_export import export_graph
from streamdiffvsr.graphs.onnx_network import count_operators
from streamdiffvsr.graphs.spec import GRAPHS, GraphSpec, TensorSpec
from streamdiffvsr.tests.engines.graphs import copy_graph, specs_of

CHANNELS, HEADS, PIXELS, WORDS = 64, 2, 12, 7
NORM = ("Reshape", "InstanceNormalization", "Reshape", "Mul", "Add")


class Norm(nn.Module):
    """Group norms of several kinds: in a row, and before two readers."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first = nn.GroupNorm(groups, CHANNELS, eps=1e-5)
        self.second = nn.GroupNorm(groups // 2, CHANNELS, eps=1e-6)
        for norm in (self.first, self.second):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(3 * x + 1))
        out: torch.Tensor = x * torch.sigmoid(x)
        return out


def attention(of: str) -> Attention:
    """With the prompt folded, as in the denoiser, or to the pixels themselves."""
    made = Attention(CHANNELS, CHANNELS, HEADS)
    if of == "prompt":
        made.to_k = PromptTable(torch.randn(1, WORDS, CHANNELS))
        made.to_v = PromptTable(torch.randn(1, WORDS, CHANNELS))
    return made


class Attend(nn.Module):
    def __init__(self, of: str) -> None:
        super().__init__()
        self.attention, self.prompt = attention(of), of == "prompt"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.attention(x, None if self.prompt else x)
        return out


@torch.inference_mode()
def exported(module: nn.Module, shape: tuple[int, ...], dtype: str, folder: Path) -> Path:
    path = folder / "graph.onnx"
    spec = GraphSpec("graph", (TensorSpec("x", shape, dtype),), (TensorSpec("y", shape, dtype),))
    export_graph(module.eval().to(getattr(torch, dtype)), spec, path)
    return path


def run(path: Path, inputs: dict[str, Any]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def error(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Relative to the largest value."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(one, other, strict=True)]
    return max(float(np.abs(a - b).max() / max(1, np.abs(b).max())) for a, b in pairs)


def opset(path: Path) -> int:
    network = onnx.load(path, load_external_data=False)
    return next(o.version for o in network.opset_import if o.domain == "")


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 1e-2)])
def test_a_group_norm_is_one_node_of_the_same_numbers(tmp_path, dtype, limit):
    shape = (1, CHANNELS, 6, 4)
    path = exported(Norm(groups=8), shape, dtype, tmp_path)
    assert count_operators(path) >= Counter([*NORM, *NORM])
    x = {"x": np.random.default_rng(0).normal(size=shape).astype(dtype)}
    before = run(path, x)
    rewrite_graph(path, group_norms=True)
    onnx.checker.check_model(str(path), full_check=True)
    counts = count_operators(path)
    assert counts["GroupNormalization"] == 2 and not counts.keys() & {*NORM[:3]}
    assert opset(path) == OPSET
    assert error(run(path, x), before) < limit
    made = [n for n in onnx.load(path).graph.node if n.op_type == "GroupNormalization"]
    told = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in made]
    assert [t["num_groups"] for t in told] == [8, 4]
    assert [t["epsilon"] for t in told] == pytest.approx([1e-5, 1e-6])
    assert {t["stash_type"] for t in told} == {TensorProto.FLOAT}


def test_statistics_of_half_precision_are_taken_in_single(tmp_path):
    """Values whose squares no half can hold."""
    shape = (1, CHANNELS, 6, 4)
    path = exported(nn.GroupNorm(4, CHANNELS), shape, "float16", tmp_path)
    x = (500 * np.random.default_rng(0).normal(size=shape) + 2000).astype(np.float16)
    rewrite_graph(path, group_norms=True)
    (found,) = run(path, {"x": x})
    exact = nn.functional.group_norm(torch.from_numpy(x.astype(np.float64)), 4).numpy()
    assert np.isfinite(found).all() and np.abs(found - exact).max() < 5e-3


def test_a_library_without_such_norms_gets_them_as_they_are(tmp_path):
    path = exported(Norm(groups=8), (1, CHANNELS, 6, 4), "float32", tmp_path)
    before, version = count_operators(path), opset(path)
    rewrite_graph(path, group_norms=False)
    assert (count_operators(path), opset(path)) == (before, version)


def norm_graph(folder: Path, change: str) -> Path:
    """The pattern of a group norm with one thing that makes it another."""
    weights = {
        "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32),
        "scale": np.full((4, 1, 1), 2, np.float32),
        "shift": np.full((4, 1, 1), 3, np.float32),
        "split": np.array([1, 2, -1]),
        "join": np.array([1, 4, 6, 5]),
    }
    weights |= {
        "a scale of its own": {"ones": np.array([1, 2], np.float32)},
        "a shift of its own": {"zeros": np.array([0, 1], np.float32)},
        "another shape": {"join": np.array([1, 4, 5, 6])},
        "one weight for all": {"scale": np.full((1, 1, 1), 2, np.float32)},
    }.get(change, {})
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["a"]),
        helper.make_node("InstanceNormalization", ["a", "ones", "zeros"], ["b"], epsilon=1e-5),
        helper.make_node("Reshape", ["b", "join"], ["c"]),
        helper.make_node("Mul", ["c", "scale"], ["d"]),
        helper.make_node("Add", ["d", "shift"], ["y"]),
    ]
    outputs = [tensor("y", TensorProto.FLOAT, None)]
    if change == "a layer read elsewhere":
        nodes.append(helper.make_node("Relu", ["c"], ["z"]))
        outputs.append(tensor("z", TensorProto.FLOAT, None))
    if change == "a layer that is an output":
        outputs.append(tensor("d", TensorProto.FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "graph",
        [tensor("x", TensorProto.FLOAT, [1, 4, 6, 5])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "norm.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        "nothing",
        "a scale of its own",
        "a shift of its own",
        "another shape",
        "one weight for all",
        "a layer read elsewhere",
        "a layer that is an output",
    ],
)
def test_only_what_is_a_group_norm_becomes_one(tmp_path, change):
    path = norm_graph(tmp_path, change)
    x = {"x": np.random.default_rng(0).normal(size=(1, 4, 6, 5)).astype(np.float32)}
    before = run(path, x)
    rewrite_graph(path, group_norms=True)
    assert count_operators(path)["GroupNormalization"] == (change == "nothing")
    assert error(run(path, x), before) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_keys_of_the_prompt_are_transposed_in_the_graph(tmp_path, dtype):
    """Stored in the network or in a file next to it, the numbers stay the same, bit for bit."""
    for name, words in (("inside", WORDS), ("beside", 600)):
        module = Attend("prompt")
        for table in (module.attention.to_k, module.attention.to_v):
            table.value = torch.randn(1, words, CHANNELS)
        folder = tmp_path / name
        folder.mkdir()
        path = exported(module, (1, PIXELS, CHANNELS), dtype, folder)
        assert path.with_name(f"{path.name}.data").exists() == (name == "beside")
        x = {"x": np.random.default_rng(0).normal(size=(1, PIXELS, CHANNELS)).astype(dtype)}
        before, counts = run(path, x), count_operators(path)
        rewrite_graph(path, group_norms=True)
        onnx.checker.check_model(str(path), full_check=True)
        assert count_operators(path) == counts + Counter(["Transpose"])
        assert all(np.array_equal(a, b) for a, b in zip(run(path, x), before, strict=True))
        network = onnx.load(path).graph
        constants = {tensor.name: tuple(tensor.dims) for tensor in network.initializer}
        made = next(node for node in network.node if node.input[0] in constants)
        assert (made.op_type, constants[made.input[0]]) == (
            "Transpose",
            (1, HEADS, words, CHANNELS // HEADS),
        )


def test_attention_to_itself_is_left_as_it_is(tmp_path):
    path = exported(Attend("pixels"), (1, PIXELS, CHANNELS), "float16", tmp_path)
    counts, version = count_operators(path), opset(path)
    rewrite_graph(path, group_norms=True)
    assert (count_operators(path), opset(path)) == (counts, version)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_computes_what_it_did(parity_engines, tmp_path, name):
    path, spec = copy_graph(parity_engines, name, tmp_path), specs_of(parity_engines)[name]
    draw = np.random.default_rng(0)
    inputs = {
        t.name: np.ones(t.shape, t.dtype)
        if t.dtype in ("int32", "uint8")
        else draw.normal(size=t.shape).astype(t.dtype)
        for t in spec.inputs
    }
    counts, before = count_operators(path), run(path, inputs)
    files = {p.name for p in tmp_path.iterdir()}
    rewrite_graph(path, group_norms=True)
    onnx.checker.check_model(str(path), full_check=True)
    assert error(run(path, inputs), before) < 1e-5
    norms = 88 if name == "denoise" else 0
    after = count_operators(path)
    assert after["GroupNormalization"] == norms
    assert after == counts if not norms else after["InstanceNormalization"] == 0
    assert {p.name for p in tmp_path.iterdir()} == files


def test_a_full_disk_is_one_line(parity_engines, tmp_path, monkeypatch):
    path = copy_graph(parity_engines, "temporal", tmp_path)
    monkeypatch.setattr(onnx, "save_model", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(StreamDiffVSRError, match=r"cannot write .*temporal\.onnx: full"):
        rewrite_graph(path, group_norms=True)


def plan_of(path: Path, shape: tuple[int, ...]) -> bytes:
    """TensorRT-RTX's, which has the names of its kernels in it."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    tensors = [(TensorSpec(name, shape, "float16"),) for name in ("x", "y")]
    spec, plan = GraphSpec("graph", *tensors), path.with_suffix(".plan")
    settings = BuildSettings(compute_capabilities=(89,))
    build_plan(load_library("tensorrt-rtx"), path, spec, plan, settings, lambda fraction: None)
    return plan.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "rewritten"), [("prompt", True), ("pixels", True), ("prompt", False)]
)
def test_tensorrt_fuses_attention_in_half_precision(tmp_path, of, rewritten):
    """One kernel from Q, K and V to their mixture; not so where K lies transposed in a constant."""
    shape = (1, PIXELS, CHANNELS)
    path = exported(Attend(of), shape, "float16", tmp_path)
    if rewritten:
        rewrite_graph(path, group_norms=True)
    assert (b"_gemm_mha_v2" in plan_of(path, shape)) == rewritten


def test_tensorrt_has_one_layer_for_a_group_norm(tmp_path):
    path = exported(nn.GroupNorm(4, CHANNELS), (1, CHANNELS, 6, 4), "float16", tmp_path)
    rewrite_graph(path, group_norms=True)
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    library = load_library("tensorrt-rtx")
    assert library.has_group_norms
    log = TrtLog(library)
    network = library.module.Builder(log.handle).create_network(library.network_flags)
    parser = library.module.OnnxParser(network, log.handle)
    assert parser.parse_from_file(str(path))
    kinds = [network.get_layer(i).type.name for i in range(network.num_layers)]
    assert [k for k in kinds if k not in ("CONSTANT", "UNSQUEEZE")] == ["NORMALIZATION"]
