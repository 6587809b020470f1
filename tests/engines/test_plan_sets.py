"""Sets of compiled engines: what is never loaded, and where they are accepted."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import streamdiffvsr
from streamdiffvsr.engines import engine_set, tensorrt_backend
from streamdiffvsr.engines.engine_set import ACCEPTANCE, is_accepted, record_acceptance
from streamdiffvsr.engines.host import Gpu
from streamdiffvsr.engines.manifest import MANIFEST, read_manifest
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.engines.tensorrt_build import BuildSettings
from streamdiffvsr.engines.trust import SIGNED, sign
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import GRAPHS, golden_file
from streamdiffvsr.tests.engines.graphs import copy_graph, specs_of

GPU = Gpu("NVIDIA RTX", "580.1", "16380 MiB", "8.9")
VERSION = "1.7.1.116"


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
    assert {p.name for p in folder.iterdir()} == {*manifest.files, MANIFEST, MANIFEST + SIGNED}
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


def test_a_new_driver_makes_nothing_stale_and_is_gated_once(build, machine):
    machine.gpu = GPU
    folder, _ = build()
    manifest = read_manifest(folder)
    assert manifest.driver == GPU.driver and "driver" not in json.dumps(asdict(manifest.key))
    machine.gpu = replace(GPU, driver="590.1")
    assert build()[1] == [f"up to date: {folder}"]
    for expected in (list(GRAPHS), []):
        machine.gated.clear()
        opened, _ = engine_set.open_engines(folder)
        assert machine.gated == expected
        assert opened.key.digest() == manifest.key.digest()


def test_a_set_is_built_checked_and_opened_on_the_gpu_that_is_named(build, machine):
    machine.first, machine.gpu = replace(GPU, name="NVIDIA H200", compute_capability="9.0"), GPU
    folder, _ = build(device="cuda:1")
    manifest = read_manifest(folder)
    assert (manifest.key.device, manifest.gate) == ("cuda", "passed")
    assert machine.places == machine.current == {"cuda:1"}
    machine.gated.clear()
    engine_set.open_engines(folder, "cuda:1")
    assert machine.gated == []
    assert "the NVIDIA H200 here is sm90" in refused(folder)
    assert build(device="cuda")[1] == [f"up to date: {folder}"]  # of the same key


@pytest.mark.slow
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
    sign(folder / MANIFEST)
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
    assert "built with TensorRT-RTX 1.7.1.116, installed is 1.8.0.1" in refused(folder)
    assert machine.opened == []
    _, said = build()
    assert any("(library: 1.7.1.116 -> 1.8.0.1)" in line for line in said), said


@pytest.mark.slow
def test_damaged_bytes_are_never_loaded(build, machine):
    """200 cut and flipped plans and manifests: refused, or what is loaded is what was built."""
    folder, _ = build()
    machine.gpu = GPU
    draw, refusals = random.Random(0), 0
    plans = [folder / tensorrt_backend.plan_file(name) for name in GRAPHS]
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
            raise AssertionError(f"{victim.name} was loaded")
        victim.write_bytes(whole)
    assert refusals == 200


@pytest.mark.parametrize("has_norms", [True, False])
def test_a_graph_is_rewritten_as_its_library_can_take_it(
    parity_engines, tmp_path, monkeypatch, has_norms
):
    from streamdiffvsr.graphs.onnx_network import count_operators

    library = SimpleNamespace(builds_for_named_gpus=True, has_group_norms=has_norms)
    monkeypatch.setattr(tensorrt_backend, "load_library", lambda name: library)
    given = []

    def build_plan(library, onnx, spec, plan, settings, progress):
        given.append((count_operators(onnx), settings))
        plan.write_bytes(b"plan")

    monkeypatch.setattr(tensorrt_backend, "build_plan", build_plan)
    key = replace(
        read_manifest(parity_engines).key,
        backend="tensorrt-rtx",
        gpu="sm89,sm121",
        optimization_level=5,
    )
    copy_graph(parity_engines, "denoise", tmp_path)
    spec = specs_of(parity_engines)["denoise"]
    tensorrt_backend.compile_graph(tmp_path, spec, key, 2**20, lambda fraction: None)
    ((counts, settings),) = given
    assert counts["GroupNormalization"] == (88 if has_norms else 0)
    assert counts["Transpose"] == 202
    assert settings == BuildSettings((89, 121), 2**20, optimization_level=5)
    assert {p.suffix for p in tmp_path.iterdir()} == {".plan", ".data"}


def test_an_engine_that_was_made_of_the_same_is_taken_over(
    machine, parity_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path))

    def build(steps: int, **options: Any) -> tuple[Path, list[str]]:
        said: list[str] = []
        chosen = {"size": (48, 64), "backend": "tensorrt-rtx", "device": "cuda", "steps": steps}
        folder = streamdiffvsr.build(parity_model, progress=said.append, **chosen, **options)
        return folder, [line.split()[0] for line in said if line.split()[1] in GRAPHS]

    first, done = build(4)
    assert done == ["compile"] * len(GRAPHS)
    second, done = build(2)  # the same graphs here, as the export is made up
    assert second != first and done == ["take"] * len(GRAPHS)
    assert read_manifest(second).made_of == read_manifest(first).made_of
    engine_set.verify_files(second, read_manifest(second))
    assert build(3, compute_capabilities=(121,))[1] == ["compile"] * len(GRAPHS)
    for folder in (first, second):
        damaged = folder / "flow.plan"
        damaged.unlink()
        damaged.write_bytes(b"something else")
    third, done = build(5)
    assert sorted(done) == ["compile", *["take"] * (len(GRAPHS) - 1)]
    engine_set.verify_files(third, read_manifest(third))
