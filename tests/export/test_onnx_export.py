"""Exported files: named static tensors as specified, constants folded, the same numbers."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from streamdiffvsr.export.correlation import AllPairs
from streamdiffvsr.export.graph_folder import TORCH, model_dims
from streamdiffvsr.export.graphs import build_graphs
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.export.onnx_export import OPSET, SMALL_BYTES, export_graph
from streamdiffvsr.export.random_model import write_random_model
from streamdiffvsr.graphs.schedule import step_table
from streamdiffvsr.graphs.spec import Geometry, GraphSpec, graph_specs, onnx_file

GEOMETRY = Geometry((33, 42))
CHEAP = [("prepare", "fp32"), ("guide", "fp32"), ("decode", "fp32")]
HALF = [
    pytest.param(pair, marks=pytest.mark.slow) for pair in (("guide", "fp16"), ("decode", "fp16"))
]


@dataclass(frozen=True, slots=True)
class Exported:
    name: str
    precision: str
    module: nn.Module
    spec: GraphSpec
    path: Path
    network: onnx.ModelProto
    said: str


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    blocks = {"num_encoder_blocks": [1, 1, 1], "num_decoder_blocks": [1, 1, 1]}
    return load_model(write_random_model(tmp_path_factory.mktemp("model"), vae=blocks))


@pytest.fixture(scope="module", params=[*CHEAP, *HALF], ids="-".join)
def exported(
    request: pytest.FixtureRequest, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    name, precision = request.param
    table = step_table(model.configs.scheduler, 4)
    module = build_graphs(model, GEOMETRY, precision, table, AllPairs)[name]
    spec = graph_specs(GEOMETRY, model_dims(model), precision)[name]
    path = tmp_path_factory.mktemp(f"{name}-{precision}") / onnx_file(name)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        export_graph(module, spec, path)
    return Exported(name, precision, module, spec, path, onnx.load(path), said.getvalue())


def described(value: onnx.ValueInfoProto) -> tuple[str, tuple[int, ...], str]:
    tensor = value.type.tensor_type
    assert all(d.HasField("dim_value") for d in tensor.shape.dim), "a dimension is not static"
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return value.name, tuple(d.dim_value for d in tensor.shape.dim), dtype.name


def test_inputs_and_outputs_are_those_of_the_spec(exported: Exported) -> None:
    graph, spec = exported.network.graph, exported.spec
    assert [described(v) for v in graph.input] == [(s.name, s.shape, s.dtype) for s in spec.inputs]
    assert [described(v) for v in graph.output] == [
        (s.name, s.shape, s.dtype) for s in spec.outputs
    ]
    assert {o.domain: o.version for o in exported.network.opset_import}[""] == OPSET == 20
    onnx.checker.check_model(str(exported.path), full_check=True)


def nbytes(tensor: onnx.TensorProto) -> int:
    size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(np.prod(tensor.dims)) * size


def test_large_weights_lie_beside_the_graph(exported: Exported) -> None:
    light = onnx.load(exported.path, load_external_data=False)
    external = [i for i in light.graph.initializer if i.external_data]
    inside = [i for i in light.graph.initializer if not i.external_data]
    assert all(nbytes(i) <= SMALL_BYTES for i in inside)
    location = {e.value for i in external for e in i.external_data if e.key == "location"}
    data = exported.path.with_name(f"{exported.path.name}.data")
    assert location <= {data.name}
    # No file without a use: small networks have all their weights inside.
    files = {exported.path.name} | location
    assert {p.name for p in exported.path.parent.iterdir()} == files
    assert bool(external) == (exported.name == "guide")  # of these models; both ways are tested


def test_nothing_constant_is_left_to_compute(exported: Exported) -> None:
    graph = exported.network.graph
    constants = {i.name for i in graph.initializer}
    used = {name for node in graph.node for name in node.input}
    for node in graph.node:
        assert node.op_type not in ("Identity", "Constant", "ConstantOfShape", "Dropout"), node
        assert node.domain == "", f"{node.domain}.{node.op_type} is no operator of ONNX"
        assert not set(node.input) <= constants, f"{node.op_type} {node.name} has constant inputs"
        assert node.op_type not in ("Shape", "Size"), "shapes are static"
    assert constants <= used
    assert not exported.network.functions


def example(spec: GraphSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for s in spec.inputs:
        if s.dtype == "uint8":
            inputs[s.name] = torch.randint(0, 256, s.shape, generator=generator, dtype=torch.uint8)
        elif s.name == "gate":
            inputs[s.name] = torch.full(s.shape, 0.75, dtype=TORCH[s.dtype])
        else:
            scale = 4.0 if s.name == "flow" else 1.0
            values = scale * torch.randn(s.shape, generator=generator)
            inputs[s.name] = values.to(TORCH[s.dtype])
    return inputs


def test_onnxruntime_computes_what_torch_does(exported: Exported) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(
        str(exported.path), options, providers=["CPUExecutionProvider"]
    )
    inputs = example(exported.spec)
    outputs = session.run(None, {k: v.numpy() for k, v in inputs.items()})
    with torch.inference_mode():
        expected = exported.module(*inputs.values())
    tolerance = 1e-5 if exported.precision == "fp32" else 2e-2
    for spec, out, tensor in zip(exported.spec.outputs, outputs, expected, strict=True):
        reference = tensor.numpy()
        assert (out.shape, out.dtype) == (reference.shape, reference.dtype)
        if spec.dtype == "uint8":
            levels = np.abs(out.astype(int) - reference)
            assert levels.max() <= (1 if exported.precision == "fp32" else 3)
            continue
        wide = reference.astype(np.float64)
        assert np.abs(out - wide).max() <= tolerance * max(1.0, np.abs(wide).max()), spec.name
        assert wide.std() > 1e-2


def test_weights_of_a_half_graph_are_halves(exported: Exported) -> None:
    size = {i.name: int(np.prod(i.dims)) for i in exported.network.graph.initializer}
    types = {i.name: i.data_type for i in exported.network.graph.initializer}
    kind = onnx.TensorProto.FLOAT16 if exported.precision == "fp16" else onnx.TensorProto.FLOAT
    if exported.name == "decode":
        assert {types[n] for n in size if size[n] > 100} == {kind}


def test_exporting_says_nothing(exported: Exported) -> None:
    assert exported.said == ""
