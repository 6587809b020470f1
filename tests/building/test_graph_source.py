"""The library of symbolic graphs: what is damaged is never used, and is exported again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import streamdiffvsr
from streamdiffvsr.building import graph_source
from streamdiffvsr.building.graph_source import SHIPPED, GraphSource, write_set
from streamdiffvsr.engines import host
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER, model_digest
from streamdiffvsr.graphs.library import MAX_JSON_BYTES, GraphLibrary, GraphOptions
from streamdiffvsr.graphs.spec import GRAPHS, GRAPHS_JSON, Geometry, onnx_file

OPTIONS = GraphOptions("fp32", 4, 1, "all-pairs")
DIGEST = model_digest(BUILT_IN_FOLDER)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the shipped graphs that a test may damage."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "graphs"))


def source(folder: Path) -> GraphSource:
    return GraphSource(BUILT_IN_FOLDER, DIGEST, folder)


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.find_spec
    monkeypatch.setattr(host, "find_spec", lambda name: None if name == "torch" else real(name))


def forget(folder: Path, graph: str) -> None:
    """Makes a graph one that was never exported."""
    (folder / graph).unlink()
    data = json.loads((folder / GRAPHS_JSON).read_text())
    del data["files"][graph]
    (folder / GRAPHS_JSON).write_text(json.dumps(data))


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.data")
    return path


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def swap(folder: Path) -> None:
    one, two = folder / "decode.fp32.onnx", folder / "guide.fp32.onnx"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


HARMS: dict[str, Any] = {
    "graph flipped": lambda folder: flip(folder / "prepare.fp32.onnx", 400),
    "graph cut": lambda folder: os.truncate(folder / "decode.fp32.onnx", 1000),
    "graph missing": lambda folder: (folder / "temporal.fp32.onnx").unlink(),
    "graph linked": lambda folder: link(folder / "guide.fp32.onnx"),
    "graphs swapped": swap,
    "weights flipped": lambda folder: flip(weights_of(folder), 12345),
    "weights cut": lambda folder: os.truncate(weights_of(folder), 10**6),
    "weights missing": lambda folder: weights_of(folder).unlink(),
    "weights linked": lambda folder: link(weights_of(folder)),
    "weights of another": lambda folder: weights_of(folder).write_bytes(bytes(8043136)),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_files_are_found_and_named(library, without_export, harm):
    assert source(library).find(OPTIONS) is not None
    HARMS[harm](library)
    assert source(library).find(OPTIONS) is None
    with pytest.raises(
        StreamDiffVSRError, match=r"is (missing|not what was exported); .*torch"
    ) as e:
        source(library).get(OPTIONS, print)
    assert "\n" not in str(e.value) and str(library) in str(e.value)


def changed(folder: Path, **values: Any) -> str:
    return json.dumps(json.loads((folder / GRAPHS_JSON).read_text()) | values)


TEXTS: dict[str, Any] = {
    "empty": lambda folder: "",
    "half": lambda folder: (folder / GRAPHS_JSON).read_text()[:500],
    "list": lambda folder: "[]",
    "null": lambda folder: "null",
    "deep": lambda folder: "[" * 200_000,
    "bytes": lambda folder: "\x00\ufffd",
    "too large": lambda folder: changed(folder) + " " * MAX_JSON_BYTES,
    "other model": lambda folder: changed(folder, model_digest="0" * 64),
    "other version": lambda folder: changed(folder, graph_version=3),
    "files is a list": lambda folder: changed(folder, files=[]),
    "files of numbers": lambda folder: changed(folder, files={"decode.fp32.onnx": 3}),
    "infinite dims": lambda folder: changed(folder, dims={"latent": float("inf")}),
    "no dims": lambda folder: changed(folder, dims=None),
    "exporter": lambda folder: changed(folder, exporter=3),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_list_that_cannot_be_trusted_is_no_list(library, without_export, text):
    (library / GRAPHS_JSON).write_text(TEXTS[text](library))
    assert GraphLibrary.read(library, DIGEST) is None
    with pytest.raises(StreamDiffVSRError, match=r"in fp32, for 2 and 4 steps; .*torch") as caught:
        source(library).get(OPTIONS, print)
    assert "\n" not in str(caught.value)


def test_a_list_cannot_name_files_elsewhere(library):
    outside = library.parent / "weights.data"
    shutil.copy(weights_of(library), outside)
    data = json.loads((library / GRAPHS_JSON).read_text())
    data["files"]["../weights.data"] = data["files"].pop(weights_of(library).name)
    for entry in data["files"].values():
        entry["weights"] = ["../weights.data"] if entry["weights"] else []
    (library / GRAPHS_JSON).write_text(json.dumps(data))
    assert source(library).find(OPTIONS) is None


@pytest.mark.parametrize(
    "harm", ["graph flipped", pytest.param("graph linked", marks=pytest.mark.slow)]
)
def test_only_what_is_damaged_is_exported_again(library, harm):
    pytest.importorskip("torch")
    HARMS[harm](library)
    said: list[str] = []
    _, found = source(library).get(OPTIONS, said.append)
    exported = [line for line in said if line.startswith("export ")]
    assert exported == [f"export {'prepare' if 'flip' in harm else 'guide'}"]
    assert set(found) == set(GRAPHS) and not any(path.is_symlink() for path in found.values())
    assert source(library).find(OPTIONS) is not None
    said.clear()
    source(library).get(OPTIONS, said.append)
    assert said == []


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["weights flipped", "weights missing", "weights linked"])
def test_damaged_weights_are_exported_again_with_every_graph(library, harm):
    HARMS[harm](library)
    _, found = source(library).get(OPTIONS, print)
    assert source(library).find(OPTIONS) is not None and set(found) == set(GRAPHS)
    read = GraphLibrary.read(library, DIGEST)
    assert read is not None
    other = GraphOptions("fp32", 2, 1, "all-pairs")  # it shared the weights
    source(library).get(other, print)
    assert source(library).find(other) is not None and source(library).find(OPTIONS) is not None


@pytest.mark.parametrize(
    "place",
    [
        "export prepare",
        pytest.param("compare with torch at 44x36", marks=pytest.mark.slow),
    ],
)
def test_an_export_that_ends_early_leaves_nothing_that_is_used(library, place):
    pytest.importorskip("torch")
    forget(library, "prepare.fp32.onnx")

    class Killed(BaseException):
        pass

    def progress(line: str) -> None:
        if line == place:
            raise Killed

    with pytest.raises(Killed):
        source(library).get(OPTIONS, progress)
    assert source(library).find(OPTIONS) is None
    source(library).get(OPTIONS, lambda line: None)
    assert source(library).find(OPTIONS) is not None


def test_an_export_that_differs_from_torch_is_not_kept(library, monkeypatch):
    pytest.importorskip("torch")
    from streamdiffvsr.export import graph_folder

    real = graph_folder.torch_reference

    def wrong(*arguments: Any) -> Any:
        run = real(*arguments)
        return lambda name, inputs: {k: v + 0.01 for k, v in run(name, inputs).items()}

    monkeypatch.setattr(graph_folder, "torch_reference", wrong)
    forget(library, "prepare.fp32.onnx")
    with pytest.raises(StreamDiffVSRError, match="prepare engine is not accepted"):
        source(library).get(OPTIONS, lambda line: None)
    assert source(library).find(OPTIONS) is None


@pytest.mark.slow
def test_two_processes_export_a_graph_once(library):
    forget(library, "prepare.fp32.onnx")
    code = (
        "import sys; from pathlib import Path\n"
        "from streamdiffvsr.tests.building.test_graph_source import OPTIONS, source\n"
        "source(Path(sys.argv[1])).get(OPTIONS, lambda line: print(line, flush=True))\n"
    )
    command = [sys.executable, "-c", code, str(library)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("export prepare") == 1
    assert source(library).find(OPTIONS) is not None


@pytest.mark.slow
def test_weights_are_linked_into_sets_and_still_read_and_exported(library, tmp_path):
    """onnx refuses to read a file with several names, as if it were an attack."""
    pytest.importorskip("torch")
    from streamdiffvsr.engines.tensorrt_graph import _Pattern

    kept, found = source(library).get(OPTIONS, print)
    for size in ((33, 41), (35, 37)):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        graphs = write_set(kept, found, OPTIONS, Geometry(size), folder)
        weights = weights_of(folder)
        assert weights.samefile(weights_of(library))
        for name, spec in graphs.specs().items():
            OrtEngine(folder / onnx_file(name), spec)
    graph = onnx.load(folder / "denoise.onnx", load_external_data=False).graph
    network = _Pattern(graph, folder)
    outside = [n for n, t in network.constants.items() if t.external_data]
    assert np.isfinite(network.value(outside[0])).all()
    forget(library, "features.fp32.flow1.onnx")
    source(library).get(OPTIONS, lambda line: None)
    assert weights_of(library).stat().st_nlink == 3  # those of another flow scale's features


def test_a_renamed_model_is_the_same_model(tmp_path, monkeypatch):
    """Neither its graphs nor its engines are made again, under any name."""
    monkeypatch.setattr(graph_source.GraphSource, "_export", None)
    folder = streamdiffvsr.build("tiny", size=(33, 41))
    other = tmp_path / "another name"
    shutil.copytree(BUILT_IN_FOLDER, other, ignore=shutil.ignore_patterns("graphs"))
    said: list[str] = []
    assert streamdiffvsr.build(other, size=(33, 41), progress=said.append) == folder
    assert said == [f"up to date: {folder}"]
    assert streamdiffvsr.build(other, size=(35, 37)).is_dir()


def test_a_set_outside_the_cache_shares_no_file_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "cache"))
    inside = streamdiffvsr.build("tiny", size=(48, 48))
    outside = streamdiffvsr.build("tiny", size=(48, 48), out=tmp_path / "out")
    assert weights_of(inside).stat().st_nlink > 1
    assert {path.stat().st_nlink for path in outside.iterdir()} == {1}
    for path in outside.iterdir():
        path.write_bytes(b"something else")
    streamdiffvsr.load(inside)
