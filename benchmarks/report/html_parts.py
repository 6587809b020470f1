"""Parts of the page that are of the whole run: summary, environment, ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .markup import Markup, joined, tag
from .table import baseline_name, noise
from .wording import (
    NONE,
    digits,
    gpu,
    megabytes,
    ms,
    power,
    seconds,
    settings,
    spread,
    times,
    versions,
    what_ran,
)

Result = Mapping[str, Any]


def pill(mood: str, text: str) -> Markup:
    """A short state with a coloured dot: good, wait or bad."""
    return tag("p", text, class_="pill", data_mood=mood)


def card(title: str, *inside: str, wide: bool = False, beside: str = "") -> Markup:
    """A titled box; over the whole row if wide."""
    heading = tag("h3", title, *((" ", tag("small", beside)) if beside else ()))
    return tag("section", heading, *inside, class_="card wide" if wide else "card")


def facts_card(title: str, facts: Iterable[tuple[str, str]]) -> Markup:
    """Names and values; what has no value is left out."""
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value]
    return card(title, tag("dl", *rows, class_="facts"))


def figure(name: str, value: str, beside: str = "") -> Markup:
    """One large figure; `value` is a number and its unit, apart by a space."""
    number, _, unit = value.partition(" ")
    text = tag("dd", tag("b", number), f" {unit}" if unit else "")
    return tag("div", tag("dt", name), text, *((tag("dd", beside),) if beside else ()))


def summary(result: Result) -> Markup:
    """A card a subject with the figures that one quotes, and a way to the rest."""
    made = []
    for number, subject in enumerate(result["subjects"]):
        title = tag("h2", tag("a", subject["id"], href=f"#subject-{number}"))
        about = tag("p", what_ran(subject), class_="soft")
        made.append(tag("section", title, about, _headline(subject), class_="card summary"))
    return tag("section", *made, id="summary", aria_label="Summary")


def _headline(subject: Result) -> Markup:
    modes = subject["modes"]
    figures = []
    on_gpu = subject["device"] != "cpu"
    name = _first(modes, ("throughput", "plain") if on_gpu else ("plain",))
    if name:
        frame, fps = modes[name]["frame_ms"], modes[name]["fps"]
        figures.append(figure("Frame time", ms(frame["p50"]), f"p95 {ms(frame['p95'])}, {name}"))
        figures.append(figure("Throughput", f"{digits(fps)} fps", name))
    name = _first(modes, ("latency", "plain") if on_gpu else ("plain",))
    if name and (latency := modes[name].get("latency_ms")):
        figures.append(figure("Latency", ms(latency["p50"]), f"p95 {ms(latency['p95'])}, {name}"))
    held = subject.get("memory_mb") or {}
    for key, name in (("device_peak", "GPU memory"), ("host_peak", "Host memory")):
        if held.get(key) is not None:
            figures.append(figure(name, megabytes(held[key]), "peak"))
    return tag("dl", *figures[:4], class_="headline")


def _first(modes: Result, names: Iterable[str]) -> str:
    """The mode that the product runs in on such a device, not the one that did best."""
    return next((name for name in names if name in modes), "")


def environment(result: Result) -> Markup:
    """What it was measured on, and how much."""
    machine = result["machine"]
    load = machine.get("load_average")
    facts = [
        ("Processor", f"{machine['cpu']}, {machine['cores']} cores"),
        ("GPU", gpu(machine)),
        ("System", machine["system"]),
        ("Power", power(machine)),
        ("Load average", " ".join(f"{value:.2f}" for value in load) if load else ""),
        ("Versions", f"{versions(machine)}, Python {machine['python']}"),
        ("Measured", settings(result)),
        ("Noise", noise(result)),
        ("Date", result["created"]),
    ]
    return facts_card("Environment", facts)


def ratios(result: Result) -> list[Markup]:
    """The card of comparisons and baselines; none where there are none."""
    rows = [
        (c["what"], f"against {c['to']}, {c['mode']}", c, "")
        for c in result.get("comparisons") or ()
    ]
    for held in result.get("baselines") or ():
        frame = ms(held["frame_ms"]["p50"]) if held["frame_ms"] else NONE
        start = held.get("start_up_s")
        more = f"{frame} a frame" + (f", start-up {seconds(start)}" if start else "")
        about = held.get("describe") or ""
        if held["id"] == "command":
            about = "a command over the same frames"
        name = baseline_name(held)
        rows.append((name, f"{about + ', ' if about else ''}against {held['subject']}", held, more))
    if not rows:
        return []
    scale = _scale([held for *_, held, _ in rows])
    made = [_ratio(name, about, held, more, scale) for name, about, held, more in rows]
    axis = tag("p", "the line is 1x: right of it the first named is slower", class_="soft axis")
    body = (tag("ol", *made, class_="ratios"), axis)
    return [card("Ratios of frame times", *body, beside="with the spread of the pairs")]


def _scale(held: Sequence[Result]) -> tuple[float, float]:
    """The decimal logarithms of the axis's ends; 1x is always on it."""
    values = [value for of in held for value in (of.get("ratio"), *(of.get("spread") or ()))]
    logs = [math.log10(value) for value in values if value]
    return min([-0.1, *logs]) - 0.15, max([0.1, *logs]) + 0.15


def _ratio(name: str, about: str, held: Result, more: str, scale: tuple[float, float]) -> Markup:
    def at(value: float) -> float:
        return 100 * (math.log10(value) - scale[0]) / (scale[1] - scale[0])

    parts = [tag("i", class_="one", style=f"left:{at(1):.2f}%")]
    low, high = held.get("spread") or (0, 0)
    if low > 0:
        width = at(high) - at(low)
        parts.append(tag("i", class_="range", style=f"left:{at(low):.2f}%;width:{width:.2f}%"))
    if held.get("ratio"):
        parts.append(tag("i", class_="point", style=f"left:{at(held['ratio']):.2f}%"))
    pairs = f", {held['pairs']} pairs" if held.get("pairs") else ""
    said = f"{spread(held['spread'])}{pairs}" if held.get("spread") else "no pairs"
    return tag(
        "li",
        tag("p", tag("b", name), " ", tag("span", about, class_="soft")),
        tag("div", *parts, class_="range-track", aria_hidden="true"),
        tag("p", tag("b", times(held.get("ratio"))), f" {said}", class_="figures"),
        *((tag("p", more, class_="soft more"),) if more else ()),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "long") -> Markup:
    """A table.

    Args:
        kind: What a narrow page does with it: "long" becomes a list of named figures, "short" loses
            its second and third column, "plain" stays.
    """
    body = []
    for name, *cells in rows:
        held = [
            tag("td", cell, data_name=title) for title, cell in zip(head[1:], cells, strict=True)
        ]
        body.append(tag("tr", tag("th", name, scope="row"), *held))
    top = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head)))
    return tag("div", tag("table", top, tag("tbody", *body)), class_=f"table {kind}")


def paragraph(*parts: str) -> Markup:
    """A remark below a chart or table; nothing where there is nothing to say."""
    text = joined(*parts)
    return tag("p", text, class_="soft") if text else Markup("")
