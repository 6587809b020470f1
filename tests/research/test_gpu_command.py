"""The one command for a GPU, run on a CPU: it asks every backend, measures, and keeps its time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.benchmarks.report.files import read_result
from streamdiffvsr.research.gpu import __main__, check
from streamdiffvsr.research.gpu.__main__ import RUNNING
from streamdiffvsr.research.gpu.check import check_backend, check_in_child

WORKS = {"works": True, "said": "", "tried": True}


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> tuple[int, Any]:
    """The exit code and the result."""
    path = folder / "result.json"
    given = ["gpu", "--device", "cpu", "--json", str(path), "--folder", str(folder), *arguments]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, read_result(path)


@pytest.fixture
def no_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(__main__, "make_reference", lambda folder, say: tmp_path / "none")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, no_reference: None) -> dict[str, dict[str, Any]]:
    """Returns the results of the backends' checks by name, which the test fills in."""
    told: dict[str, dict[str, Any]] = {}

    def answers(backend: str, device: str, *_: Any) -> dict[str, Any]:
        return {"backend": backend, "device": device, **told[backend]}

    monkeypatch.setattr(__main__, "check_in_child", answers)
    return told


def test_no_backend_that_works_is_a_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows["torch"] = {"works": False, "said": "this build of it finds no CUDA", "tried": False}
    rows["onnxruntime"] = {"works": False, "said": "not installed", "tried": False}
    code, result = run(monkeypatch, tmp_path)
    assert code == 1 and not result["complete"]
    assert result["stopped"] == "no backend works"
    assert [row["said"] for row in result["checks"]] == [row["said"] for row in rows.values()]
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["checks"] == result["checks"] and Path(last["result"]).is_file()
    assert last["complete"] is False and last["stopped"] == "no backend works"


def test_a_backend_that_fails_beside_one_that_works_is_a_failure_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    rows["torch"] = {"works": False, "said": "wrong frames: not close", "tried": True}
    rows["onnxruntime"] = WORKS
    code, result = run(monkeypatch, tmp_path, "--no-figures")
    assert code == 1 and result["stopped"] == "torch: wrong frames: not close"


def test_one_that_is_not_there_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    rows["torch"] = WORKS
    rows["onnxruntime"] = {"works": False, "said": "not installed", "tried": False}
    code, result = run(monkeypatch, tmp_path, "--no-figures")
    assert code == 0 and result["complete"] and result["stopped"] is None
    assert [row["backend"] for row in result["checks"]] == ["torch", "onnxruntime"]


def test_each_row_is_on_disk_before_the_next_backend_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_reference: None
) -> None:
    found = []

    def answers(backend: str, device: str, *_: Any) -> dict[str, Any]:
        so_far = read_result(tmp_path / "result.json")
        assert not so_far["complete"] and so_far["stopped"].endswith(RUNNING)
        found.append([row["backend"] for row in so_far["checks"]])
        return {"backend": backend, "device": device, **WORKS}

    monkeypatch.setattr(__main__, "check_in_child", answers)
    code, _ = run(monkeypatch, tmp_path, "--no-figures")
    assert code == 0 and found == [[], ["torch"]]


def test_an_engine_set_that_cannot_be_built_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    def refuses(*_: Any, **__: Any) -> Path:
        raise RuntimeError("no kernel image\nis available for sm_90")

    rows["torch"] = rows["onnxruntime"] = WORKS
    monkeypatch.setattr(__main__, "build", refuses)
    arguments = ("--model", str(tmp_path), "--size", "64x48", "--backend", "torch")
    code, result = run(monkeypatch, tmp_path, *arguments)
    said = "64x48 on torch: RuntimeError: no kernel image is available for sm_90"
    assert code == 1 and result["stopped"] == said and result["subjects"] == []


def test_no_time_is_told_and_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, result = run(monkeypatch, tmp_path, "--minutes", "0", "--model", str(tmp_path))
    assert code == 1 and not result["complete"]
    assert result["checks"] == [] == result["subjects"]
    assert "not reached in 0 minutes: the check of torch, the check of o" in result["stopped"]


def test_sizes_that_are_not_reached_are_named_and_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    rows["torch"] = rows["onnxruntime"] = WORKS
    arguments = ("--minutes", "0.1", "--model", str(tmp_path), "--size", "128x128")
    code, result = run(monkeypatch, tmp_path, *arguments)
    assert code == 0 and not result["complete"]
    told = "not reached in 0.1 minutes: 128x128 on torch, 128x128 on onnxruntime"
    assert result["stopped"] == told


def test_a_check_that_hangs_is_stopped(tmp_path: Path) -> None:
    row = check_in_child("torch", "cpu", tmp_path, tmp_path / "none", None, 0.05)
    assert not row["works"] and row["tried"] and row["said"] == "it did not end within 0 seconds"


def test_a_check_that_crashes_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(check.sys, "executable", str(crash))
    row = check_in_child("torch", "cpu", tmp_path, tmp_path / "none", None, 60)
    crashed = "its process ended with exit code -11"
    assert not row["works"]
    assert row["said"] == f"{crashed}; {crashed}, and with nothing captured"


def test_a_backend_that_refuses_is_an_answer(tmp_path: Path) -> None:
    row = check_backend("onnxruntime", "cpu", tmp_path, tmp_path / "none.safetensors")
    assert not row["works"] and row["tried"] and "has no frames to compare with" in row["said"]
    if __main__.why_no_gpu():
        row = check_backend("torch", "cuda", tmp_path, tmp_path / "none.safetensors")
        assert not row["works"] and not row["tried"] and row["said"] == __main__.why_no_gpu()


@pytest.mark.slow
def test_it_measures_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--preset", "tiny", "--minutes", "30", "--size", "64x48", "--frames", "6")
    arguments += ("--frames-only",)
    code, result = run(monkeypatch, tmp_path, *arguments)
    for row in result["checks"]:
        assert row["works"] and row["gate"] == "passed" and row["engines"] == "built", row
        assert row["throughput_equal"] and row["latency_equal"] and row["step_equal"]
        assert row["levels_max"] <= 1 and row["close"]
    assert [subject["backend"] for subject in result["subjects"]] == ["torch", "onnxruntime"]
    assert code == 0 and result["complete"] and result["comparisons"][0]["pairs"] == 3


@pytest.mark.slow
def test_sets_built_ahead_are_taken_and_others_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the graphs and frames of a set made ahead, no build is needed."""
    from streamdiffvsr.research.gpu.ahead import build_ahead
    from streamdiffvsr.research.gpu.reference import make_reference

    ahead = tmp_path / "ahead"
    ahead.mkdir()
    reference = make_reference(ahead)
    build_ahead("torch", "cpu", ahead)
    with monkeypatch.context() as patch:
        patch.setattr(check, "build", None)
        row = check_backend("torch", "cpu", tmp_path, reference, ahead)
    assert row["works"] and row["engines"] == "built ahead" and row["ahead"] == "", row
    plan = next((ahead / "tiny_64x48_torch_cpu").glob("decode*"))
    plan.write_bytes(plan.read_bytes()[:-1])
    row = check_backend("torch", "cpu", tmp_path, reference, ahead)
    assert row["engines"] == "built" and "is damaged" in row["ahead"], row
    row = check_backend("torch", "cpu", tmp_path, reference, tmp_path / "empty")
    assert row["ahead"] == "no tiny_64x48_torch_cpu was brought along", row
