"""A backend that is added from outside the package is built, checked, chosen, listed and run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamdiffvsr
from streamdiffvsr.benchmarks.machine import describe_machine
from streamdiffvsr.cli.doctor import examine
from streamdiffvsr.comfyui import host, loader
from streamdiffvsr.comfyui.host import for_nodes
from streamdiffvsr.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
from streamdiffvsr.engines import backends
from streamdiffvsr.engines.backends import BACKENDS, Backend, order, register
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.engines.plugins import plugins
from streamdiffvsr.engines.registry import choose
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.graphs.spec import GRAPHS, GraphSpec, onnx_file
from streamdiffvsr.tests.conftest import PARITY_SIZE
from streamdiffvsr.tests.recorded import assert_gives_the_recorded_run

pytest.importorskip("onnxruntime", reason="of the cpu extra")


class Opened:
    """The graphs that the backend opened."""

    def __init__(self) -> None:
        self.graphs: list[str] = []

    def open(self, folder: Path, spec: GraphSpec, device: str, scratch: object) -> OrtEngine:
        self.graphs.append(spec.name)
        return OrtEngine(folder / onnx_file(spec.name), spec, device)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Registers the backend `dummy`, for the time of a test."""
    it = Opened()
    for name, row in list(BACKENDS.items()):
        monkeypatch.setitem(BACKENDS, name, row)
    monkeypatch.setitem(BACKENDS, "dummy", BACKENDS["torch"])  # what is set here is removed again
    register(
        Backend(
            "dummy",
            module="onnxruntime",
            packages=("numpy",),
            extras={},
            devices=("cpu",),
            rank=5,
            open=it.open,
            details=lambda version: f"as numpy {version}",
        )
    )
    return it


@pytest.mark.slow
def test_it_is_built_checked_and_run(
    opened: Opened, parity_model: Path, parity_trace: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="engines are built with the export extra")
    folder = streamdiffvsr.build(
        parity_model, size=PARITY_SIZE, backend="dummy", out=tmp_path / "set"
    )
    manifest = read_manifest(folder)
    assert manifest.key.backend == "dummy"
    assert set(opened.graphs) == set(manifest.parity) == set(GRAPHS)
    opened.graphs.clear()
    assert_gives_the_recorded_run(streamdiffvsr.load(folder), parity_trace)
    assert set(opened.graphs) == set(GRAPHS)


def test_it_is_chosen_by_its_rank(opened: Opened) -> None:
    assert order()[-3:] == (("dummy", "cpu"), ("onnxruntime", "cpu"), ("torch", "cpu"))
    assert choose(device="cpu").backend == choose("dummy").backend == "dummy"
    register(replace(BACKENDS["dummy"], rank=99))
    assert choose(device="cpu").backend == "onnxruntime"
    register(replace(BACKENDS["dummy"], rank=5, unavailable=lambda device: "it is a dummy"))
    chosen = choose(device="cpu")
    assert chosen.backend == "onnxruntime"
    assert "not dummy (cpu): it is a dummy" in chosen.describe()


def test_messages_and_lists_name_it(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = [check for check in examine().checks if check.name == "backend dummy"]
    assert check.status == "ok" and check.value.startswith("as numpy ")
    monkeypatch.setattr(host, "model_folders", lambda: [])
    monkeypatch.setattr(loader, "_devices", lambda: ["auto"])
    widget = NODES["StreamDiffVSR_Loader"].INPUT_TYPES()["optional"]["backend"]
    assert widget[0] == ["auto", "dummy", "tensorrt", "tensorrt-rtx", "onnxruntime", "torch"]
    assert backends.ranked_names() == widget[0][1:]
    with pytest.raises(UsageError, match=r"use one of .*dummy"):
        choose("coreml")
    register(replace(BACKENDS["dummy"], module="no_such_module", packages=("dummy-engines",)))
    with pytest.raises(StreamDiffVSRError, match="run pip install dummy-engines"):
        choose("dummy")
    register(replace(BACKENDS["dummy"], packages=("pytest",), extras={"odd": "odd-engines"}))
    assert "pytest" in dict(describe_machine()["versions"])  # type: ignore[call-overload]
    assert "pip install odd-engines and" in for_nodes("run pip install 'streamdiffvsr[odd]'")


PLUGIN = """
from dataclasses import replace
from streamdiffvsr.engines.backends import BACKENDS

BACKEND = replace(BACKENDS["onnxruntime"], name="renamed", rank=90)
"""


@pytest.mark.slow
def test_an_installed_package_adds_it_to_the_command_line_and_its_children(
    parity_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="engines are built with the export extra")
    (tmp_path / "renamed_backend.py").write_text(PLUGIN)
    about = tmp_path / "renamed_backend-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: renamed-backend\nVersion: 1\n")
    points = "[streamdiffvsr_backends]\nrenamed = renamed_backend:BACKEND\nbroken = no_such:ROW\n"
    (about / "entry_points.txt").write_text(points)
    start = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from streamdiffvsr.cli.app import main; sys.exit(main())"
    )

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", start, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    made = tmp_path / "set"
    ran = run(
        *("engines", "--model", parity_model, "--size", "64x48", "--backend", "renamed"),
        *("--device", "cpu", "--out", made, "--json"),
    )
    assert ran.returncode == 0, ran.stderr
    assert read_manifest(made).key.backend == "renamed"
    assert "streamdiffvsr_backends broken is left out: ModuleNotFoundError" in ran.stderr
    shown = run("engines", "--help").stdout.replace("│", " ")
    assert "onnxruntime, torch, renamed, or auto" in " ".join(shown.split())
    checks = json.loads(run("doctor", "--json").stdout.splitlines()[-1])["checks"]
    assert "backend renamed" in {check["name"] for check in checks}


def test_a_group_without_entries_is_empty() -> None:
    assert list(plugins("streamdiffvsr_nothing")) == []
