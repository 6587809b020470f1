"""Which stream does what when: overlapped frames, a lane a track, a colour a frame.

On a wide page time goes to the right. On a narrow one it goes down, so that labels still fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .chart import FONT, Canvas, Drawing, chart, label, line, plain_number, ticks
from .lanes import Lane, Span, frames, lanes
from .markup import Markup, fitted, tag, width_of
from .wording import ms

COLOURS = 4  # that the style sheet has for frames
GUTTER, GAP, PROCESS, AXIS = (70.0, 190.0), 8.0, 20.0, 26.0
HIGH, LOW, MANY = 64.0, 34.0, 6  # lanes are high, for upright labels, unless there are many
TALL, SCALE, HEAD, HIGHEST_HEAD = 620.0, 44.0, 20.0, 130.0  # of the narrow drawing

Timeline = Sequence[Mapping[str, Any]]


def timeline(name: str, spans: Timeline) -> Markup | None:
    """The chart of a timeline, with its legend; None where there is nothing."""
    rows = lanes(spans)
    if not rows:
        return None
    seen = frames(spans)
    end = max(span.end for lane in rows for span in lane.spans) or 1.0
    told = "; ".join(f"{_name(lane, rows)}: {len(lane.spans)} spans" for lane in rows)
    many = f"{len(seen)} frames overlapped on {len(rows)} tracks, {ms(end)}"

    def draw(canvas: Canvas) -> Drawing:
        return (_tall if canvas.narrow else _wide)(canvas, rows, seen, end)

    return Markup(chart(name, f"Timeline: {many}", told, draw, 1130) + legend(seen))


def legend(seen: Sequence[int]) -> Markup:
    """Which colour is which frame."""
    entries = [
        tag("li", tag("i", class_=f"f{number % COLOURS}"), f"frame {frame}")
        for number, frame in enumerate(seen)
    ]
    return tag("ul", *entries, class_="legend")


def _wide(canvas: Canvas, rows: Sequence[Lane], seen: Sequence[int], end: float) -> Drawing:
    several = len({lane.process for lane in rows}) > 1
    widest = max(width_of(lane.track, FONT) for lane in rows) + 12
    left = min(max(widest, GUTTER[0]), GUTTER[1])
    width, high = canvas.width - left, HIGH if len(rows) <= MANY else LOW
    grid: list[Markup] = []
    bars: list[Markup] = []
    y, process = 0.0, None
    for lane in rows:
        if several and lane.process != process:
            name = fitted(lane.process, FONT, canvas.width)
            bars.append(label(name, 0, y + 12, kind="label strong"))
            y += PROCESS
        process = lane.process
        bars.append(label(fitted(lane.track, FONT, left - 12), 0, y + high / 2 + 4))
        grid.append(tag("rect", x=left, y=y, width=width, height=high, class_="lane"))
        for span in lane.spans:
            x, right = (left + width * time / end for time in (span.start, span.end))
            bars.append(_bar(span, lane, seen, (x, y, right - x, high)))
        y += high + GAP
    for tick in ticks(0, end, 11):
        x = left + width * tick / end
        grid.append(line(x, 0, x, y))
        bars.append(_time(tick, x, y + 13, canvas.width))
    return Drawing((*grid, *bars), y + AXIS - 4)


def _tall(canvas: Canvas, rows: Sequence[Lane], seen: Sequence[int], end: float) -> Drawing:
    step = (canvas.width - SCALE) / len(rows)
    names = [_name(lane, rows) for lane in rows]
    widest = max(width_of(name, FONT) for name in names)
    head = HEAD if widest <= step - 4 else min(widest + 8, HIGHEST_HEAD)
    grid: list[Markup] = []
    bars: list[Markup] = []
    for number, lane in enumerate(rows):
        x, width = SCALE + number * step, step - 4
        bars.append(_heading(names[number], x, width, head))
        grid.append(tag("rect", x=x, y=head, width=width, height=TALL, class_="lane"))
        for span in lane.spans:
            y, bottom = (head + TALL * time / end for time in (span.start, span.end))
            bars.append(_bar(span, lane, seen, (x, y, width, bottom - y)))
    for tick in ticks(0, end, 9):
        y = head + TALL * tick / end
        grid.append(line(SCALE - 4, y, canvas.width, y))
        text = "0 ms" if tick == 0 else plain_number(tick)
        bars.append(label(text, SCALE - 8, min(y + 4, head + TALL), anchor="end"))
    return Drawing((*grid, *bars), head + TALL + 4)


def _heading(name: str, x: float, width: float, head: float) -> Markup:
    """A column's name above it, upright where columns are too narrow."""
    if head == HEAD:
        return label(name, x, 11, kind="label strong")
    at = (x + width / 2 + 0.36 * FONT, head - 6)
    turn = f"rotate(-90 {at[0]:.2f} {at[1]:.2f})"
    return label(fitted(name, FONT, head - 8), *at, kind="label strong", turn=turn)


def _bar(
    span: Span, lane: Lane, seen: Sequence[int], box: tuple[float, float, float, float]
) -> Markup:
    """A span as a rectangle with its label, and more on hovering."""
    x, y, width, height = box
    told = f"{span.name}, frame {span.frame}: {ms(span.end - span.start)}, from {ms(span.start)}"
    shape = tag("rect", x=x, y=y, width=max(width, 1), height=max(height, 1), class_="span")
    written = _written(span, lane, box)
    return tag(
        "g", tag("title", told), shape, written, class_=f"f{seen.index(span.frame) % COLOURS}"
    )


def _written(span: Span, lane: Lane, box: tuple[float, float, float, float]) -> Markup:
    """A span's label inside it: its name across or upright, or without the track's, or nothing."""
    x, y, width, height = box
    middle, base = x + width / 2, y + height / 2 + 0.36 * FONT
    short = span.name.removeprefix(lane.track.partition(" (")[0]).strip()
    for text in (span.name, short):
        room = width_of(text, FONT) + 6
        if text and room <= width and height >= FONT + 3:
            return label(text, middle, base, anchor="middle", kind="label inside")
        if text and room <= height and width >= FONT + 3:
            turn = f"rotate(-90 {middle:.2f} {y + height / 2:.2f})"
            return label(text, middle, base, anchor="middle", kind="label inside", turn=turn)
    return Markup("")


def _name(lane: Lane, rows: Sequence[Lane]) -> str:
    """A lane's name; with its process where there are several."""
    several = len({row.process for row in rows}) > 1
    return f"{lane.process} {lane.track}" if several else lane.track


def _time(tick: float, x: float, y: float, right: float) -> Markup:
    text = f"{plain_number(tick)} ms" if tick == 0 else plain_number(tick)
    return label(text, x, y, anchor="end" if x > right - 16 else "middle")
