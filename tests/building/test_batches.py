"""Engine sets whose engines take several tiles at once: requests, keys, and the parity gate."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import streamdiffvsr
from streamdiffvsr.building.graph_source import (
    SHIPPED,
    record_reference,
    small_geometry,
    write_set,
)
from streamdiffvsr.engines.cache import default_folder
from streamdiffvsr.engines.manifest import MANIFEST, EngineKey, read_manifest
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.engines.parity import check_parity
from streamdiffvsr.engines.tensorrt_graph import rewrite_graph
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER, model_digest
from streamdiffvsr.graphs.library import GraphLibrary, GraphOptions
from streamdiffvsr.graphs.onnx_network import count_operators
from streamdiffvsr.graphs.plan import make_plan
from streamdiffvsr.graphs.spec import (
    GRAPHS,
    Geometry,
    GraphSet,
    SizeRange,
    golden_file,
    onnx_file,
)

TILE = (48, 48)
KEY = EngineKey("", "48x48", "f", "", "fp32", 4, "onnxruntime", "cpu", "", "", 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": "cpu"}, "2 tiles at once are not possible on a CPU: it runs tiles one by one"),
        ({"profile": SizeRange(TILE, TILE, TILE)}, "with a range of sizes"),
        ({"precision": "fp8"}, "in fp8"),
        ({"size": (48, 64)}, "engines of 64x48 cannot take 2 tiles at once: such tiles are square"),
        ({"size": (45, 45)}, "engines of 45x45 cannot take 2 tiles at once"),
        ({"tile": (32, 32)}, "and small enough to be run whole; use size=.48, 48."),
        ({"correlation": "on-demand"}, "cannot take 2 tiles"),
        ({"batch": 3}, "a batch of 3 is not possible; use 1, 2 or 4"),
        ({"batch": 0}, "0"),
    ],
)
def test_impossible_batches_are_refused_before_anything_is_made(
    change: dict[str, Any], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamdiffvsr.building import spec

    monkeypatch.setattr(spec, "check_gpu", lambda device: None)
    backend = "onnxruntime" if change.get("device") == "cpu" else "tensorrt-rtx"
    options = {
        "size": TILE,
        "backend": backend,
        "device": "cuda",
        "batch": 2,
        "out": tmp_path / "e",
    }
    with pytest.raises(UsageError, match=error):
        streamdiffvsr.build("tiny", **(options | change))
    assert list(tmp_path.iterdir()) == []


def test_a_batch_on_a_cpu_is_one_line_on_the_command_line(cli: Any) -> None:
    ran = cli("engines", "--size", "48x48", "--device", "cpu", "--batch", "2")
    assert ran.code == 2
    assert ran.error == (
        "2 tiles at once are not possible on a CPU: it runs tiles one by one; "
        "leave out --batch, or use --device cuda"
    )
    help_text = cli("engines", "--help").out
    assert "--batch " in help_text and "--batch " not in cli("upscale", "--help").out


def test_only_a_plan_of_one_tile_has_batches() -> None:
    assert make_plan(TILE, batch=4).geometry == Geometry(TILE, batch=4)
    assert make_plan((45, 64), batch=1).geometry.batch == 1
    assert small_geometry(Geometry(TILE, batch=2)).batch == 2


def test_a_key_without_a_batch_is_what_it_was() -> None:
    """Interrupted jobs name their engines by it."""
    before = {name: value for name, value in asdict(KEY).items() if name != "batch"}
    text = json.dumps(before, sort_keys=True).encode()
    assert KEY.digest() == hashlib.sha256(text).hexdigest()
    keys = [replace(KEY, batch=batch) for batch in (1, 2, 4)]
    assert len({key.digest() for key in keys}) == 3
    assert len({default_folder(key) for key in keys}) == 3
    assert default_folder(keys[1]).name == f"{default_folder(KEY).name}_batch2"
    assert keys[1].differs_from(KEY) == ["batch: 1 -> 2"]


def test_an_older_manifest_is_read(parity_engines: Path, tmp_path: Path) -> None:
    data = json.loads((parity_engines / MANIFEST).read_text())
    data["key"].pop("batch", None)
    data["graphs"]["geometry"].pop("batch", None)
    (tmp_path / MANIFEST).write_text(json.dumps(data))
    manifest = read_manifest(tmp_path)
    assert manifest.key.batch == manifest.graphs.geometry.batch == 1


# ---- graphs and the gate ----


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraphSet, Path]:
    """The built-in model's graphs for two tiles at once, with the recorded tensors."""
    folder = tmp_path_factory.mktemp("batched")
    return made(folder, 2), folder


def made(folder: Path, batch: int) -> GraphSet:
    library = GraphLibrary.read(SHIPPED, model_digest(BUILT_IN_FOLDER))
    assert library is not None
    options = GraphOptions("fp32", 4, 1, "all-pairs")
    sources = {name: SHIPPED / file for name, file in options.files().items()}
    graphs = write_set(library, sources, options, Geometry(TILE, batch=batch), folder)
    record_reference(graphs, sources, folder)
    assert GraphSet.read(folder) == graphs
    return graphs


def test_all_graphs_of_a_batch_pass_the_gate(batched: tuple[GraphSet, Path]) -> None:
    graphs, folder = batched
    for name, spec in graphs.specs().items():
        shapes = [t.shape for t in (*spec.inputs, *spec.outputs) if len(t.shape) == 4]
        assert {shape[0] for shape in shapes} == {2}
        check_parity(OrtEngine(folder / onnx_file(name), spec), folder, "fp32")


def test_the_gate_sees_every_place_of_a_batch(batched: tuple[GraphSet, Path]) -> None:
    """Each place has a frame of its own, so that mixing them up is found."""
    graphs, folder = batched

    class FirstOnly:
        def __init__(self, engine: OrtEngine) -> None:
            self.engine = engine

        def describe(self) -> Any:
            return self.engine.describe()

        def bind(self, buffers: Any) -> Any:
            bound = self.engine.bind(buffers)

            class Twice:
                def enqueue(self) -> None:
                    bound.enqueue()
                    for tensor in graphs.specs()[name].outputs:
                        buffers[tensor.name][1] = buffers[tensor.name][0]

            return Twice()

    for name in GRAPHS:
        golden = load_file(folder / golden_file(name))
        for tensor, value in golden.items():
            if value.ndim == 4:
                assert not np.array_equal(value[0], value[1]), (name, tensor)
        engine = FirstOnly(OrtEngine(folder / onnx_file(name), graphs.specs()[name]))
        with pytest.raises(StreamDiffVSRError, match=f"the {name} engine is not accepted"):
            check_parity(engine, folder, "fp32")  # type: ignore[arg-type]


def test_the_first_place_is_recorded_as_a_single_frame_was(
    batched: tuple[GraphSet, Path], tmp_path: Path
) -> None:
    _, folder = batched
    made(tmp_path, 1)
    for name in ("prepare", "features", "flow", "guide"):
        two, one = (load_file(f / golden_file(name)) for f in (folder, tmp_path))
        for tensor, value in one.items():
            if value.ndim == 4:
                assert np.abs(two[tensor][:1] - value.astype(np.float64)).max() <= 1e-3, tensor


def test_batches_are_rewritten_for_tensorrt_like_single_frames(
    batched: tuple[GraphSet, Path], tmp_path: Path
) -> None:
    _, folder = batched
    counts = []
    for batch in (1, 2):
        copy = tmp_path / str(batch)
        copy.mkdir()
        if batch == 1:
            made(copy, 1)
        else:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
        rewrite_graph(copy / onnx_file("denoise"), group_norms=True)
        counts.append(count_operators(copy / onnx_file("denoise")))
    assert counts[0] == counts[1]
    assert counts[1]["GroupNormalization"] > 0 and counts[1]["InstanceNormalization"] == 0


@pytest.mark.slow
def test_torch_programs_of_a_batch_pass_the_gate(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from streamdiffvsr.engines.backends import BACKENDS
    from streamdiffvsr.export.graph_folder import export_programs
    from streamdiffvsr.export.model import load_model

    model, geometry = load_model(BUILT_IN_FOLDER), Geometry(TILE, batch=2)
    graphs = export_programs(model, tmp_path, geometry=geometry)
    for spec in graphs.specs().values():
        check_parity(BACKENDS["torch"].open(tmp_path, spec, "cpu", None), tmp_path, "fp32")


@pytest.mark.slow
def test_tensorrt_rtx_builds_a_batch_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = streamdiffvsr.build(
        "tiny",
        size=TILE,
        backend="tensorrt-rtx",
        device="cuda",
        compute_capabilities=[89],
        batch=4,
        out=tmp_path / "set",
    )
    manifest = read_manifest(folder)
    assert manifest.key.batch == manifest.graphs.geometry.batch == 4
    assert len(list(folder.glob("*.plan"))) == len(GRAPHS)
