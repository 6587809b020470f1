"""`streamdiffvsr engines debug`, from a model to the verdict."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="graphs are exported with the export extra")

from streamdiffvsr.building import debug
from streamdiffvsr.engines.divergence import Divergence, Layer
from streamdiffvsr.engines.parity import TOLERANCE
from streamdiffvsr.graphs.spec import TensorSpec


@pytest.mark.slow
def test_every_layer_of_a_healthy_engine_in_half_precision(cli, parity_model):
    arguments = ("engines", "debug", "temporal", "--model", parity_model, "--size", "64x48")
    choice = ("--backend", "onnxruntime", "--device", "cpu", "--precision", "fp16")
    ran = cli(*arguments, *choice, "--tolerance", "1e-9", "--first", "1000", "--json")
    assert (ran.code, ran.err) == (1, "")  # at a tolerance that is none
    layers = ran.json["layers"]
    assert len(layers) == ran.json["diverging"] > 30
    # None would be reported at the tolerance of half precision.
    assert max(layer["error"] for layer in layers) < TOLERANCE["fp16"]
    assert 1e-9 < max(ran.json["outputs"].values()) < TOLERANCE["fp16"]
    assert {layer["op"] for layer in layers} >= {"Conv", "Relu"}
    assert layers[0]["node"] and [one["place"] for one in layers] == sorted(
        one["place"] for one in layers
    )


def found(error: float, place: int) -> Divergence:
    layer = Layer(place, f"node_conv2d_{place}", "Conv", TensorSpec("y", (1, 8, 6, 4), "float16"))
    return Divergence(layer, error, place, 40)


@pytest.mark.parametrize(
    ("layers", "output", "code", "told"),
    [
        ([], 1e-3, 0, ["no layer diverges"]),
        ([], 0.5, 1, ["no layer diverges when each is an output"]),
        (
            [found(float("nan"), 7), found(0.5, 8), found(0.6, 11)],
            float("nan"),
            1,
            [
                "3 layers diverge; in order:",
                "     7 of 40  node_conv2d_7  Conv 1x8x6x4: not finite",
                "     8 of 40  node_conv2d_8  Conv 1x8x6x4: error 0.5",
            ],
        ),
    ],
)
def test_the_verdict(cli, monkeypatch, layers, output, code, told):
    report = debug.Report(5e-2, layers, {"y": output})
    monkeypatch.setattr(debug, "debug_engine", lambda request, progress: report)
    arguments = ("engines", "debug", "decode", "--backend", "onnxruntime", "--device", "cpu")
    ran = cli(*arguments, "--precision", "fp16", "--first", "2")
    head, *rest = ran.out.splitlines()
    outputs = f"error of its outputs y {output:.2g}"
    assert head == f"decode, onnxruntime fp16 on cpu: {outputs} (tolerance 0.05)"
    assert (ran.code, rest) == (code, told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mirror",), "unknown graph 'mirror'; use prepare, "),
        (("flow", "--precision", "fp64"), "unknown precision 'fp64'"),
        (("flow", "--backend", "torch"), "torch engines have no layers to compare"),
    ],
)
def test_what_cannot_be_asked(cli, arguments, told):
    ran = cli("engines", "debug", *arguments, "--json", "--device", "cpu")
    assert told in ran.error
    assert ran.code == 2


def test_an_engine_for_a_gpu_needs_one(cli, parity_model, monkeypatch):
    from streamdiffvsr.engines import tensorrt_backend

    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_backend, "cuda_gpu", lambda ordinal: None)
    ran = cli(
        "engines", "debug", "flow", "--model", parity_model, "--backend", "tensorrt-rtx", "--json"
    )
    assert "cannot be debugged here: CUDA finds no NVIDIA GPU" in ran.error
    assert ran.code == 1
