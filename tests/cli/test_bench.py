"""`streamdiffvsr bench`: what it writes; bad input is one line before minutes are spent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.benchmarks import run as running
from streamdiffvsr.benchmarks.report.files import read_result
from streamdiffvsr.benchmarks.run import SCHEMA
from streamdiffvsr.tests.conftest import Cli

QUICK = ("--frames", "2", "--rounds", "2", "--quick", "--baselines", "none")


def test_every_output_is_written_and_the_table_shown(
    cli: Cli, stand_in_set: Path, tmp_path: Path
) -> None:
    result, page = tmp_path / "r.json", tmp_path / "r.html"
    outputs = ("--json", result, "--report", page)
    ran = cli("bench", "--engines", stand_in_set, *QUICK, *outputs)
    assert ran.code == 0, ran.err
    assert "32x32 stand-in cpu fp32" in ran.out and "p50" in ran.out
    assert "round 2 of 2" in ran.err
    told = read_result(result)
    assert told["complete"] and told["settings"]["frames"] == 2
    assert told["subjects"][0]["modes"]["latency"]["frame_ms"]["n"] == 2
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_without_the_extra_all_but_the_report_works(
    cli: Cli, stand_in_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jinja2", "matplotlib", "jsonschema"):
        monkeypatch.setitem(sys.modules, name, None)
    arguments = ("bench", "--engines", stand_in_set, *QUICK)
    ran = cli(*arguments, "--json", tmp_path / "r.json")
    assert ran.code == 0 and "p50" in ran.out and (tmp_path / "r.json").is_file()
    ran = cli(*arguments, "--report", tmp_path / "r.html")
    assert ran.code == 1 and "round" not in ran.err  # refused before anything is timed
    assert ran.error.endswith(
        "not installed: jinja2, matplotlib; run pip install 'streamdiffvsr[bench]'"
    )


def test_json_alone_can_be_piped(cli: Cli, stand_in_set: Path) -> None:
    ran = cli("bench", "--engines", stand_in_set, *QUICK, "--json", "-")
    assert ran.code == 0 and ran.err == ""
    assert ran.json["schema"] == SCHEMA


def test_what_was_measured_is_kept_when_engines_fail(
    cli: Cli, stand_in_set: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    sets = ("--engines", stand_in_set, "--engines", tmp_path / "none")
    ran = cli("bench", *sets, *QUICK, "--json", kept)
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("error: the benchmark is not complete: ")
    told = read_result(kept)
    assert not told["complete"] and "no engine set" in told["stopped"]
    assert len(told["subjects"]) == 1


def test_ctrl_c_keeps_what_was_measured(
    cli: Cli, stand_in_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = iter(range(10))

    def pressed(self: Any) -> None:
        if next(probes) == 1:  # after the first round
            raise KeyboardInterrupt

    monkeypatch.setattr(running.NoiseWatch, "probe", pressed)
    kept = tmp_path / "kept.json"
    ran = cli("bench", "--engines", stand_in_set, *QUICK, "--json", kept)
    assert ran.code == 130
    told = read_result(kept)
    assert not told["complete"] and told["stopped"] == "interrupted"
    assert told["subjects"][0]["modes"]["plain"]["frame_ms"]["n"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--frames", "0"), 2, "--frames 0 leaves nothing to time; use 1 or more"),
        (("--baselines", "magic"), 2, "unknown baseline 'magic'"),
        (("--baseline", "ffmpeg {input}"), 2, "does not say where its {output} goes"),
        (("--backends", "vulkan"), 2, "unknown backend 'vulkan'"),
        (("--size", "big"), 2, "--size 'big' is not a size"),
        (("--report", "no/such/folder/r.html"), 1, "its folder does not exist"),
        (("--quick", "--trace", "t.json"), 2, "--quick leaves out what --trace shows"),
        (("--engines", "here", "--size", "64x48"), 2, "--engines cannot be mixed"),
        (("--engines", "no-such-set", *QUICK), 1, "nothing was measured"),
        (("live", "testsrc", "--device", "cuda"), 2, "--device cuda has no effect"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, arguments: Any, code: int, told: str) -> None:
    ran = cli("bench", *arguments)
    assert ran.code == code
    assert told in ran.err.splitlines()[-1]


def test_engines_for_a_cpu_are_not_measured_for_a_gpu(cli: Cli, parity_engines: Path) -> None:
    ran = cli("bench", "--engines", parity_engines, "--device", "cuda", *QUICK)
    assert ran.code == 2 and "are for cpu, not cuda; leave the device out" in ran.error


def test_results_of_another_schema_are_not_compared(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"schema": "streamdiffvsr.bench/9"}')
    ran = cli("bench", "compare", other, other)
    assert ran.code == 1 and "streamdiffvsr.bench/1" in ran.error
    assert cli("bench", "compare", tmp_path / "none.json", other).code == 1
