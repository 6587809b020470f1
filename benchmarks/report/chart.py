"""What all charts share: two drawings of each, for a wide page and for a narrow one, and ticks.

Text in an SVG shrinks with it, so a drawing for a desktop is not readable on a phone. The page's
style sheet shows one of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .markup import Markup, tag

FONT = 11.0  # of every label, in the drawing's units


@dataclass(frozen=True, slots=True)
class Canvas:
    """How wide to draw, in units of about a pixel."""

    width: float
    narrow: bool


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn chart: its elements and its height."""

    elements: tuple[Markup, ...]
    height: float


def chart(
    name: str, title: str, description: str, draw: Callable[[Canvas], Drawing], wide: float
) -> Markup:
    """The two drawings of a chart.

    Args:
        name: Unique on the page.
        title: What it shows; `description` says in words what one sees.
        wide: Width of the wide drawing, about what its place on the page has.
    """
    made = []
    for canvas in (Canvas(wide, narrow=False), Canvas(332, narrow=True)):
        kind = "narrow" if canvas.narrow else "wide"
        drawing, ids = draw(canvas), (f"{name}-{kind}-title", f"{name}-{kind}-desc")
        made.append(
            tag(
                "svg",
                tag("title", title, id=ids[0]),
                tag("desc", description, id=ids[1]),
                *drawing.elements,
                class_=f"chart {kind}",
                viewBox=f"0 0 {canvas.width:g} {drawing.height:.0f}",
                role="img",
                aria_labelledby=" ".join(ids),
            )
        )
    return Markup("".join(made))


def label(
    text: str,
    x: float,
    y: float,
    *,
    anchor: str = "start",
    kind: str = "label",
    turn: str | None = None,
) -> Markup:
    """A text; `y` is its base line, `turn` a transform of SVG."""
    return tag("text", text, x=x, y=y, class_=kind, text_anchor=anchor, transform=turn)


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most so many: steps of 1, 2 or 5 times a power of 10."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * n for n in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [number * step for number in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of 10 from low to high, both above 0; with their twos and fives where few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high / low < 300 else (1,)
    found = (step * 10.0**power for power in range(first, last + 1) for step in steps)
    return [value for value in found if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]


def plain_number(value: float) -> str:
    """A tick's label: 0.01, 0.5, 20, 1000, 20k, 5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / min(unit, 1e3 if name == 'k' else unit):g}{name}"
    return f"{value:.6g}"
