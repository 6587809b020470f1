"""Tests what the terminal shows: the figures, their subjects, and whether they are noise."""

from __future__ import annotations

import io
from copy import deepcopy
from typing import Any

import pytest

from streamdiffvsr.benchmarks.report.tables import show_result
from streamdiffvsr.benchmarks.report.wording import digits, ms, share
from streamdiffvsr.tests.benchmarks.report.sample import live_sample, sample


def shown(result: dict[str, Any]) -> str:
    file = io.StringIO()
    show_result(result, file)
    return file.getvalue()


def line_of(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(start)).split()


@pytest.mark.parametrize("result", [sample(), sample(gpu=True), sample(noisy=True), live_sample()])
def test_it_fits_in_80_columns_without_colours(result: dict[str, Any]) -> None:
    text = shown(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_it_begins_with_what_was_timed_and_on_what() -> None:
    text = shown(sample(gpu=True))
    assert text.startswith("timed: a guided frame from uint8 to uint8")
    head = " ".join(text.partition("\n\n")[0].split())
    for said in ("NVIDIA H200", "driver 580.82", "Xeon", "onnxruntime 1.32.0", "3 rounds"):
        assert said in head


def test_the_figures_are_those_of_the_result() -> None:
    result = sample()
    text, subject = shown(result), result["subjects"][0]
    for name in ("plain", "throughput", "latency"):
        mode = subject["modes"][name]
        figures = [digits(mode["frame_ms"][q]) for q in ("p50", "p90", "p95", "p99", "max")]
        assert line_of(text, name) == [name, "mode", *figures, digits(mode["fps"])]
    latency = line_of(text, "  its latency")
    assert latency[2] == digits(subject["modes"]["plain"]["latency_ms"]["p50"])
    decode = subject["stages"]["ms"]["decode"]["p50"]
    assert digits(decode) in line_of(text, "decode")
    total = sum(of["p50"] for of in subject["stages"]["ms"].values())
    assert f"{share(decode / total)}" in " ".join(line_of(text, "decode"))
    assert line_of(text, "frame  ")[-2:] == ["72", "%"]
    for said in ("cold start", "437 MiB", "encode 9.", "2.31x", "2.24 to 2.39", "eager reference"):
        assert said in text


def test_the_longest_stage_has_the_longest_bar() -> None:
    lengths = {
        line.split("  ")[0]: line.count("\u2588")
        for line in shown(sample()).splitlines()
        if "\u2588" in line
    }
    assert max(lengths, key=lambda name: lengths[name]) == "decode"
    assert min(lengths.values()) >= 1


def test_a_terminal_that_has_only_ascii_gets_only_ascii() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")  # anything else would raise
    show_result(sample(), file)
    file.seek(0)
    assert "####" in file.read()


def test_noise_and_an_early_end_are_the_first_and_the_last_thing_said() -> None:
    result = sample(noisy=True)
    result["complete"], result["stopped"] = False, "the device vanished"
    lines = shown(result).splitlines()
    assert lines[0].startswith("noisy: other processes had 31 % of the cores")
    assert lines[-1] == "incomplete: the device vanished"
    assert "Do not quote these figures" in " ".join(lines[:3])
    assert "noisy" not in shown(sample())


def test_what_is_missing_is_left_out() -> None:
    result = deepcopy(sample())
    for name in ("settings", "noise", "comparisons", "baselines", "live"):
        del result[name]
    subject = result["subjects"][0]
    for name in (
        "start_up",
        "memory_mb",
        "stages",
        "stage_timing_overhead",
        "media",
        "file_rate",
        "timeline",
    ):
        subject[name] = None
    del subject["roofline"]
    subject["modes"] = {}
    text = shown(result)
    assert subject["id"] in text and "None" not in text and "cold start" in text  # of the other
    result["subjects"] = []
    assert "None" not in shown(result)


def test_a_live_result_shows_the_path_from_capture_to_sink() -> None:
    text = shown(live_sample())
    assert "live clock" in text and "861 dropped in 30.0 s" in text
    assert "read from the pixels" in " ".join(text.split())
    assert len(line_of(text, "latency")) == 6


def test_markup_in_a_name_is_text() -> None:
    result = sample()
    result["subjects"][0]["id"] = "[red]x[/red] [/nothing] :smile:"
    assert "[red]x[/red] [/nothing] :smile:" in shown(result)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1234"),
        (99.96, "100"),
        (9.996, "10.0"),
        (0.99996, "1.00"),
        (0.012345, "0.0123"),
        (None, "-"),
    ],
)
def test_three_digits(value: float | None, text: str) -> None:
    assert digits(value) == text


def test_units() -> None:
    assert (ms(12_345), ms(1.5), share(0.003), share(0.0996)) == (
        "12.3 s",
        "1.50 ms",
        "0.3 %",
        "10 %",
    )
