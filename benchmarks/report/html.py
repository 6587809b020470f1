"""A result as one HTML file that needs nothing else: no network, no fonts, no script.

`page/page.html.j2` says what is on the page. All text that a result holds is escaped there.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from . import wording
from .files import write_text
from .metrics import METRICS
from .plots import FRAME_COLOURS, histogram, roofline, timeline
from .trace import frames
from .wording import MODES, NONE, baseline_name, digits, live_tiles, megabytes, ms, seconds

_PAGE = Path(__file__).with_name("page")

Result = Mapping[str, Any]
Figures = list[tuple[str, str, str]]  # name, value with its unit, a remark


def write_html(result: Result, path: str | Path) -> None:
    """Writes the report of a result (see `benchmarks/result_schema.json`).

    Raises:
        StreamDiffVSRError: The file cannot be written.
    """
    write_text(path, page(result))


def page(result: Result) -> str:
    """Returns the report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= vars(wording) | {
        "histogram": histogram,
        "timeline": timeline,
        "roofline": roofline,
        "frames": frames,
        "around": _around,
        "colours": FRAME_COLOURS,
    }
    live = result.get("live")
    names = [subject["id"] for subject in result["subjects"]]
    names += [f"live {live['source']}"] if live else []
    date = "".join(letter if letter.isalnum() else "-" for letter in result["created"])
    return environment.get_template("page.html.j2").render(
        result=result,
        machine=result["machine"],
        title=", ".join(names) or "without subjects",
        style=Markup((_PAGE / "page.css").read_text(encoding="utf-8")),
        download=base64.b64encode(json.dumps(result, indent=1).encode()).decode(),
        file_name=f"bench-{date}.json",
        live=live,
        live_figures=_live_figures(live) if live else [],
        ratios=_ratios(result),
        figures=[_figures(subject) for subject in result["subjects"]],
    )


def _live_figures(live: Result) -> Figures:
    """Returns the figures of a live run that one quotes."""
    figures = [
        (name, ms(live[key]["p50"]), f"p95 {ms(live[key]['p95'])}")
        for key, name in (("latency_ms", "Latency"), ("age_ms", "Age of the newest frame"))
        if live.get(key)
    ]
    for key, name in (("fps_out", "Frames out"), ("fps_in", "Frames in")):
        if live.get(key) is not None:
            figures.append((name, f"{digits(live[key])} fps", ""))
    if tiles := live_tiles(live):
        figures.append(("Picture", f"{100 * live['adaptive']['fresh']:.0f} % model", tiles))
    return figures


def _figures(subject: Result) -> Figures:
    """Returns the figures that one quotes, of the modes that such a device is used in."""
    modes: Mapping[str, Any] = subject["modes"]
    on_gpu, figures = subject["device"] != "cpu", []
    overlapped = [name for name in MODES if name in modes and (on_gpu or name == "plain")]
    if name := next((m for m in ("throughput", "plain") if m in overlapped), ""):
        frame, fps = modes[name]["frame_ms"], modes[name]["fps"]
        figures.append(("Frame time", ms(frame["p50"]), f"p95 {ms(frame['p95'])}, {name}"))
        figures.append(("Throughput", f"{digits(fps)} fps", name))
    name = next((m for m in ("latency", "plain") if m in overlapped), "")
    if name and (latency := modes[name].get("latency_ms")):
        figures.append(("Latency", ms(latency["p50"]), f"p95 {ms(latency['p95'])}, {name}"))
    held = subject.get("memory_mb") or {}
    for key, name in (("device_peak", "GPU memory"), ("host_peak", "Host memory")):
        if held.get(key) is not None:
            figures.append((name, megabytes(held[key]), "peak"))
    return figures[:4]


def _around(subject: Result) -> list[tuple[str, str]]:
    """Returns names and values of what was measured around the frames; empty where it was not."""
    return [(metric.row, metric.text(subject)) for metric in METRICS if metric.row]


def _ratios(result: Result) -> list[dict[str, Any]]:
    """Returns comparisons and baselines, each with its place on one logarithmic axis, in %."""
    rows = [
        (held["what"], f"against {held['to']}, {held['mode']}", "", held)
        for held in result.get("comparisons") or ()
    ]
    for held in result.get("baselines") or ():
        frame = ms(held["frame_ms"]["p50"]) if held["frame_ms"] else NONE
        start = held.get("start_up_s")
        more = f"{frame} a frame" + (f", start-up {seconds(start)}" if start else "")
        about = "a command over the same frames"
        if held["id"] != "command":
            about = held.get("describe") or ""
        about = ", ".join(part for part in (about, f"against {held['subject']}") if part)
        rows.append((baseline_name(held), about, more, held))
    values = [v for *_, held in rows for v in (held.get("ratio"), *(held.get("spread") or ()))]
    logs = [math.log10(value) for value in values if value]
    low, high = min([-0.1, *logs]) - 0.15, max([0.1, *logs]) + 0.15

    def at(value: float | None) -> float | None:
        return round(100 * (math.log10(value) - low) / (high - low), 2) if value else None

    return [
        {
            "name": name,
            "about": about,
            "more": more,
            "one": at(1),
            "point": at(held.get("ratio")),
            "range": [at(value) for value in held.get("spread") or ()],
            "held": held,
        }
        for name, about, more, held in rows
    ]
