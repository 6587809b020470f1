"""How often a frame took how long: a row a mode, on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .chart import Canvas, Drawing, chart, label, line, plain_number, ticks
from .markup import Markup, tag
from .wording import MODES, digits, ms

HEAD, BARS, GAP, AXIS = 18.0, 56.0, 14.0, 34.0
BINS = {False: 48, True: 30}
BEYOND = 1.5  # a frame later than this many p99 is drawn at the right edge

Modes = Mapping[str, Mapping[str, Any]]


def histogram(name: str, modes: Modes) -> Markup | None:
    """The chart of the modes that hold their samples; None where none does."""
    held = {mode: modes[mode] for mode in MODES if modes.get(mode, {}).get("samples_ms")}
    if not held:
        return None
    told = "; ".join(f"{mode}: {_quantiles(of)}" for mode, of in held.items())
    return chart(name, "Frame times", told, lambda canvas: _draw(canvas, held), 560)


def _draw(canvas: Canvas, modes: Modes) -> Drawing:
    low, high = _range(modes)
    elements: list[Markup] = []
    bottom = len(modes) * (HEAD + BARS + GAP) - GAP

    def at(value: float) -> float:
        return (min(value, high) - low) / (high - low) * canvas.width

    found = ticks(low, high, 5 if canvas.narrow else 8)
    for tick in found:
        elements.append(line(at(tick), HEAD - 2, at(tick), bottom))
    for number, (name, mode) in enumerate(modes.items()):
        top = number * (HEAD + BARS + GAP)
        elements += _row(canvas, name, mode, (low, high), top)
        base = top + HEAD + BARS
        for quantile in ("p50", "p95"):
            x = at(mode["frame_ms"][quantile])
            elements.append(line(x, top + HEAD, x, base, f"mark {quantile}"))
        elements.append(line(0, base, canvas.width, base, "axis"))
    for number, tick in enumerate(found):
        elements.append(_tick(canvas, at(tick), bottom + 15, tick, last=number == len(found) - 1))
    return Drawing(tuple(elements), bottom + AXIS - 12)


def _row(
    canvas: Canvas, name: str, mode: Mapping[str, Any], over: tuple[float, float], top: float
) -> list[Markup]:
    """A mode's heading and bars."""
    samples = np.clip(np.asarray(mode["samples_ms"], dtype=float), *over)
    counts, _ = np.histogram(samples, bins=BINS[canvas.narrow], range=over)
    step, most = canvas.width / len(counts), max(int(counts.max()), 1)
    elements = [
        label(name, 0, top + 11, kind="label strong"),
        label(_quantiles(mode), canvas.width, top + 11, anchor="end"),
    ]
    for number, count in enumerate(counts):
        height = BARS * count / most
        if count:
            elements.append(
                tag(
                    "rect",
                    x=number * step + 0.5,
                    y=top + HEAD + BARS - height,
                    width=max(step - 1, 0.5),
                    height=height,
                    class_="bar",
                )
            )
    return elements


def _range(modes: Modes) -> tuple[float, float]:
    """From the fastest frame to the slowest that is not far off, with room beside."""
    low = min(min(mode["samples_ms"]) for mode in modes.values())
    high = max(
        min(max(mode["samples_ms"]), BEYOND * mode["frame_ms"]["p99"]) for mode in modes.values()
    )
    room = max(0.03 * (high - low), 0.005 * high, 1e-6)
    return max(low - room, 0.0), high + room


def _quantiles(mode: Mapping[str, Any]) -> str:
    frame = mode["frame_ms"]
    return f"p50 {digits(frame['p50'])}, p95 {digits(frame['p95'])}, max {ms(frame['max'])}"


def _tick(canvas: Canvas, x: float, y: float, value: float, *, last: bool) -> Markup:
    """A tick's label, inside the drawing."""
    text = f"{plain_number(value)} ms" if last else plain_number(value)
    anchor: Sequence[str] = ("start", "middle", "end")
    place = 0 if x < 20 else 2 if x > canvas.width - 30 else 1
    return label(text, x, y, anchor=anchor[place])
