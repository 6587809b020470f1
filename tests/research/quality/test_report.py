"""Bounds: each fails for its own fault, at its own clip, and the table shows every clip."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamdiffvsr.research.quality import report

AVERAGE_RATIO = "warp error / bicubic's, average"


def figures(psnr: float, ssim: float, warp: float, flicker: float) -> dict[str, float]:
    return {
        "psnr": psnr,
        "ssim": ssim,
        "warp_error": warp,
        "warp_excess": warp - 1,
        "flicker": flicker,
    }


def clip(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": name.split()[-1],
        "input": "96x56",
        "ours": figures(26.0, 0.8, 2.0, 1.5),
        "unguided": figures(25.8, 0.79, 2.6, 2.2),
        "bicubic": figures(25.0, 0.75, 2.0, 1.5),
        "truth_warp_error": 1.0,
        "colour_shift_max": 0.2,
        **more,
    }


@pytest.fixture
def good() -> list[dict[str, Any]]:
    """Clips on which every bound holds."""
    still = clip("a still", still_flicker=0.3)
    still["bicubic"] = figures(25.0, 0.75, 0.0, 0.0)
    still["ours"] = figures(26.0, 0.8, 0.1, 0.1)
    return [still, clip("a pan"), clip("b cut", ghost_db=0.1), clip("a drift", drift_db=-0.2)]


def failed(clips: list[dict[str, Any]]) -> dict[str, str]:
    """Bounds that fail, and where."""
    return {check.bound: check.where for check in report.checks(clips) if not check.passed}


def test_good_figures_pass(good: Any) -> None:
    assert failed(good) == {}


@pytest.mark.parametrize(
    ("index", "way", "figure", "value", "bound"),
    [
        (1, "ours", "psnr", 25.2, "PSNR above bicubic's, worst clip"),
        (1, "ours", "ssim", 0.74, "SSIM above bicubic's, worst clip"),
        (1, "unguided", "warp_error", 1.9, "warp error / unguided's, worst clip"),
        (1, "unguided", "flicker", 1.5, "flicker / unguided's, worst clip"),
        (1, "bicubic", "flicker", 1.3, "flicker / bicubic's, worst clip"),
    ],
)
def test_one_bad_clip_fails_its_bound_and_is_named(
    good: Any, index: int, way: str, figure: str, value: float, bound: str
) -> None:
    good[index][way] = {**good[index][way], figure: value}
    assert failed(good) == {bound: "a pan"}


@pytest.mark.parametrize(
    ("index", "key", "value", "bound"),
    [
        (0, "still_flicker", 0.6, "flicker of a still picture, levels"),
        (1, "colour_shift_max", 1.1, "channel means off the input's, levels"),
        (2, "ghost_db", 0.4, "PSNR lost to what was before a cut, dB"),
        (3, "drift_db", 0.2, "PSNR lost from the 10th frame to the last, dB"),
        (3, "drift_db", float("nan"), "PSNR lost from the 10th frame to the last, dB"),
    ],
)
def test_a_fault_that_one_clip_is_there_for(
    good: Any, index: int, key: str, value: float, bound: str
) -> None:
    good[index][key] = value
    assert failed(good) == {bound: good[index]["name"]}


def test_averages_are_bounds_of_their_own(good: Any) -> None:
    for one in good:
        one["ours"] = {**one["ours"], "psnr": 25.6}
    assert failed(good) == {"PSNR above bicubic's, average": ""}
    for one in good:
        one["ours"] = {**one["ours"], "psnr": 26.0, "warp_error": 2.3}
    assert AVERAGE_RATIO in failed(good)


def test_warp_error_above_bicubics_on_one_clip_alone_is_no_fault(good: Any) -> None:
    """On a zoom the truth itself is a third above bicubic."""
    good[1]["bicubic"] = {**good[1]["bicubic"], "warp_error": 1.6}
    assert failed(good) == {}


def test_ratios_to_nothing_fail_and_are_json(good: Any) -> None:
    for one in good:
        one["bicubic"] = {**one["bicubic"], "warp_error": 0.0, "flicker": 0.0}
    assert {AVERAGE_RATIO, "flicker / bicubic's, average"} <= set(failed(good))
    json.dumps([check.to_json() for check in report.checks(good)], allow_nan=False)


def test_means_are_over_the_clips(good: Any) -> None:
    mean = report.means(good)
    assert mean["ours"]["warp_error"] == pytest.approx((0.1 + 3 * 2.0) / 4)
    assert set(mean) == {"ours", "unguided", "bicubic"}


def test_the_table_has_a_line_a_clip_and_columns_that_line_up(good: Any) -> None:
    lines = report.table(good).splitlines()
    names = [one["name"] for one in good]
    assert all(
        line.startswith(name) for line, name in zip(lines[2:], [*names, "mean"], strict=True)
    )
    bars = [[i for i, letter in enumerate(line) if letter == "|"] for line in lines]
    assert bars[1] == bars[2] == bars[3] == bars[5]
    assert bars[0] == bars[1][:4] and bars[6] == bars[1][:4]
    assert "26.00" in lines[3] and "0.8000" in lines[3] and "25.80" in lines[3]


def test_the_verdict_says_which_bound_fails_and_by_which_figure(good: Any) -> None:
    good[2]["ghost_db"] = 0.4
    (line,) = (line for line in report.verdict(report.checks(good)).splitlines() if "FAIL" in line)
    words = "FAIL 0.4000 <= 0.3 PSNR lost to what was before a cut, dB (b cut)"
    assert " ".join(line.split()) == words
