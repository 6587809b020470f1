"""Sets of compiled engines: what makes them stale, what is never loaded, where they are accepted.

Plans are stand-ins of a few bytes. Where a GPU is needed one is made up, and ONNX Runtime runs in
its place.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import streamdiffvsr
from streamdiffvsr.building import builder, calibration, request
from streamdiffvsr.building.order import BuildOrder
from streamdiffvsr.engines import backends, engine_set, trt_backend
from streamdiffvsr.engines.acceptance import ACCEPTANCE, is_accepted, record_acceptance
from streamdiffvsr.engines.gate import check_parity, run_on_host
from streamdiffvsr.engines.gpu import Gpu
from streamdiffvsr.engines.manifest import MANIFEST, read_manifest
from streamdiffvsr.engines.ort import OrtEngine
from streamdiffvsr.engines.trt_library import TrtLibrary
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.graph_set import golden_file, onnx_file
from streamdiffvsr.spec import GRAPHS, GraphSpec
from streamdiffvsr.tests.engines.graphs import make_graph_folder

GPU = Gpu("NVIDIA RTX", "580.1", "16380 MiB", "8.9")
VERSION = "1.7.1.116"


class RtxConfig:
    """What tells TensorRT-RTX from TensorRT."""

    num_compute_capabilities = 0


@dataclass
class Machine:
    """What the backend finds, and what it was asked to do."""

    gpu: Gpu | None = None
    version: str = VERSION
    opened: list[str] = field(default_factory=list)
    gated: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def graphs(parity_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model's graphs, as an export leaves them."""
    return make_graph_folder(parity_engines, tmp_path_factory.mktemp("graphs") / "parity")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, graphs: Path, parity_engines: Path) -> Machine:
    """TensorRT-RTX in which a plan is a file of a few bytes, and no export takes place."""
    it = Machine()
    capability = type("ComputeCapability", (), {f"SM{c}": c for c in (75, 80, 86, 89, 120)})
    fake: Any = type("module", (), {"IBuilderConfig": RtxConfig, "ComputeCapability": capability})

    def compile(folder: Path, spec: GraphSpec, *_: object) -> None:
        for path in folder.glob(f"{onnx_file(spec.name)}*"):
            path.unlink()
        (folder / trt_backend.plan_file(spec.name)).write_bytes(f"plan of {spec.name}".encode())

    def open_plan(folder: Path, spec: GraphSpec, device: str) -> OrtEngine:
        plan = (folder / trt_backend.plan_file(spec.name)).read_bytes()
        assert plan == f"plan of {spec.name}".encode(), "a plan that nobody built was loaded"
        it.opened.append(spec.name)
        return OrtEngine(parity_engines / onnx_file(spec.name), spec)

    def gated(engine: Any, *arguments: Any) -> Any:
        it.gated.append(engine.describe().name)
        return check_parity(engine, *arguments)

    def carry_out(order: BuildOrder, progress: Any) -> None:
        shutil.copytree(graphs, order.stage, dirs_exist_ok=True)
        keywords = {"package_version": "0", "started": order.started, "progress": progress}
        engine_set.accept_graphs(order.stage, order.key, order.model_name, **keywords)

    rtx = replace(
        backends.BACKENDS["tensorrt-rtx"],
        module="json",  # which is installed everywhere
        compile=compile,
        open=open_plan,
    )
    monkeypatch.setattr(backends, "run_on_device", run_on_host)
    ort = replace(
        backends.BACKENDS["onnxruntime"],
        open=lambda folder, spec, device: OrtEngine(folder / onnx_file(spec.name), spec),
        obstacle=lambda key: "" if it.gpu or key.device == "cpu" else "no NVIDIA driver answers",
    )
    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", ort)
    monkeypatch.setitem(backends.BACKENDS, "tensorrt-rtx", rtx)
    monkeypatch.setattr(
        trt_backend, "load_library", lambda name: TrtLibrary(fake, "TensorRT-RTX", it.version)
    )
    monkeypatch.setattr(trt_backend, "cuda_gpu", lambda: it.gpu)
    monkeypatch.setattr(engine_set, "cuda_gpu", lambda: it.gpu)
    monkeypatch.setattr(engine_set, "check_parity", gated)
    monkeypatch.setattr(builder, "carry_out_in_child", carry_out)
    return it


@pytest.fixture
def build(machine: Machine, parity_model: Path, tmp_path: Path) -> Any:
    """Build the set; returns the folder and the lines that were told."""

    def run(**change: Any) -> tuple[Path, list[str]]:
        said: list[str] = []
        options = {"size": (48, 64), "backend": "tensorrt-rtx", "device": "cuda"} | change
        folder = streamdiffvsr.build(
            parity_model, out=tmp_path / "set", progress=said.append, **options
        )
        return folder, said

    return run


def refused(folder: Path) -> str:
    with pytest.raises(StreamDiffVSRError) as caught:
        engine_set.open_engines(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_gpu_the_gate_is_pending_and_the_set_says_so(build, machine):
    folder, said = build()
    manifest = read_manifest(folder)
    assert (manifest.gate, manifest.parity, machine.gated) == ("pending", {}, [])
    assert set(manifest.files) == {
        name for graph in GRAPHS for name in (f"{graph}.plan", golden_file(graph))
    }
    assert {p.name for p in folder.iterdir()} == {*manifest.files, MANIFEST}
    assert any("not checked here: CUDA finds no NVIDIA GPU" in line for line in said)
    assert "cannot run here: CUDA finds no NVIDIA GPU here" in refused(folder)
    assert machine.opened == []
    assert build()[1] == [f"up to date: {folder}"]


def test_with_a_gpu_it_is_accepted_as_it_is_built(build, machine):
    machine.gpu = GPU
    folder, _ = build()
    manifest = read_manifest(folder)
    assert manifest.gate == "passed" and set(manifest.parity) == set(GRAPHS)
    machine.gated.clear()
    engine_set.open_engines(folder)
    assert machine.gated == []


def test_graphs_that_a_gpu_runs_as_they_are_pass_the_gate_on_each_kind_too(build, machine):
    with pytest.raises(StreamDiffVSRError, match=r"cannot be checked here: no NVIDIA driver"):
        build(backend="onnxruntime")
    machine.gpu = GPU
    folder, _ = build(backend="onnxruntime")
    assert machine.gated == list(GRAPHS)
    engine_set.open_engines(folder)
    assert len(machine.gated) == len(GRAPHS)
    machine.gpu = replace(GPU, driver="590.1")
    for _ in range(2):
        engine_set.open_engines(folder)
    assert machine.gated == list(GRAPHS) * 2


@pytest.mark.slow
def test_a_pending_gate_runs_once_on_each_kind_of_gpu(build, machine):
    folder, _ = build()
    machine.gpu = GPU
    for gpu in (GPU, replace(GPU, driver="590.0")):
        machine.gpu = gpu
        for expected in (list(GRAPHS), []):
            machine.gated.clear()
            engine_set.open_engines(folder)
            assert machine.gated == expected
    assert len(json.loads((folder / ACCEPTANCE).read_text())) == 2
    manifest = json.loads((folder / MANIFEST).read_text()) | {"build_seconds": 1.0}
    (folder / MANIFEST).write_text(json.dumps(manifest))  # another set under the same name
    engine_set.open_engines(folder)
    assert machine.gated == list(GRAPHS)


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", '[{"place": 3}]', "null", "\x00"])
def test_a_damaged_acceptance_counts_for_nothing(tmp_path, text):
    (tmp_path / MANIFEST).write_text("{}")
    record_acceptance(tmp_path, GPU, VERSION, {})
    assert is_accepted(tmp_path, GPU, VERSION)
    (tmp_path / ACCEPTANCE).write_text(text)
    assert not is_accepted(tmp_path, GPU, VERSION)
    record_acceptance(tmp_path, GPU, VERSION, {})
    assert is_accepted(tmp_path, GPU, VERSION)


def test_an_engine_that_fails_the_gate_is_refused_each_time(build, machine, monkeypatch):
    folder, _ = build()
    machine.gpu = GPU

    def bind(self: OrtEngine, buffers: Any) -> Any:
        for tensor in self.describe().outputs:
            buffers[tensor.name].fill(99)
        return SimpleNamespace(enqueue=lambda: None)

    monkeypatch.setattr(OrtEngine, "bind", bind)
    for _ in range(2):
        assert "engine is not accepted" in refused(folder)
    assert not (folder / ACCEPTANCE).exists()


@pytest.mark.parametrize(
    ("gpu", "told"),
    [
        (replace(GPU, compute_capability="9.0", name="NVIDIA H200"), "NVIDIA H200 here is sm90"),
        (None, "no NVIDIA GPU"),
    ],
)
def test_another_gpu_than_the_sets_is_refused_before_a_plan_is_touched(build, machine, gpu, told):
    folder, _ = build()
    machine.gpu = gpu
    assert told in refused(folder)
    assert machine.opened == []


def test_a_plan_of_another_version_is_never_loaded_and_is_built_again(build, machine):
    folder, _ = build()
    machine.gpu, machine.version = GPU, "1.8.0.1"
    assert "its plans are of TensorRT-RTX 1.7.1.116, here is 1.8.0.1" in refused(folder)
    assert machine.opened == []
    _, said = build()
    assert any("(library: 1.7.1.116 -> 1.8.0.1)" in line for line in said), said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"compute_capabilities": [89]}, "gpu: sm80,sm86,sm89,sm120 -> sm89"),
        ({"compute_capabilities": [89, 86, 89, 120, 80]}, "up to date"),
        ({"precision": "fp16"}, "precision: fp32 -> fp16"),
        ({"backend": "onnxruntime", "device": "cpu"}, "library: 1.7.1.116 -> none"),
    ],
)
def test_another_request_is_built_again_and_told_why(build, change, reason):
    build()
    _, said = build(**change)
    assert any(reason in line for line in said), said


def test_another_way_to_calibrate_makes_an_fp8_set_stale(build, monkeypatch):
    monkeypatch.setattr(request, "require_quantiser", lambda: None)
    folder, _ = build(precision="fp8")
    key = read_manifest(folder).key
    assert (key.precision, key.gpu, len(key.calibration)) == ("fp8", "sm89,sm120", 16)
    assert build(precision="fp8")[1] == [f"up to date: {folder}"]
    for name, value in (("PHOTOGRAPHIC_FRAMES", 7), ("SEED", 1), ("CLIP", Path(__file__))):
        monkeypatch.setattr(calibration, name, value)
        before = read_manifest(folder).key.calibration
        _, said = build(precision="fp8")
        now = read_manifest(folder).key.calibration
        assert now != before and said[0].endswith(f"(calibration: {before} -> {now})")
    monkeypatch.setattr(calibration, "quantiser_version", lambda: "0.99")
    assert "calibration: " in build(precision="fp8")[1][0]
    assert build(precision="fp16")[0] and read_manifest(folder).key.calibration == ""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": "cpu"}, UsageError),
        ({"compute_capabilities": [75]}, StreamDiffVSRError),
        ({"backend": "onnxruntime", "compute_capabilities": [89]}, UsageError),
        ({"workspace_mib": 0}, UsageError),
    ],
)
def test_impossible_requests_are_told_before_anything_is_made(build, tmp_path, change, error):
    with pytest.raises(error):
        build(**change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_damaged_bytes_are_never_loaded(build, machine):
    """200 cut and flipped plans and manifests: refused, or what is loaded is what was built."""
    folder, _ = build()
    machine.gpu = GPU
    draw, refusals = random.Random(0), 0
    plans = [folder / trt_backend.plan_file(name) for name in GRAPHS]
    for variant in range(200):
        victim = draw.choice([*plans, folder / MANIFEST])
        whole = victim.read_bytes()
        data = bytearray(whole)
        if variant % 2:
            del data[draw.randrange(len(data)) :]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        victim.write_bytes(data)
        try:
            engine_set.open_engines(folder)
        except StreamDiffVSRError as error:
            refusals += 1
            assert "\n" not in str(error)
        else:
            assert victim.name == MANIFEST and variant % 2 == 0  # a flip in a name or a time
        victim.write_bytes(whole)
    assert refusals > 180
