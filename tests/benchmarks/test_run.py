"""A whole benchmark on real engines: all that is promised is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.benchmarks.report.files import result_schema, violation
from streamdiffvsr.benchmarks.run import Benchmark, Settings, measure_start_up
from streamdiffvsr.errors import StreamDiffVSRError

pytestmark = pytest.mark.slow
ID = "64x48 onnxruntime cpu fp32"
QUIET = {"noisy", "why", "p50_spread", "probe_spread", "probe_ms", "others_cpu"}
STAGES = {"prepare", "features", "flow", "guide", "temporal", "decode"}


@pytest.fixture(scope="module")
def result(parity_engines: Path) -> dict[str, Any]:
    told: list[str] = []
    benchmark = Benchmark(Settings(frames=6, rounds=3, baselines=("bicubic",)), told.append)
    benchmark.run([parity_engines])
    assert any("round 3 of 3" in line for line in told)
    return benchmark.result()


def test_it_is_as_the_schema_has_it(result: dict[str, Any]) -> None:
    assert violation(result, result_schema()) is None
    assert result["complete"] and result["stopped"] is None


def test_modes_have_every_frame_and_the_latency_of_overlap(result: dict[str, Any]) -> None:
    (subject,) = result["subjects"]
    assert subject["id"] == ID and (subject["input"], subject["output"]) == ("64x48", "256x192")
    for mode in ("plain", "throughput", "latency"):
        told = subject["modes"][mode]
        assert len(told["samples_ms"]) == told["frame_ms"]["n"] == 6
        assert len(told["rounds_p50"]) == 3
        assert told["fps"] == pytest.approx(1e3 / told["frame_ms"]["mean"], rel=1e-3)
        assert told["latency_ms"]["p50"] <= 1.2 * told["latency_ms"]["max"]
    # Begun before the one ahead of it is done: it takes longer than the time between two.
    throughput = subject["modes"]["throughput"]
    assert throughput["latency_ms"]["p50"] > 1.2 * throughput["frame_ms"]["p50"]


def test_stages_explain_the_frame(result: dict[str, Any]) -> None:
    stages = result["subjects"][0]["stages"]
    assert set(stages["ms"]) == STAGES | {f"denoise {n}" for n in range(1, 5)}
    assert 0.9 < stages["accounted"] <= 1.001
    assert result["subjects"][0]["stage_timing_overhead"]["pairs"] == 6


def test_start_up_memory_and_the_file_are_there(result: dict[str, Any]) -> None:
    (subject,) = result["subjects"]
    for start in subject["start_up"].values():
        parts = start["import"] + start["open"] + start["first_frame"]
        assert 0 < parts <= start["all"] + 0.01
    assert 50 < subject["memory_mb"]["host_peak"] < 4000
    assert subject["media"]["decode"]["n"] == subject["media"]["encode"]["n"] == 12
    rate = subject["file_rate"]
    assert rate["frames"] == 12 and len(rate["shares"]) == 3
    # Not which is faster: other work on the machine can slow the few frames of either.
    assert rate["fps"] > 0 and rate["engine_fps"] > 0
    assert min(rate["shares"]) <= rate["share"] <= max(rate["shares"])


def test_the_timeline_has_a_frame_from_upload_to_encoding(result: dict[str, Any]) -> None:
    timeline = result["subjects"][0]["timeline"]
    assert min(span["start_ms"] for span in timeline) == 0
    assert {span["process"] for span in timeline} >= {"engine", "encode"}
    frame = max(s["frame"] for s in timeline if s["name"] == "flow")
    mine = {span["name"]: span for span in timeline if span["frame"] == frame}
    order = ["upload", "features", "flow", "guide", "denoise 1", "denoise 4", "decode"]
    mine["decode"] = next(
        s for s in timeline
        if s["frame"] == frame and s["name"] == "decode" and s["process"] == "engine"
    )  # fmt: skip
    starts = [mine[name]["start_ms"] for name in [*order, "download", "encode"]]
    assert starts == sorted(starts)
    assert mine["download"]["end_ms"] <= mine["encode"]["end_ms"]


def test_bicubic_is_far_below_the_model(result: dict[str, Any]) -> None:
    (bicubic,) = result["baselines"]
    assert bicubic["subject"] == ID and 0 < bicubic["ratio"] < 0.5 and bicubic["pairs"] == 3


def test_a_start_that_fails_has_the_line_of_its_process(tmp_path: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match=r"could not start .*no engine set"):
        measure_start_up(tmp_path / "none", "cpu", lambda line: None)


def test_what_the_watch_says_is_in_the_result(result: dict[str, Any]) -> None:
    assert set(result["noise"]) == QUIET
    assert bool(result["noise"]["why"]) == result["noise"]["noisy"]
