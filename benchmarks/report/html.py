"""A result as one HTML file that needs nothing else: no network, no fonts, no script."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from .html_parts import card, environment, facts_card, figure, pill, ratios, summary, table
from .html_subject import subject_section
from .markup import Markup, joined, tag
from .table import live_rates
from .wording import QUANTILES, digits, ms
from .written import write_text

_PAGE = Path(__file__).with_name("page")

Result = Mapping[str, Any]


def write_html(result: Result, path: str | Path) -> None:
    """Write the report of a result (see `benchmarks/result_schema.json`).

    Raises:
        StreamDiffVSRError: The file cannot be written.
    """
    write_text(path, page(result))


def page(result: Result) -> str:
    """The report as HTML. Whatever text the result holds is escaped."""
    template = Template((_PAGE / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=tag("title", f"Benchmark {_subject_names(result)}"),
        style=(_PAGE / "report.css").read_text(encoding="utf-8"),
        header=_header(result),
        main=_main(result),
        footer=_footer(result),
    )


def _subject_names(result: Result) -> str:
    names = [subject["id"] for subject in result["subjects"]]
    if result.get("live"):
        names.append(f"live {result['live']['source']}")
    return ", ".join(names) or "without subjects"


def _header(result: Result) -> Markup:
    noise = result.get("noise")
    parts = [tag("h1", "streamdiffvsr bench")]
    if noise is not None:
        mood = ("bad", "Noisy") if noise["noisy"] else ("good", "Quiet machine")
        parts.append(pill(*mood))
    if not result["complete"]:
        parts.append(pill("wait", "Incomplete"))
    data = base64.b64encode(json.dumps(result, indent=1).encode()).decode()
    name = "".join(c if c.isalnum() else "-" for c in result["created"])
    download = tag(
        "a",
        tag("span", "Result as "),
        "JSON",
        class_="button",
        href=f"data:application/json;base64,{data}",
        download=f"bench-{name}.json",
    )
    return joined(*parts, tag("nav", download))


def _main(result: Result) -> Markup:
    subjects = list(enumerate(result["subjects"]))
    parts = [*_warnings(result), tag("p", tag("b", "Timed: "), result["timed"], class_="timed")]
    if subjects:
        parts.append(summary(result))
    live = _live(result["live"]) if result.get("live") else []
    parts.append(tag("div", *live, environment(result), *ratios(result), class_="cards"))
    parts += [subject_section(number, subject) for number, subject in subjects]
    return joined(*parts)


def _warnings(result: Result) -> list[Markup]:
    found = []
    noise = result.get("noise") or {}
    if noise.get("noisy"):
        why = noise["why"] or ["the result does not say why"]
        found.append(
            tag(
                "div",
                tag("b", "The machine was noisy: do not quote these figures"),
                tag("ul", *(tag("li", line) for line in why)),
                class_="warning bad",
                role="note",
            )
        )
    if not result["complete"]:
        why = result.get("stopped") or "the result does not say why"
        told = tag("b", "Measuring ended early: ")
        found.append(tag("div", told, why, class_="warning", role="note"))
    return found


def _live(live: Result) -> list[Markup]:
    """The cards of a live run: figures, latency by stage, what ran."""
    rows = [("latency", live.get("latency_ms")), ("age of the newest frame", live.get("age_ms"))]
    rows += list((live.get("stages") or {}).items())
    held = [(name, *(digits(of[q]) for q in QUANTILES)) for name, of in rows if of]
    figures = table(("ms", *QUANTILES), held, kind="plain")
    stamped = "read from the pixels that came out" if live.get("stamped") else ""
    facts = [
        ("Source", live["source"]),
        ("Input", live.get("size") or ""),
        ("Engine", live.get("engine") or ""),
        ("Mode", live.get("mode") or ""),
        ("Time stamps", stamped),
        ("Frames", live_rates(live)),
    ]
    return [
        card("Capture to sink", _live_headline(live), figures, wide=True),
        facts_card("Live path", facts),
    ]


def _live_headline(live: Result) -> Markup:
    made = [
        figure(name, ms(live[key]["p50"]), f"p95 {ms(live[key]['p95'])}")
        for key, name in (("latency_ms", "Latency"), ("age_ms", "Age of the newest frame"))
        if live.get(key)
    ]
    for key, name in (("fps_out", "Frames out"), ("fps_in", "Frames in")):
        if live.get(key) is not None:
            made.append(figure(name, f"{digits(live[key])} fps"))
    return tag("dl", *made, class_="headline")


def _footer(result: Result) -> Markup:
    arguments = " ".join(result.get("command") or ())
    command = f"streamdiffvsr bench {arguments}".strip()
    made = joined("Made by ", tag("code", command), " on ", result["created"])
    return tag("p", made, ". Times are medians (p50) unless said otherwise.")
