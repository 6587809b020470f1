"""Sets of compiled engines: when they are built again, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamdiffvsr.building import fp8, spec
from streamdiffvsr.engines import tensorrt_backend
from streamdiffvsr.engines.cache import default_folder
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.errors import StreamDiffVSRError, UsageError


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"compute_capabilities": [89]}, "gpu: sm80,sm86,sm89,sm120,sm121 -> sm89"),
        ({"compute_capabilities": [89, 86, 121, 89, 120, 80]}, "up to date"),
        ({"optimization_level": 5}, "(optimization_level: none -> 5)"),
        ({"optimization_level": 0}, "(optimization_level: none -> 0)"),
        ({"optimization_level": 3}, "up to date"),
        ({"precision": "fp16"}, "precision: fp32 -> fp16"),
        ({"backend": "onnxruntime", "device": "cpu"}, "library: 1.7.1.116 -> none"),
    ],
)
def test_another_request_is_built_again_and_told_why(build, change, reason):
    build()
    _, said = build(**change)
    assert any(reason in line for line in said), said


def test_another_way_to_calibrate_makes_an_fp8_set_stale(build, monkeypatch):
    monkeypatch.setattr(spec, "require_quantiser", lambda: None)
    folder, _ = build(precision="fp8")
    key = read_manifest(folder).key
    assert (key.precision, key.gpu, len(key.calibration)) == ("fp8", "sm89,sm120,sm121", 16)
    assert build(precision="fp8")[1] == [f"up to date: {folder}"]
    for name, value in (("PHOTOGRAPHIC_FRAMES", 7), ("SEED", 1), ("CLIP", Path(__file__))):
        monkeypatch.setattr(fp8, name, value)
        before = read_manifest(folder).key.calibration
        _, said = build(precision="fp8")
        now = read_manifest(folder).key.calibration
        assert now != before and said[0].endswith(f"(calibration: {before} -> {now})")
    monkeypatch.setattr(fp8, "quantiser_version", lambda: "0.99")
    assert "calibration: " in build(precision="fp8")[1][0]
    assert build(precision="fp16")[0] and read_manifest(folder).key.calibration == ""


def test_sets_of_other_levels_lie_beside_each_other(build):
    folder, _ = build()
    usual = read_manifest(folder).key
    folder, _ = build(optimization_level=5)
    other = read_manifest(folder).key
    assert (usual.optimization_level, other.optimization_level) == (None, 5)
    assert usual.digest() != other.digest()
    names = [default_folder(key).name for key in (usual, other)]
    assert names == [names[0], f"{names[0]}_level5"]


def test_a_library_without_levels_says_so(build, monkeypatch):
    config = tensorrt_backend.load_library("tensorrt-rtx").module.IBuilderConfig
    monkeypatch.delattr(config, "builder_optimization_level")
    build()
    with pytest.raises(UsageError, match=r"TensorRT-RTX 1\.7\S* has no optimization levels"):
        build(optimization_level=5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": "cpu"}, UsageError),
        ({"compute_capabilities": [75]}, StreamDiffVSRError),
        ({"backend": "onnxruntime", "compute_capabilities": [89]}, UsageError),
        ({"workspace_mib": 0}, UsageError),
        ({"optimization_level": 6}, UsageError),
        ({"optimization_level": -1}, UsageError),
        ({"backend": "onnxruntime", "device": "cpu", "optimization_level": 3}, UsageError),
    ],
)
def test_impossible_requests_are_told_before_anything_is_made(build, tmp_path, change, error):
    with pytest.raises(error):
        build(**change)
    assert list(tmp_path.iterdir()) == []
