"""`--precision fp8`: who can use it, the error for others, and what its sets consist of."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from streamdiffvsr.building import builder, fp8
from streamdiffvsr.building.fp8 import MODULES, calibration_clips, fitted
from streamdiffvsr.engines import tensorrt_backend
from streamdiffvsr.engines.host import Gpu
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.graphs.spec import GraphSet, golden_file
from streamdiffvsr.tests.engines.graphs import copy_graph, specs_of


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--backend", "onnxruntime"), "backend onnxruntime does not compute in fp8"),
        (("--backend", "torch"), "backend torch does not compute in fp8"),
        ((), "use --precision fp16, or build for another machine with --backend tensorrt-rtx"),
    ],
)
def test_backends_without_fp8_say_so_in_one_line(cli, tmp_path, monkeypatch, arguments, told):
    pytest.importorskip("onnxruntime", reason="of the cpu extra")
    monkeypatch.setattr("streamdiffvsr.engines.registry.why_no_gpu", lambda ordinal: "no GPU")
    ran = cli("engines", "--precision", "fp8", "--out", tmp_path / "set", *arguments)
    assert ran.code != 0 and told in ran.error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_told_with_those_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"'fp4'.*use fp32, fp16 or fp8"):
        builder.build("tiny", size=(48, 64), precision="fp4", out=tmp_path / "set")


@pytest.mark.parametrize("capabilities", [[86], [80, 89]])
def test_gpus_without_fp8_are_refused_in_one_line(tmp_path, capabilities):
    pytest.importorskip("tensorrt_rtx", reason="of the tensorrt-rtx extra")
    options: dict[str, Any] = {"backend": "tensorrt-rtx", "device": "cuda", "precision": "fp8"}
    with pytest.raises(UsageError, match=r"8\.9 or newer: a GPU of 8\.[06] does not") as caught:
        builder.build(
            "tiny", size=(48, 64), out=tmp_path, compute_capabilities=capabilities, **options
        )
    assert "\n" not in str(caught.value)


def test_the_gpu_that_tensorrt_builds_for_is_looked_at_too(monkeypatch):
    library = type("Library", (), {"builds_for_named_gpus": False, "version": "10.13", "title": ""})
    monkeypatch.setattr(tensorrt_backend, "load_library", lambda name: library)
    for capability, able in (("8.6", False), ("8.9", True), ("9.0", True), ("12.0", True)):
        gpu = Gpu("a GPU", "580.1", "", capability)
        gpus = [gpu, Gpu("another GPU", "580.1", "", "12.0")]
        monkeypatch.setattr(tensorrt_backend, "cuda_gpu", lambda ordinal, gpus=gpus: gpus[ordinal])
        assert tensorrt_backend.target("tensorrt", None, "fp8", "cuda:1").gpu == "another GPU sm120"
        assert tensorrt_backend.target("tensorrt", None, "fp16").gpu == f"a GPU {gpu.sm}"
        if able:
            assert tensorrt_backend.target("tensorrt", None, "fp8").gpu == f"a GPU {gpu.sm}"
        else:
            with pytest.raises(UsageError, match=r"a GPU of 8\.6 does not multiply in fp8"):
                tensorrt_backend.target("tensorrt", None, "fp8")


def test_without_the_quantiser_one_line_says_what_to_install(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="of the tensorrt-rtx extra")
    there = fp8.find_spec
    monkeypatch.setattr(fp8, "find_spec", lambda name: None if name == "modelopt" else there(name))
    with pytest.raises(StreamDiffVSRError, match=r"not installed: modelopt") as caught:
        builder.build(
            "tiny",
            size=(48, 64),
            backend="tensorrt-rtx",
            device="cuda",
            precision="fp8",
            out=tmp_path / "set",
        )
    assert "pip install 'streamdiffvsr[fp8" in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(48, 64), (88, 160), (180, 320), (200, 64)])
def test_calibration_frames_are_of_the_size_and_move(size):
    pytest.importorskip("torch", reason="the made clip is the export's")
    for clip in calibration_clips(size):
        assert {frame.shape for frame in clip} == {(*size, 3)}
        for frame, following in pairwise(clip):
            assert not np.array_equal(frame, following)


def test_a_clip_is_cut_or_mirrored_and_never_scaled():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(fitted(image, (2, 4)), image[1:3, 1:5])
    wide = fitted(image, (6, 6))
    assert np.array_equal(wide[1:5], image) and np.array_equal(wide[0], image[0])


def test_a_model_that_eight_bits_would_ruin_is_not_built(parity_engines, tmp_path, monkeypatch):
    """The graph itself stands in for a quantised one, on a record that it does not match."""
    copy_graph(parity_engines, "denoise", tmp_path)
    read_manifest(parity_engines).graphs.write(tmp_path)
    monkeypatch.setattr("streamdiffvsr.export.quantisation.quantise", lambda *_: None)
    spec = specs_of(parity_engines)["denoise"]
    record = {f"in.{t.name}": np.ones(t.shape, t.dtype) for t in spec.inputs}
    path = tmp_path / golden_file("denoise")
    save_file(record | {"out.denoised": np.ones(spec.outputs[0].shape, np.float32)}, path)
    with pytest.raises(
        StreamDiffVSRError, match=r"not fit for fp8.* dB, and needs 20\.0 dB"
    ) as told:
        fp8.quantise_graphs(tmp_path, [], lambda _: None)
    assert "use precision='fp16'" in str(told.value)
    assert "quantised.denoised" not in load_file(path)


def test_what_fails_in_the_quantiser_is_one_line(parity_engines, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("some library's")

    read_manifest(parity_engines).graphs.write(tmp_path)
    monkeypatch.setattr("streamdiffvsr.export.quantisation.quantise", fail)
    with pytest.raises(StreamDiffVSRError, match=r"cannot quantise denoise: AssertionError: some"):
        fp8.quantise_graphs(tmp_path, [], lambda _: None)


@pytest.mark.slow
def test_an_fp8_set_is_built_where_there_is_no_gpu(parity_model, tmp_path):
    for name in (*MODULES, "tensorrt_rtx"):
        pytest.importorskip(name, reason="fp8 needs the fp8 and tensorrt-rtx extras")
    said: list[str] = []
    folder = builder.build(
        parity_model,
        size=(32, 32),
        backend="tensorrt-rtx",
        device="cuda",
        precision="fp8",
        out=tmp_path / "set",
        progress=said.append,
    )
    manifest = read_manifest(folder)
    assert (manifest.key.precision, manifest.key.gpu) == ("fp8", "sm89,sm120,sm121")
    assert manifest.key.calibration == fp8.recipe_digest()
    assert manifest.graphs.precision == "fp16" and "nvidia-modelopt" in manifest.graphs.exporter
    if manifest.gate == "pending":
        recorded = load_file(folder / golden_file("denoise"))
        assert "quantised.denoised" in recorded
    assert any(line.startswith("quantised denoise: ") for line in said)
    shutil.rmtree(folder)
    assert isinstance(manifest.graphs, GraphSet) and not list(
        Path(tmp_path).glob(".set.building-*")
    )
