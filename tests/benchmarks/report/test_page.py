"""The HTML report in a real browser: at desktop and phone width, in light and dark, on its own.

The pictures of the documentation are made here, of a result of your own or of the made-up one:

    STREAMDIFFVSR_SCREENSHOTS=docs/images STREAMDIFFVSR_BENCH_RESULT=result.json \\
        python -m pytest tests/benchmarks/report/test_page.py -k picture
"""

from __future__ import annotations

import io
import json
import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.benchmarks.report.files import read_result
from streamdiffvsr.benchmarks.report.html import page
from streamdiffvsr.benchmarks.report.tables import show_result
from streamdiffvsr.tests.benchmarks.report.browsing import CHROMIUM, SIZES, STYLE
from streamdiffvsr.tests.benchmarks.report.sample import live_sample, sample

NASTY = "</title></style><script>alert('x')</script><img src=x onerror=alert(1)> \"'&amp; ${main}"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def busy() -> dict[str, Any]:
    """Many tracks of several processes, of which names are long, and spans that are short."""
    result = sample(gpu=True)
    result["subjects"][0]["timeline"] += [
        {
            "track": f"a track with a long name {track}",
            "process": f"{process} with a long name as well",
            "name": "encode a picture",
            "frame": 12 + piece % 3,
            "start_ms": 7.0 * piece + 2 * track,
            "end_ms": 7.0 * piece + 2 * track + (0.01, 6.5)[piece % 2],
        }
        for process in ("decoder", "encoder")
        for track in range(3)
        for piece in range(9)
    ]
    graphs = result["subjects"][0]["roofline"]["graphs"]
    for number in range(6):  # all at one point, and in the corners
        graphs[f"a copy of the flow {number}"] = graphs["flow"]
    graphs["corner"] = {**graphs["flow"], "measured_ms": 9e4, "gbyte": 1e4}
    return result


RESULTS = {
    "cpu": sample(),
    "gpu": sample(gpu=True),
    "noisy": sample(noisy=True),
    "live": live_sample(),
    "busy": busy(),
}


SLOW_ONES = [
    pytest.param(name, marks=pytest.mark.slow) if name != "cpu" else name for name in RESULTS
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SLOW_ONES)
def test_it_looks_right(show: Any, name: str, size: str) -> None:
    show(RESULTS[name], size, "dark" if name == "gpu" else "light").check()


def test_every_part_is_there(show: Any) -> None:
    result = RESULTS["cpu"]
    report = show(result)
    assert report.page.locator("h1").inner_text() == "streamdiffvsr bench"
    assert report.titles() == [
        *["Environment", "Ratios"],
        *["Modes", "Frame", "Where", "Timeline", "Roofline", "Share", "Start-up,"],
        *["Modes", "Frame", "Where", "Roofline", "Share", "Start-up,"],
    ]
    text = report.page.inner_text("body")
    for said in (
        "Timed: a guided frame",
        "2.31x 2.24 to 2.39, 3 pairs",
        "onnxruntime 1.32.0",
        "Quiet machine",
    ):
        assert said in text
    assert report.page.locator("svg.wide .bar:visible").count() > 50
    assert report.page.locator("svg.wide .span:visible").count() == 30
    assert report.page.locator("svg.wide .dot:visible").count() == 14


def test_the_headline_is_of_the_mode_that_is_run_and_not_of_the_best(show: Any) -> None:
    result = deepcopy(RESULTS["cpu"])
    modes = result["subjects"][0]["modes"]
    modes["throughput"]["frame_ms"]["p50"] = modes["plain"]["frame_ms"]["p50"] / 2
    headline = show(result).page.locator(".headline").first.inner_text()
    assert f"{modes['plain']['frame_ms']['p50']:.0f}" in headline and "plain" in headline
    assert "throughput" not in headline.lower().replace("throughput\n", "", 1)


def test_long_spans_are_labelled_at_both_widths(show: Any) -> None:
    for size in SIZES:
        report = show(RESULTS["cpu"], size)
        shown = report.page.locator("svg .inside text:visible").all_text_contents()
        assert {"features", "flow", "temporal", "decode"} <= set(shown)
        steps = {text.removeprefix("denoise ") for text in shown}
        assert {"1", "2", "3", "4"} <= steps


def test_a_span_that_is_too_short_for_an_edge_is_seen(show: Any) -> None:
    spans = show(RESULTS["busy"]).page.locator("svg.wide .span:visible path")
    styles = spans.evaluate_all("found => found.map(path => path.getAttribute('style'))")
    short = [style for style in styles if "stroke: var(--lane)" not in style]
    assert 24 <= len(short) < len(styles) and all("fill: var(--f" in style for style in styles)


def test_a_noisy_or_incomplete_run_says_so_first(show: Any) -> None:
    result = {**sample(noisy=True), "complete": False, "stopped": "the device vanished"}
    report = show(result)
    told = report.page.locator("main > .warning").all_inner_texts()
    assert "do not quote these figures" in told[0] and "31 % of the cores" in told[0]
    assert told[1] == "Measuring ended early: the device vanished"
    assert report.page.locator(".pill").all_inner_texts() == ["Noisy", "Incomplete"]
    assert report.page.locator("main > .warning").first.bounding_box()["y"] < 120


def test_the_result_can_be_downloaded_from_it(show: Any) -> None:
    report = show(RESULTS["gpu"])
    with report.page.expect_download() as download:
        report.page.click("text=Result as JSON")
    assert download.value.suggested_filename == "bench-2026-11-23T08-00-00Z.json"
    assert read_result(download.value.path()) == RESULTS["gpu"]


def nasty(value: Any) -> Any:
    """The same with every text replaced, but for those that a program reads."""
    kept = {"schema", "mode", "input", "output", "tile", "size", "bound", "order"}
    if isinstance(value, dict):
        return {
            k: v if k in kept else "command" if k == "id" and v in BASELINES else nasty(v)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [nasty(item) for item in value]
    return NASTY if isinstance(value, str) else value


BASELINES = ("reference", "bicubic", "command")


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("result", [sample(gpu=True, noisy=True), live_sample()])
def test_names_are_text_whatever_they_are(show: Any, result: dict[str, Any], size: str) -> None:
    report = show(nasty(deepcopy(result)), size)
    assert report.page.locator("script, img").count() == 0
    assert (report.complaints, len(report.requests)) == ([], 1)
    assert NASTY in report.page.inner_text("footer")
    assert "${main}" in report.page.title() and "</title>" in report.page.title()
    assert report.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_is_missing_has_no_card(show: Any) -> None:
    result = deepcopy(sample(gpu=True))
    subject = result["subjects"][0]
    for name in ("start_up", "memory_mb", "stages", "media", "file_rate", "roofline"):
        subject[name] = None
    subject["timeline"], result["comparisons"], result["baselines"] = [], [], []
    subject["modes"] = {"plain": {"frame_ms": subject["modes"]["plain"]["frame_ms"], "fps": 4.0}}
    del result["noise"], result["settings"]
    report = show(result)
    report.check()
    assert report.titles() == ["Environment", "Modes"]
    assert "None" not in report.page.inner_text("body")


def test_the_charts_are_described(show: Any) -> None:
    page = show(RESULTS["cpu"]).page
    charts = page.locator("svg.wide:visible")
    for index in range(charts.count()):
        ids = charts.nth(index).get_attribute("aria-labelledby").split()
        assert all(len(page.locator(f"#{name}").text_content()) > 8 for name in ids)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(part => part.id)")
    assert len(ids) == len(set(ids))
    assert "decode: " in page.locator("#subject-0-roofline-wide-desc").text_content()


def test_the_same_result_makes_the_same_page() -> None:
    made = page(RESULTS["gpu"])
    assert page(deepcopy(RESULTS["gpu"])) == made
    assert "matplotlib" not in made and "<metadata" not in made
    assert (
        re.findall(r"#[0-9a-f]{6}", made.partition("</style>")[2]) == []
    )  # the page's own colours


def test_rates_that_are_not_known_leave_out_the_chart_and_keep_the_figures(show: Any) -> None:
    result = deepcopy(RESULTS["gpu"])
    held = result["subjects"][0]["roofline"]
    held["measured"], held["rates"] = False, {"gflops": None, "copy_gbps": 10.0}
    report = show(result)
    report.check()
    assert "Roofline" not in report.titles() and "Share" in report.titles()
    assert "- , 10.0 GB/s" in report.page.inner_text("#subject-0").replace("-,", "- ,")
    assert "(not measured here)" in shown_in_terminal(result)


def shown_in_terminal(result: dict[str, Any]) -> str:
    file = io.StringIO()
    show_result(result, file)
    return file.getvalue()


def test_characters_that_xml_cannot_hold_are_spaces_in_charts(show: Any) -> None:
    result = deepcopy(RESULTS["gpu"])
    subject = result["subjects"][0]
    subject["roofline"]["graphs"] = {"fl\x00ow\n": subject["roofline"]["graphs"]["flow"]}
    for span in subject["timeline"]:
        span["name"], span["track"] = "a\x01", f"$x^2$ \x02{span['track']}"
    texts = show(result).page.locator("svg text:visible").all_text_contents()
    assert "fl ow" in texts and "$x^2$  input" in texts


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_stand_out(show: Any, theme: str) -> None:
    page = show(RESULTS["live"], theme=theme).page

    def contrast(front: str, behind: str) -> float:
        first, second = (
            luminance(page.evaluate(f"{STYLE}.getPropertyValue('--{name}')").strip())
            for name in (front, behind)
        )
        return (max(first, second) + 0.05) / (min(first, second) + 0.05)

    texts = [("ink", "ground"), ("ink", "card"), ("soft", "ground"), ("soft", "card")]
    texts += [("accent", "card"), ("bad", "card"), *(("on-frame", f"f{n}") for n in range(4))]
    assert {pair: contrast(*pair) for pair in texts if contrast(*pair) < 4.5} == {}
    marks = [("accent", "lane"), ("late", "card"), *((f"f{n}", "lane") for n in range(4))]
    assert {pair: contrast(*pair) for pair in marks if contrast(*pair) < 3} == {}
    assert (luminance_of(page, "body") < 0.05) == (theme == "dark")


def luminance_of(page: Any, where: str) -> float:
    """Returns the luminance of an element's background."""
    colour = page.evaluate(f"getComputedStyle(document.querySelector('{where}')).backgroundColor")
    return luminance("#" + "".join(f"{int(n):02x}" for n in re.findall(r"\d+", colour)[:3]))


@pytest.mark.parametrize("size", SIZES)
def test_picture_for_the_documentation(show: Any, size: str) -> None:
    folder = os.environ.get("STREAMDIFFVSR_SCREENSHOTS")
    if not folder:
        pytest.skip("STREAMDIFFVSR_SCREENSHOTS names no folder")
    given = os.environ.get("STREAMDIFFVSR_BENCH_RESULT")
    result = read_result(given) if given else json.loads(json.dumps(RESULTS["cpu"]))
    phone = size == "phone"
    report = show(result, size, "light" if phone else "dark")
    report.check()
    last = report.page.locator("#subject-0 .stages" if phone else "#subject-0").bounding_box()
    bottom = last["y"] + last["height"] + (60 if phone else 16)
    clip = {"x": 0, "y": 0, "width": SIZES[size][0], "height": bottom}
    name = "bench-report-phone.png" if phone else "bench-report.png"
    report.page.screenshot(path=Path(folder) / name, full_page=True, clip=clip)
