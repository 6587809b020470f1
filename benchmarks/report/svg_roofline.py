"""The roofline plot: what each graph reaches, under what the device can do at its intensity.

Both axes are logarithmic. The roof is min(rate, bandwidth * intensity), after Williams, Waterman
and Patterson, "Roofline: an insightful visual performance model", 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .chart import Canvas, Drawing, chart, decades, label, line, plain_number
from .label_places import Box, place
from .markup import Markup, tag
from .wording import digits, rate, share

LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 24.0, 42.0
HEIGHT = {False: 520.0, True: 352.0}

Axis = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Dot:
    """A graph: FLOP/byte, GFLOP/s and the share of its limit."""

    name: str
    intensity: float
    rate: float
    share: float | None


def roofline(name: str, held: Mapping[str, Any]) -> Markup | None:
    """The chart of a ROOFLINE of the result's schema; None where no graph was timed."""
    dots = _dots(held)
    if not dots:
        return None
    told = "; ".join(
        f"{d.name}: {digits(d.intensity)} FLOP/byte, {rate(d.rate)}, {share(d.share)} of its limit"
        for d in dots
    )
    rates = (held["rates"]["gflops"], held["rates"]["copy_gbps"])
    return chart(
        name,
        "Roofline: each graph under its limit",
        told,
        lambda canvas: _draw(canvas, dots, rates),
        560,
    )


def _dots(held: Mapping[str, Any]) -> list[Dot]:
    return [
        Dot(name, work["gflop"] / work["gbyte"], 1e3 * work["gflop"] / ms, work.get("share"))
        for name, work in held["graphs"].items()
        if (ms := work.get("measured_ms")) and work["gflop"] and work["gbyte"]
    ]


def _draw(canvas: Canvas, dots: list[Dot], rates: tuple[float, float]) -> Drawing:
    gflops, gbps = rates
    height = HEIGHT[canvas.narrow]
    ridge = gflops / gbps
    across = _range([ridge, *(dot.intensity for dot in dots)], 2.0)
    up = _range([gflops, *(dot.rate for dot in dots)], 2.2)
    x = _axis(across, LEFT, canvas.width - RIGHT)
    y = _axis(up, height - BOTTOM, TOP)
    elements = _grid(canvas, x, y, across, up, height)
    start = max(across[0], up[0] / gbps)
    corners = ((x(start), y(gbps * start)), (x(ridge), y(gflops)), (x(across[1]), y(gflops)))
    points = " ".join(f"{cx:.1f},{cy:.1f}" for cx, cy in corners)
    elements.append(tag("polyline", points=points, class_="roof"))
    said = rate(gflops)
    elements.append(label(said, x(across[1]), y(gflops) - 7, anchor="end", kind="label strong"))
    elements += _points(canvas, dots, (x, y), height, rates)
    return Drawing(tuple(elements), height)


def _grid(
    canvas: Canvas,
    x: Axis,
    y: Axis,
    across: tuple[float, float],
    up: tuple[float, float],
    height: float,
) -> list[Markup]:
    left, right, base = LEFT, canvas.width - RIGHT, height - BOTTOM
    elements = []
    for value in decades(*across):
        elements.append(line(x(value), TOP, x(value), base))
        elements.append(label(plain_number(value), x(value), base + 15, anchor="middle"))
    for value in decades(*up):
        elements.append(line(left, y(value), right, y(value)))
        elements.append(label(plain_number(value), left - 7, y(value) + 4, anchor="end"))
    elements.append(line(left, base, right, base, "axis"))
    elements.append(label("GFLOP/s", 0, 10))
    elements.append(label("FLOP per byte", right, height - 8, anchor="end"))
    return elements


def _points(
    canvas: Canvas,
    dots: list[Dot],
    axes: tuple[Axis, Axis],
    height: float,
    rates: tuple[float, float],
) -> list[Markup]:
    """Dots, a line from each to its limit, and labels that keep apart."""
    (x, y), (gflops, gbps) = axes, rates
    peak = y(gflops)
    inside = Box(LEFT + 2, peak + 8, canvas.width - RIGHT, height - BOTTOM - 2)
    centres = [(x(dot.intensity), y(dot.rate)) for dot in dots]
    names = place([dot.name for dot in dots], centres, inside)
    stems, marks = [], []
    for dot, (cx, cy), at in zip(dots, centres, names, strict=True):
        limit = max(y(gbps * dot.intensity), peak)
        stems.append(line(cx, cy, cx, limit, "stem"))
        if at.far:
            stems.append(line(cx, cy, *at.anchor_point, "leader"))
        told = f"{dot.name}: {share(dot.share)} of its limit"
        marks.append(tag("circle", tag("title", told), cx=cx, cy=cy, r=5, class_="dot"))
        marks.append(label(dot.name, at.box.left, at.box.bottom - 3, kind="label halo"))
    return [*stems, *marks]


def _range(values: list[float], room: float) -> tuple[float, float]:
    """From below the smallest to above the largest, over a decade at least."""
    low, high = min(values) / room, max(values) * room
    return (low / 2, high * 1.6) if high / low < 20 else (low, high)


def _axis(over: tuple[float, float], start: float, end: float) -> Axis:
    low, high = math.log10(over[0]), math.log10(over[1])
    return lambda value: start + (math.log10(value) - low) / (high - low) * (end - start)
