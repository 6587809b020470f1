"""Building and opening engine sets: nothing stale, damaged or half-written is ever loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.building import builder
from streamdiffvsr.building.provider import EngineProvider
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.engines import registry
from streamdiffvsr.engines.cache import locked, staged
from streamdiffvsr.engines.manifest import MANIFEST
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.engines.parity import check_parity, relative_error
from streamdiffvsr.engines.trust import sign
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.graphs.spec import golden_file


@pytest.fixture
def engines(parity_engines: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(parity_engines, tmp_path / "set"))


def options(out: Path) -> dict[str, Any]:
    return {"size": (48, 64), "precision": "fp32", "out": out}


class Told(Exception):
    """Raised in place of the export: the build decided to build."""


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_out(*_: object) -> None:
        raise Told

    monkeypatch.setattr(builder, "execute_in_child", carry_out)


def test_a_second_build_does_nothing_and_says_so(
    engines: Path, parity_model: Path, no_export: None
) -> None:
    before = {p: p.stat().st_mtime_ns for p in engines.iterdir()}
    said: list[str] = []
    assert streamdiffvsr.build(parity_model, **options(engines), progress=said.append) == engines
    assert said == [f"up to date: {engines}"]
    assert before == {p: p.stat().st_mtime_ns for p in engines.iterdir()}


def test_a_set_of_the_cache_is_found_and_never_built(
    parity_engines: Path,
    parity_model: Path,
    no_export: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path))

    def find(**options: Any) -> Path | None:
        request = BuildRequest(
            model=str(parity_model),
            backend="onnxruntime",
            precision="fp32",
            device="cpu",
            **options,
        )
        return EngineProvider(request).find((48, 64))

    assert find() is None
    said: list[str] = []
    with pytest.raises(Told):
        streamdiffvsr.build(parity_model, size=(48, 64), progress=said.append)
    folder = Path(said[0].removeprefix("building ").removesuffix(" (new)"))
    shutil.copytree(parity_engines, folder, dirs_exist_ok=True)
    assert find() == folder
    assert find(steps=2) is None
    assert find(flow_scale=4) is None  # too small for it
    next(folder.glob("decode.onnx")).write_bytes(b"damaged")
    assert find() is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": (48, 68)}, "size: 64x48 -> 68x48"),
        ({"precision": "fp16"}, "precision: fp32 -> fp16"),
        ({"steps": 2}, "steps: 4 -> 2"),
        ({"correlation": "on-demand"}, "flow: all-pairs-1 -> on-demand-1"),
        ({"tile": (32, 32)}, "tile32x32"),
    ],
)
def test_another_request_rebuilds_and_says_why(
    engines: Path, parity_model: Path, no_export: None, change: dict[str, Any], reason: str
) -> None:
    said: list[str] = []
    with pytest.raises(Told):
        streamdiffvsr.build(parity_model, **(options(engines) | change), progress=said.append)
    assert any(reason in line for line in said), said
    streamdiffvsr.load(engines)  # the build failed: the old set is still whole


def test_a_changed_weight_rebuilds(
    engines: Path, parity_model: Path, tmp_path: Path, no_export: None
) -> None:
    copy = Path(shutil.copytree(parity_model, tmp_path / "model"))
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said: list[str] = []
    with pytest.raises(Told):
        streamdiffvsr.build(copy, **options(engines), progress=said.append)
    assert any("model_digest" in line for line in said)


@pytest.mark.parametrize("harm", ["cut", "flip", "missing", "link"])
def test_a_damaged_set_is_not_loaded_and_is_rebuilt(
    engines: Path, parity_model: Path, no_export: None, harm: str
) -> None:
    (victim,) = engines.glob("weights-*.data")
    data = bytearray(victim.read_bytes())
    victim.unlink()
    if harm == "cut":
        victim.write_bytes(data[:-1])
    elif harm == "flip":
        data[1000] ^= 0x40
        victim.write_bytes(data)
    elif harm == "link":
        elsewhere = engines.parent / "elsewhere"
        elsewhere.write_bytes(data)
        victim.symlink_to(elsewhere)
    with pytest.raises(StreamDiffVSRError, match="weights-"):
        streamdiffvsr.load(engines)
    with pytest.raises(Told):
        streamdiffvsr.build(parity_model, **options(engines))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 999}', '{"format": 1, "key": 3}']
)
def test_a_broken_manifest_is_one_line(engines: Path, text: str) -> None:
    (engines / MANIFEST).write_text(text)
    with pytest.raises(StreamDiffVSRError, match="manifest") as caught:
        streamdiffvsr.load(engines)
    assert "\n" not in str(caught.value)


def test_a_manifest_cannot_name_files_elsewhere(engines: Path) -> None:
    manifest = json.loads((engines / MANIFEST).read_text())
    manifest["files"]["../secret"] = {"sha256": "0" * 64, "bytes": 1}
    (engines / MANIFEST).write_text(json.dumps(manifest))
    sign(engines / MANIFEST)
    with pytest.raises(StreamDiffVSRError, match="not in the set"):
        streamdiffvsr.load(engines)


def test_load_of_nothing_says_how_to_build(tmp_path: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="streamdiffvsr engines"):
        streamdiffvsr.load(tmp_path / "none")
    with pytest.raises(StreamDiffVSRError, match="not an engine set"):
        streamdiffvsr.load(tmp_path)


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, parity_model: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"precious")
    with pytest.raises(StreamDiffVSRError, match="not an engine set"):
        streamdiffvsr.build(parity_model, **options(tmp_path / "photos"))
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"precious"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Told), staged(tmp_path / "set") as stage:
        (stage / "half").write_bytes(b"x")
        raise Told
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".set.building-abc"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    with locked(tmp_path / "set"), staged(tmp_path / "set") as stage:
        (stage / MANIFEST).write_text("{}")
    assert not left.exists() and (tmp_path / "set" / MANIFEST).is_file()


def test_the_lock_is_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from streamdiffvsr.engines.cache import locked"
        "\nwith locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    started = time.monotonic()
    with locked(tmp_path / "set"):
        assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 64)}, "not a frame size"),
        ({"size": (48, -64)}, "not a frame size"),
        ({"size": (100_000, 100_000)}, "too large"),
        ({"backend": "magic"}, "unknown backend"),
        ({"precision": "int3"}, "unknown precision"),
        ({"steps": 0}, "steps"),
        ({"steps": 1000}, "steps"),
        ({"device": "tpu"}, "unknown device"),
        ({"flow_scale": 3}, "flow scale"),
        ({"flow_scale": 4}, "does not fit"),
        ({"tile": (33, 32)}, "tiles"),
        ({"tile": (64, 64)}, "within the frame"),
        ({"tile": "big"}, "tile"),
    ],
)
def test_senseless_requests_are_usage_errors(
    tmp_path: Path, parity_model: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        streamdiffvsr.build(parity_model, **(options(tmp_path / "set") | change))
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(StreamDiffVSRError, match=r"pip install 'streamdiffvsr\[cpu\]'"):
        registry.require_backend("onnxruntime")


def test_a_provider_that_is_missing_is_refused_not_replaced(parity_engines: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    manifest = streamdiffvsr.load(parity_engines).manifest
    spec = manifest.graphs.specs()["prepare"]
    with pytest.raises(StreamDiffVSRError, match="has no CUDAExecutionProvider"):
        OrtEngine(parity_engines / "prepare.onnx", spec, "cuda")


def test_the_gate_refuses_wrong_and_nan_engines(parity_engines: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    spec = streamdiffvsr.load(parity_engines).manifest.graphs.specs()["temporal"]
    engine = OrtEngine(parity_engines / "temporal.onnx", spec)
    given = np.random.default_rng(0).normal(size=spec.inputs[0].shape).astype(np.float32)
    outputs = {t.name: np.empty(t.shape, t.dtype) for t in spec.outputs}
    engine.bind({"warped": given} | outputs).enqueue()
    record = {"in.warped": given} | {f"out.{k}": v.copy() for k, v in outputs.items()}
    save_file(record, tmp_path / golden_file("temporal"))
    assert check_parity(engine, tmp_path, "fp32").error == 0
    record["out.temporal_3"][0, 0, 0, 0] += 0.01 * max(1, np.abs(record["out.temporal_3"]).max())
    save_file(record, tmp_path / golden_file("temporal"))
    with pytest.raises(StreamDiffVSRError, match=r"temporal engine is not accepted.*temporal_3"):
        check_parity(engine, tmp_path, "fp32")
    nan = np.full((1, 2), np.nan, np.float32)
    assert not relative_error(nan, np.zeros((1, 2), np.float32)) <= 1e9


def test_frames_in_the_gate_may_round_either_way_but_no_more() -> None:
    frame = np.full((2, 2, 3), 100, np.uint8)
    assert relative_error(frame + np.uint8(1), frame) == 0
    assert relative_error(frame + np.uint8(2), frame) > 1e-3


def test_buffers_are_checked_before_they_are_bound(parity_engines: Path) -> None:
    spec = streamdiffvsr.load(parity_engines).manifest.graphs.specs()["prepare"]
    engine = OrtEngine(parity_engines / "prepare.onnx", spec)
    frame = np.zeros((1, 48, 64, 3), np.uint8)
    for wrong in (frame[:, :47], frame.astype(np.float32), frame[:, :, ::-1]):
        with pytest.raises(ValueError, match=r"prepare\.frame"):
            engine.bind({"frame": wrong})
    with pytest.raises(ValueError, match="no tensor 'frames'"):
        engine.bind({"frames": frame})
    with pytest.raises(ValueError, match="no buffer for lr, up"):
        engine.bind({"frame": frame})
