"""The graphs of an engine set are found, wherever they are, or one line says what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="counting needs the export extra")

from streamdiffvsr.benchmarks.roofline import engine_work as counting
from streamdiffvsr.benchmarks.roofline.engine_work import engine_work, frame_runs
from streamdiffvsr.benchmarks.roofline.graph_work import GraphWork, Work
from streamdiffvsr.engines.cache import engines_root
from streamdiffvsr.engines.manifest import MANIFEST
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import GRAPHS, Geometry

WORK = GraphWork({Work("conv", 1000, 10): 2})


@pytest.fixture
def compiled(parity_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an engine set whose graphs are plans, and empties the cache."""
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "compiled"
    folder.mkdir()
    manifest = json.loads((parity_engines / MANIFEST).read_text())
    manifest["key"]["backend"] = "tensorrt"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[counting.Traced]:
    """Returns the list of graphs that the code asks to be traced; none is traced."""
    asked = []

    def trace(wanted: counting.Traced, names: Iterable[str] = GRAPHS) -> Iterator[object]:
        asked.append(wanted)
        return ((name, WORK) for name in names)

    monkeypatch.setattr(counting, "trace_work", trace)
    return asked


def rename_model(folder: Path, name: str) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_name": name}))


def test_a_compiled_set_has_the_work_of_the_exported_one_in_the_cache(
    compiled: Path, parity_engines: Path, traced: list[counting.Traced]
) -> None:
    engines_root().mkdir(parents=True)
    shutil.copytree(parity_engines, engines_root() / "exported")
    assert engine_work(compiled) == engine_work(parity_engines)
    assert not traced


def test_else_its_graphs_are_traced_once(
    compiled: Path, traced: list[counting.Traced], parity_model: Path
) -> None:
    rename_model(compiled, str(parity_model))
    lines: list[str] = []
    first = engine_work(compiled, lines.append)
    assert first.graphs["flow"] == WORK and first.flops == (6 + 4) * 2000
    assert engine_work(compiled, lines.append) == first
    assert len(traced) == len(lines) == 1 and "trace" in lines[0]
    assert traced[0].precision == "fp32" and traced[0].plan.geometry.size == (48, 64)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("tiny", "tiny is not the model it was built from"),
        ("nobody/has-this", "the model nobody/has-this is not on this disk"),
    ],
)
def test_without_its_model_one_line_says_what_is_needed(
    compiled: Path, traced: list[counting.Traced], model: str, why: str
) -> None:
    rename_model(compiled, model)
    with pytest.raises(StreamDiffVSRError, match=f"{why}; count where the model is"):
        engine_work(compiled)
    assert not traced


def test_tiles_run_the_tiled_graphs_more_often() -> None:
    runs = frame_runs(Geometry((64, 128), tile=(64, 72)), 4)
    assert runs["denoise"] == 4 * 2 and runs["decode"] == runs["temporal"] == 2
    assert runs["flow"] == runs["guide"] == 1
