"""Tests comparisons: chance is no change, changes are found, and other differences come first."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.benchmarks.report.compare import (
    FASTER,
    SLOWER,
    WITHIN,
    Comparison,
    band,
    compare,
    of_quantiles,
)
from streamdiffvsr.benchmarks.report.tables import show_comparison
from streamdiffvsr.tests.benchmarks.report.sample import live_sample, sample
from streamdiffvsr.tests.benchmarks.report.sample_subjects import quantiles

SEEDS = range(100)
A = sample(1)


def drawn(
    seed: int, *, ms: float = 100.0, frame: float = 0.02, of_round: float = 0.02, rounds: int = 3
) -> dict[str, Any]:
    """A mode of which rounds and frames scatter by so much, relative."""
    rng = np.random.default_rng(seed)
    levels = ms * np.exp(rng.normal(0, of_round, (rounds, 1)))
    samples = levels * np.exp(rng.normal(0, frame, (rounds, 20)))
    return {
        "frame_ms": quantiles(samples.ravel()),
        "fps": 1000 / ms,
        "rounds_p50": [float(value) for value in np.median(samples, axis=1)],
        "samples_ms": [float(value) for value in samples.ravel()],
    }


def verdict(a: dict[str, Any], b: dict[str, Any]) -> str:
    results = []
    for mode in (a, b):
        subject = {"id": "one", "modes": {"plain": mode}}
        results.append({**A, "subjects": [subject], "comparisons": [], "baselines": []})
    (change,) = compare(*results).subjects
    return change.modes[0].verdict


NOISE = [
    pytest.param({"frame": 0.02, "of_round": 0.0}, id="frames"),
    pytest.param({"frame": 0.02, "of_round": 0.004}, id="mostly frames"),
    pytest.param({"frame": 0.005, "of_round": 0.02}, id="rounds"),
    pytest.param({"frame": 0.02, "of_round": 0.015}, id="both"),
    pytest.param({"frame": 0.02, "of_round": 0.02, "rounds": 5}, id="both, five rounds"),
]


@pytest.mark.parametrize("noise", NOISE)
def test_two_draws_of_the_same_are_within_the_noise(noise: dict[str, Any]) -> None:
    found = [verdict(drawn(2 * s, **noise), drawn(2 * s + 1, **noise)) for s in SEEDS]
    assert found.count(WITHIN) >= 95


@pytest.mark.parametrize("noise", NOISE)
def test_ten_per_cent_are_found(noise: dict[str, Any]) -> None:
    found = [verdict(drawn(2 * s, **noise), drawn(2 * s + 1, ms=110.0, **noise)) for s in SEEDS]
    assert found.count(SLOWER) >= 95
    assert FASTER not in found


def test_the_faster_one_is_the_faster_one() -> None:
    assert verdict(drawn(0), drawn(1, ms=80.0)) == FASTER
    assert verdict(drawn(0, ms=80.0), drawn(1)) == SLOWER


def test_the_fewer_the_rounds_the_wider_the_band() -> None:
    widths = [
        np.median(
            [band(drawn(2 * s, rounds=r), drawn(2 * s + 1, rounds=r)).log_width for s in range(25)]
        )
        for r in (2, 3, 5, 9)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0.08 > widths[1] > 0.03  # two rounds say little, and it does not hide it


def test_one_round_is_said_to_know_nothing_of_rounds() -> None:
    found = band(drawn(0, rounds=1), drawn(1))
    assert found.log_width == 0.05
    assert "one round" in found.why
    assert verdict(drawn(0, rounds=1, of_round=0), drawn(1, rounds=1, of_round=0, ms=104)) == WITHIN


def test_rounds_that_agree_by_luck_do_not_make_frames_certain() -> None:
    a, b = drawn(0, frame=0.3, of_round=0), drawn(1, frame=0.3, of_round=0)
    a["rounds_p50"] = b["rounds_p50"] = [100.0, 100.0, 100.0]
    found = band(a, b)
    assert "frames" in found.why and found.log_width > 0.05


def test_a_hundredth_is_never_called_a_change() -> None:
    still = {"frame": 1e-6, "of_round": 1e-6}
    assert verdict(drawn(0, **still), drawn(1, ms=100.9, **still)) == WITHIN
    assert verdict(drawn(0, **still), drawn(1, ms=101.2, **still)) == SLOWER


def test_without_samples_or_rounds_it_still_compares() -> None:
    a, b = drawn(0), drawn(1, ms=120)
    for mode in (a, b):
        del mode["samples_ms"], mode["rounds_p50"]
    assert verdict(a, b) == SLOWER


def test_a_result_against_itself_changes_nothing() -> None:
    found = compare(A, A)
    assert found.differences == found.noisy == found.only_in_a == found.only_in_b == ()
    assert all(
        mode.verdict == WITHIN and mode.ratio == 1 for s in found.subjects for mode in s.modes
    )
    assert all(not subject.stages and not subject.other for subject in found.subjects)


def test_the_stage_that_changed_is_named_and_no_other() -> None:
    false = 0
    for seed in range(6):
        b = sample(seed + 100)
        of = b["subjects"][0]["stages"]["ms"]
        of["decode"] = {k: v if k == "n" else 1.25 * v for k, v in of["decode"].items()}
        stages = compare(sample(seed), b).subjects[0].stages
        assert [round(c.ratio, 1) for c in stages if c.name == "decode"] in ([1.2], [1.3])
        false += len(stages) - 1
    assert false <= 1  # of 54


def test_a_small_stage_that_doubles_is_no_change_of_the_frame() -> None:
    b = deepcopy(A)
    b["subjects"][0]["stages"]["ms"]["prepare"] = quantiles([13.5] * 9)
    assert compare(A, b).subjects[0].stages == ()


def test_the_error_of_a_median_is_that_of_its_frames() -> None:
    rng = np.random.default_rng(0)
    medians = [np.median(rng.normal(100, 2, 60)) for _ in range(2000)]
    apart = float(np.std(medians)) * 2**0.5 / 100
    frames = quantiles(rng.normal(100, 2, 60_000))
    assert of_quantiles({**frames, "n": 60}, {**frames, "n": 60}, 1.0) == pytest.approx(
        apart, rel=0.1
    )


def test_memory_and_start_up_are_told_where_they_changed() -> None:
    b = deepcopy(A)
    b["subjects"][0]["memory_mb"]["host_peak"] *= 1.1
    b["subjects"][0]["start_up"]["cold_s"]["all"] *= 1.5
    b["subjects"][0]["start_up"]["warm_s"]["all"] *= 1.1  # one start: this may be anything
    other = compare(A, b).subjects[0].other
    assert [(c.name, round(c.ratio, 3)) for c in other] == [
        ("host memory", 1.1),
        ("cold start", 1.5),
    ]


def test_other_machines_versions_and_settings_are_told_first() -> None:
    b = deepcopy(A)
    b["machine"]["cpu"] = "Ryzen 9"
    b["machine"]["versions"] = {
        "onnxruntime": "1.33.0",
        "torch": "2.13.0",
        "streamdiffvsr": "0.1.0",
    }
    b["machine"]["power"] = {"source": "battery"}
    b["settings"]["frames"] = 20
    b["timed"] = "something else"
    lines = compare(A, b).differences
    assert lines[0] == "different machines: this is a comparison of machines"
    assert lines[1:4] == (
        "processor: Intel(R) Xeon(R) Processor @ 2.50GHz, 2 cores -> Ryzen 9, 2 cores",
        "onnxruntime: 1.32.0 -> 1.33.0",
        "power: on mains, governor performance -> on battery",
    )
    assert lines[4].startswith("what was timed: a guided frame") and lines[5] == "frames: 60 -> 20"
    assert text(compare(A, b)).startswith("different machines")


def test_another_gpu_is_another_machine_and_another_driver_is_not() -> None:
    a, b = sample(gpu=True), sample(gpu=True)
    b["machine"]["gpu"]["driver"] = "590.1"
    assert compare(a, b).differences == ("driver: 580.82 -> 590.1",)
    b["machine"]["gpu"]["name"] = "NVIDIA L4"
    assert compare(a, b).differences[0].startswith("different machines")
    b["machine"]["gpu"] = None
    assert "NVIDIA H200" in compare(a, b).differences[1]


def test_noisy_and_incomplete_runs_say_so() -> None:
    b = sample(2, noisy=True)
    b["complete"], b["stopped"] = False, "the device vanished"
    found = compare(A, b)
    assert found.noisy == (
        "B was noisy: other processes had 31 % of the cores; a round's median differed by 14 %",
        "B is incomplete: the device vanished",
    )
    shown = " ".join(text(found).split())
    assert "A change may be the machine's" in shown and "the device vanished" in shown


def test_what_is_only_in_one_is_told() -> None:
    b = deepcopy(A)
    b["subjects"][1]["id"] = "160x90 tensorrt cuda fp16"
    found = compare(A, b)
    assert found.only_in_a == ("160x90 torch cpu fp32",)
    assert found.only_in_b == ("160x90 tensorrt cuda fp16",)
    assert [change.id for change in found.subjects] == ["160x90 onnxruntime cpu fp32"]
    b["subjects"] = []
    assert "no subject is in both" in text(compare(A, b))


def test_live_results_are_compared_by_latency() -> None:
    (same,) = compare(live_sample(0), live_sample(1)).subjects
    assert (same.id, same.modes[0].verdict) == ("live clock", WITHIN)
    (slower,) = compare(live_sample(0), live_sample(1, scale=1.3)).subjects
    assert slower.modes[0].verdict == SLOWER
    assert compare(A, live_sample(0)).subjects == ()


def test_the_json_holds_all_of_it() -> None:
    found = json.loads(json.dumps(compare(A, sample(2, scale=1.1, noisy=True)).to_json()))
    assert found["schema"] == "streamdiffvsr.bench-compare/1"
    plain = found["subjects"][0]["modes"][0]
    assert (plain["name"], plain["verdict"]) == ("plain", "slower")
    low, high = plain["band"]["ratios"]
    assert low < 1 < high < plain["ratio"] and plain["band"]["why"]
    assert found["noisy"] and found["subjects"][0]["stages"]


def text(found: Comparison) -> str:
    file = io.StringIO()
    show_comparison(found, file)
    return file.getvalue()


def test_the_text_fits_in_80_columns_and_ends_with_a_sum() -> None:
    shown = text(compare(A, sample(2, scale=1.1, noisy=True)))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "B against A: 4 slower (noisy or incomplete: see above)"
    assert any(line.startswith("plain       slower") for line in lines)
    same = text(compare(A, sample(2)))
    assert same.splitlines()[-1] == "B against A: 4 within the noise"


def test_a_machine_that_was_slower_is_told() -> None:
    """Whatever changed may be the machine: work that never changes took longer too."""
    a, b = deepcopy(A), deepcopy(A)
    a["noise"]["probe_ms"], b["noise"]["probe_ms"] = 10.0, 10.3
    assert not any("fixed piece" in line for line in compare(a, b).differences)
    b["noise"]["probe_ms"] = 12.0
    assert "a fixed piece of work took: 10.0 ms -> 12.0 ms" in compare(a, b).differences


def test_clocks_that_come_and_go_are_no_difference() -> None:
    a, b = deepcopy(A), deepcopy(A)
    a["machine"]["power"] = {"governor": "performance", "gpu_clock_mhz": 1980}
    b["machine"]["power"] = {"governor": "performance", "gpu_clock_mhz": 345}
    assert not any(line.startswith("power") for line in compare(a, b).differences)
