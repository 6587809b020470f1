"""The page's section of one subject: modes, frame times, stages, timeline, roofline, the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .html_parts import card, facts_card, paragraph, table
from .markup import Markup, joined, tag
from .svg_histogram import histogram
from .svg_roofline import roofline
from .svg_timeline import timeline
from .table import accounted, rates
from .wording import (
    MODES,
    NONE,
    QUANTILES,
    digits,
    file_rate,
    megabytes,
    ms,
    share,
    start_up,
    what_ran,
)

Result = Mapping[str, Any]


def subject_section(number: int, subject: Result) -> Markup:
    """All that is known of a subject; what was not measured has no card."""
    name = f"subject-{number}"
    heading = joined(tag("h2", subject["id"]), paragraph(what_ran(subject)))
    cards = [
        _modes(subject),
        _histogram(name, subject),
        _stages(subject),
        _timeline(name, subject),
        *_limits(name, subject),
    ]
    return tag("section", heading, tag("div", *cards, class_="cards"), id=name, class_="subject")


def _modes(subject: Result) -> Markup:
    rows, remarks = [], []
    for name in (name for name in MODES if name in subject["modes"]):
        mode = subject["modes"][name]
        frame, latency = mode["frame_ms"], mode.get("latency_ms")
        both = (digits(latency["p50"]), digits(latency["p95"])) if latency else (NONE, NONE)
        host = digits((mode.get("host_ms") or {}).get("p50"))
        launches = mode.get("launches")
        cells = [digits(frame[q]) for q in QUANTILES]
        last = str(launches) if launches is not None else NONE
        rows.append((name, *cells, digits(mode["fps"]), *both, host, last))
        for part, why in (mode.get("not_captured") or {}).items():
            remarks.append(paragraph(f"{name}: {part} is not captured: {why}"))
    if not rows:
        return Markup("")
    head = ("ms a frame", *QUANTILES, "fps", "latency p50", "latency p95", "host", "launches")
    return card("Modes", table(head, rows), *remarks, wide=True)


def _histogram(name: str, subject: Result) -> Markup:
    drawn = histogram(f"{name}-histogram", subject["modes"])
    if drawn is None:
        return Markup("")
    marks = tag("p", tag("i", class_="p50"), "p50 ", tag("i", class_="p95"), "p95", class_="key")
    return card("Frame times", drawn, marks, beside="how many frames took how long")


def _stages(subject: Result) -> Markup:
    stages = subject.get("stages")
    if not stages:
        return Markup("")
    held = [(name, stages["ms"][name]) for name in stages["order"] if name in stages["ms"]]
    whole = sum(of["p50"] for _, of in held) or 1
    most = max((of["p95"] for _, of in held), default=1) or 1
    rows = []
    for name, of in held:
        bars = [
            tag("i", class_=q, style=f"width:{100 * of[q] / most:.2f}%") for q in ("p95", "p50")
        ]
        rows.append(
            tag(
                "li",
                tag("span", name),
                tag("span", *bars, class_="track", aria_hidden="true"),
                tag("b", ms(of["p50"])),
                tag("span", share(of["p50"] / whole), class_="soft"),
            )
        )
    told = paragraph(accounted(subject))
    beside = "plain loop: p50, faint up to p95"
    return card("Where the time goes", tag("ol", *rows, class_="stages"), told, beside=beside)


def _timeline(name: str, subject: Result) -> Markup:
    drawn = timeline(f"{name}-timeline", subject.get("timeline") or ())
    if drawn is None:
        return Markup("")
    beside = "consecutive frames of the overlapped run, ms"
    return card("Timeline", drawn, wide=True, beside=beside)


def _limits(name: str, subject: Result) -> list[Markup]:
    """The roofline, and beside it its figures with whatever has no card of its own."""
    held, rest = subject.get("roofline"), _rest(subject)
    if not held:
        return [rest]
    rows = [
        (
            graph,
            digits(work["gflop"]),
            digits(1e3 * work["gbyte"]),
            digits(work.get("limit_ms")),
            digits(work.get("measured_ms")),
            share(work.get("share")),
            work.get("bound") or NONE,
        )
        for graph, work in (*held["graphs"].items(), ("whole frame", held.get("frame")))
        if work
    ]
    head = ("a frame", "GFLOP", "MB", "limit, ms", "p50, ms", "reached", "bound by")
    listed = card("Share of the limit", table(head, rows, kind="short"), paragraph(rates(held)))
    drawn = roofline(f"{name}-roofline", held)
    plot = [] if drawn is None else [card("Roofline", drawn, beside="each graph under its limit")]
    return [*plot, tag("div", listed, rest, class_="stack")]


def _rest(subject: Result) -> Markup:
    start, media = subject.get("start_up") or {}, subject.get("media") or {}
    held = subject.get("memory_mb") or {}
    coded = [f"{name} {ms(media[name]['p50'])}" for name in ("decode", "encode") if media.get(name)]
    facts = [
        ("Cold start", start_up(start["cold_s"]) if start.get("cold_s") else ""),
        ("Warm start", start_up(start["warm_s"]) if start.get("warm_s") else ""),
        ("Host memory, peak", _memory(held, "host_peak")),
        ("GPU memory, peak", _memory(held, "device_peak")),
        ("Memory, estimated", _memory(held, "estimate")),
        ("Video, a frame", ", ".join(coded)),
        ("Codecs", media.get("codec", "") if coded else ""),
        ("Whole files", file_rate(subject.get("file_rate") or {})),
    ]
    if not any(value for _, value in facts):
        return Markup("")
    return facts_card("Start-up, memory, video", facts)


def _memory(held: Result, key: str) -> str:
    return megabytes(held[key]) if held.get(key) is not None else ""
