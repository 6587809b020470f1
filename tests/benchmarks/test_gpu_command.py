"""The one command for a GPU, run on a CPU: it asks every backend, measures, and keeps its time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.benchmarks import gpu
from streamdiffvsr.benchmarks.report.read import read_result


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "results"
    given = ["gpu", "--device", "cpu", "--out", str(out), "--folder", str(folder), *arguments]
    monkeypatch.setattr(sys, "argv", given)
    gpu.main()
    (path,) = out.iterdir()
    return read_result(path)


def test_a_backend_that_refuses_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: Any, **__: Any) -> Path:
        raise RuntimeError("no kernel image\nis available for sm_90")

    monkeypatch.setattr(gpu, "build", refuses)
    result = run(monkeypatch, tmp_path, "--model", str(tmp_path))
    assert [row["backend"] for row in result["checks"]] == ["onnxruntime", "torch"]
    for row in result["checks"]:
        assert not row["works"]
        assert row["said"] == "RuntimeError: no kernel image is available for sm_90"
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["checks"] == result["checks"] and Path(last["result"]).is_file()


def test_no_time_is_told_and_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(monkeypatch, tmp_path, "--minutes", "0", "--model", str(tmp_path))
    assert not result["complete"] and result["checks"] == [] == result["subjects"]
    assert result["stopped"].startswith("not reached in 0 minutes: checks of onnxruntime")


@pytest.mark.slow
def test_it_measures_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SIZES", ((48, 64),))
    monkeypatch.setattr(gpu, "TIMED", 6)
    result = run(monkeypatch, tmp_path, "--preset", "tiny", "--minutes", "30")
    for row in result["checks"]:
        assert row["works"] and row["gate"] == "passed", row
        assert row["throughput_equal"] and row["latency_equal"]
    assert [subject["backend"] for subject in result["subjects"]] == ["onnxruntime", "torch"]
    assert result["complete"] and result["comparisons"][0]["pairs"] == 3
