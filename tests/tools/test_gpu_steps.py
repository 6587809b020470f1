"""The steps on a GPU machine: on record before the next begins, each within its time."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.engines.host import why_no_gpu
from streamdiffvsr.tools import gpu_steps
from streamdiffvsr.tools.gpu_steps import Run, Step


def run_of(out: Path, minutes: float = 1.0) -> Run:
    return Run(argparse.Namespace(out=out, minutes=minutes))


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]


def test_each_step_is_on_record_before_the_next(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    look = f"print(open({str(tmp_path / 'steps.jsonl')!r}).read().count('first'))"
    run.run(Step("first", ("-c", "print('words'); raise SystemExit(3)"), 1.0))
    run.run(Step("second", ("-c", look), 1.0))
    first, second = records(tmp_path)
    assert (first["ended"], first["code"], first["said"]) == ("failed", 3, ["words"])
    assert (second["ended"], second["said"]) == ("passed", ["1"])
    assert (tmp_path / "steps.log").read_text() == "words\n1\n"


@pytest.mark.slow
def test_a_step_that_hangs_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_steps, "LEAST_S", 0.0)
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    hangs = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    started = time.monotonic()
    run = run_of(tmp_path)
    run.run(Step("hangs", ("-c", hangs), 1.0, 1.0))
    run.run(Step("next", ("-c", "pass"), 1.0))
    assert [r["ended"] for r in records(tmp_path)] == ["stopped at its limit", "passed"]
    time.sleep(max(0.0, started + 4 - time.monotonic()))
    assert not mark.exists()


def test_what_has_no_time_left_is_told(tmp_path: Path) -> None:
    run_of(tmp_path, 0.0).run(Step("late", ("-c", "pass"), 1.0))
    assert records(tmp_path) == [{"step": "late", "ended": "not reached"}]


@pytest.mark.parametrize(
    ("code", "last", "none"),
    [(5, "3 deselected", True), (0, "6 skipped", True), (0, "1 passed, 5 skipped", False)],
)
def test_tests_that_were_all_skipped_have_not_passed(code: int, last: str, none: bool) -> None:
    assert gpu_steps._ran_none(code, ["...", last]) == none
    assert not gpu_steps._ran_none(1, ["1 failed"])


def test_tests_of_a_backend_that_is_not_there_are_left_out() -> None:
    rows = [{"backend": "tensorrt", "tried": False}, {"backend": "torch", "tried": True}]
    steps = {s.name: s.arguments for s in gpu_steps._tests(argparse.Namespace(backend=None), rows)}
    assert list(steps) == [
        "tests of torch",
        "tests of onnxruntime",
        "tests of tensorrt-rtx",
        "other tests",
    ]
    assert "tests/runtime/test_gpu.py" in steps["tests of torch"]
    assert steps["tests of torch"][-1] == "torch"
    every = {s.name: s.arguments for s in gpu_steps._tests(argparse.Namespace(backend=None), [])}
    assert every["tests of tensorrt"][-1] == "tensorrt and not tensorrt-rtx"


def test_without_time_all_steps_are_named_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "figures.json").write_text("{}")  # of an earlier run
    arguments = ["gpu_steps", "--out", str(tmp_path), "--minutes", "0", "--backend", "torch"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        gpu_steps.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ended.value.code == 1 and told["works"] == []
    assert set(told["steps"].values()) == {"not reached"}
    assert list(told["steps"])[:2] == ["doctor", "checks"] and "figures" in told["steps"]
    assert not (tmp_path / "figures.json").exists()


@pytest.mark.skipif(why_no_gpu() == "", reason="of a machine without a GPU")
def test_without_a_gpu_it_says_so_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_steps", "--out", str(tmp_path), "--minutes", "5"])
    with pytest.raises(SystemExit, match="no backend could be asked"):
        gpu_steps.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["doctor", "checks"]
    assert "there is no GPU to measure" in lines[-1]
