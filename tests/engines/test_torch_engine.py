"""The torch backend as a user meets it: built, opened, stepped, and refused where it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="engines of torch need the export extra")

import torch
from safetensors.numpy import save_file

import streamdiffvsr
from streamdiffvsr.engines import torch_backend
from streamdiffvsr.engines.cpu_device import CpuStream
from streamdiffvsr.engines.manifest import MANIFEST
from streamdiffvsr.engines.torch_backend import (
    TorchEngine,
    exact_kernels,
    read_module,
    torch_version,
)
from streamdiffvsr.engines.trust import SIGNED, sign
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.program import PROGRAM, program_file
from streamdiffvsr.graphs.spec import GRAPHS, GraphSpec, TensorSpec
from streamdiffvsr.tests.recorded import assert_gives_the_recorded_run

pytestmark = pytest.mark.slow  # minutes together, on two cores


@pytest.fixture(scope="module")
def built(parity_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model at its recorded size, fp32 on the CPU."""
    out = tmp_path_factory.mktemp("torch") / "set"
    return streamdiffvsr.build(parity_model, size=(48, 64), backend="torch", out=out)


@pytest.fixture
def engines(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "set"))


def with_key(engines: Path, **key: Any) -> Path:
    manifest = json.loads((engines / MANIFEST).read_text())
    manifest["key"] |= key
    (engines / MANIFEST).write_text(json.dumps(manifest))
    sign(engines / MANIFEST)
    return engines


def test_recorded_run_is_matched_on_every_frame(built: Path, parity_trace: dict[str, Any]) -> None:
    assert_gives_the_recorded_run(streamdiffvsr.load(built), parity_trace)


def test_a_set_holds_checked_programs_and_nothing_else(built: Path, parity_model: Path) -> None:
    assert {p.name for p in built.iterdir()} == {
        *(MANIFEST, MANIFEST + SIGNED),
        *map(program_file, GRAPHS),
    }
    manifest = json.loads((built / MANIFEST).read_text())
    assert manifest["gate"] == "passed" and set(manifest["parity"]) == set(GRAPHS)
    assert manifest["key"]["library"] == torch_version() and "+" not in torch_version()
    said: list[str] = []
    streamdiffvsr.build(
        parity_model, size=(48, 64), backend="torch", out=built, progress=said.append
    )
    assert said == [f"up to date: {built}"]


def test_programs_of_another_torch_are_refused_and_pruned(
    engines: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_key(engines, library="2.0.0")
    with pytest.raises(
        StreamDiffVSRError, match=r"exported with torch 2\.0\.0, installed is"
    ) as caught:
        streamdiffvsr.load(engines)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(engines.parent / "cache"))
    shutil.copytree(engines, engines.parent / "cache" / "engines" / "old")
    (removed,) = cli("engines", "prune", "--json").json["removed"]
    assert "built with 2.0.0, installed is" in removed["stale"]


@pytest.mark.parametrize("harm", ["cut", "flip", "missing"])
def test_a_damaged_program_is_never_loaded(
    engines: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    victim = engines / program_file("denoise")
    data = bytearray(victim.read_bytes())
    data[-1000] ^= 0x40
    victim.unlink()
    if harm != "missing":
        victim.write_bytes(data[:-1] if harm == "cut" else data)
    loaded: list[Any] = []
    monkeypatch.setattr(torch_backend, "read_module", lambda *given: loaded.append(given))
    with pytest.raises(StreamDiffVSRError, match=r"denoise\.aten\.safetensors is damaged"):
        streamdiffvsr.load(engines)
    assert loaded == []


ONE = TensorSpec("x", (1,), "float32")
SPEC = GraphSpec("one", (ONE,), (TensorSpec("y", (1,), "float32"),))


def program(folder: Path, operator: str, *arguments: Any, **more: Any) -> Path:
    """A file with one call."""
    call = {"result": "y", "operator": operator, "arguments": arguments, "keywords": {}}
    text = json.dumps({"inputs": ["x"], "calls": [call], "outputs": [{"value": "y"}]} | more)
    path = folder / program_file("one")
    save_file({"c": np.ones(1, np.float32)}, path, {PROGRAM: text})
    return path


@pytest.mark.parametrize(
    ("operator", "argument"),
    [
        ("os.system.default", "true"),
        ("aten.__class__.mro", {"value": "x"}),
        ("aten.no_such_thing.default", {"value": "x"}),
        ("aten.neg.default", {"value": "later"}),
        ("aten.neg.default", {"dtype": "load"}),
        ("aten.neg.default", {"constant": "none"}),
    ],
)
def test_a_program_names_torchs_operators_alone(
    tmp_path: Path, operator: str, argument: Any
) -> None:
    with pytest.raises(StreamDiffVSRError, match="cannot load one"):
        read_module(program(tmp_path, operator, argument), SPEC, "cpu")


def test_another_graphs_program_is_refused(tmp_path: Path) -> None:
    path = program(tmp_path, "aten.neg.default", {"value": "x"}, outputs=[])
    with pytest.raises(StreamDiffVSRError, match="not the graph that its manifest describes"):
        read_module(path, SPEC, "cpu")
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(StreamDiffVSRError, match="cannot load one"):
        read_module(path, SPEC, "cpu")


def test_what_is_in_the_buffers_when_it_runs_is_what_is_read(tmp_path: Path) -> None:
    program(tmp_path, "aten.neg.default", {"value": "x"})
    x, y = np.zeros(1, np.float32), np.zeros(1, np.float32)
    bound = TorchEngine(tmp_path, SPEC).bind({"x": x, "y": y})
    for value in (3, 5):
        x[:] = value
        bound.enqueue()
        assert y[0] == -value


def test_on_a_stream_it_runs_in_its_turn_and_its_failure_stays_there(tmp_path: Path) -> None:
    program(tmp_path, "aten.neg.default", {"value": "x"})
    x, y, stream, before = np.ones(1, np.float32), np.zeros(1, np.float32), CpuStream("s"), Event()
    bound = TorchEngine(tmp_path, SPEC).bind({"x": x, "y": y})
    stream.call(lambda: bool(before.wait()))
    bound.enqueue(stream)
    assert y[0] == 0
    x[:] = 7
    before.set()
    program(tmp_path, "aten.repeat.default", {"value": "x"}, [2**50])
    TorchEngine(tmp_path, SPEC).bind({"x": x, "y": y}).enqueue(stream)
    stream.close()
    assert y[0] == -7
    with pytest.raises(StreamDiffVSRError, match="the one engine does not run"):
        stream.check()


def test_memory_that_runs_out_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee docs.")

    monkeypatch.setattr(torch_backend, "read_module", lambda *_: full)
    arrays = {"x": np.zeros(1, np.float32), "y": np.zeros(1, np.float32)}
    with pytest.raises(StreamDiffVSRError, match=r"does not fit.*allocate 9 GiB.*tile=") as caught:
        TorchEngine(tmp_path, SPEC).bind(arrays).enqueue()
    assert "See docs" not in str(caught.value)
    too_much = {"value": "x"}, [2**50]
    monkeypatch.undo()
    program(tmp_path, "aten.repeat.default", *too_much)
    with pytest.raises(StreamDiffVSRError, match=r"the one engine does not run.*tile="):
        TorchEngine(tmp_path, SPEC).bind(arrays).enqueue()


def test_fp32_means_fp32_and_what_the_process_had_set_comes_back() -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        wanted = (matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.deterministic)
        with exact_kernels():
            assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
            assert torch.backends.cudnn.deterministic
        found = (matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.deterministic)
        assert found == wanted
    finally:
        matmul.fp32_precision = before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_none_is_built_for_or_opened_on_one(
    engines: Path, tmp_path: Path, parity_model: Path
) -> None:
    told: list[str] = []
    options = {"size": (48, 64), "backend": "torch", "device": "cuda", "progress": told.append}
    with pytest.raises(StreamDiffVSRError, match=r"cannot be checked here: no NVIDIA driver"):
        streamdiffvsr.build(parity_model, **options, out=tmp_path / "new")
    assert told == [], "refused before minutes of export"
    with pytest.raises(StreamDiffVSRError, match="no NVIDIA driver answers"):
        streamdiffvsr.load(with_key(engines, device="cuda"))
