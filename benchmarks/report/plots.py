"""The report's charts: SVG by matplotlib that takes its colours and its font from the page.

Each chart is drawn twice, for a wide page and for a narrow one: text in an SVG shrinks with it, so
a drawing for a desktop cannot be read on a phone. The page's style sheet shows one of the two.

An artist whose `gid` is "class|text" becomes a group of that class, with the text as its tooltip.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import Bbox, IdentityTransform

from .trace import Lane, Span, frames, lanes
from .wording import MODES, digits, ms, rate, share

NARROW = 332.0  # width of the narrow drawings, in pixels
FRAME_COLOURS = 4  # the number of colours for frames in the style sheet
# Every colour is a placeholder, which the SVG replaces by a variable of the page's style sheet.
VARIABLES = (
    *("ink", "soft", "line", "lane", "accent", "late", "card", "on-frame"),
    *(f"f{number}" for number in range(FRAME_COLOURS)),
)
PLACE = {name: f"#0000{number:02x}" for number, name in enumerate(VARIABLES, start=1)}
FONT = 11.0
WIDEST = 0.64  # width of a character, as a share of the font's size, in DejaVu Sans, a wide font
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "figure.dpi": 72,
    "savefig.dpi": 72,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": FONT,
    "text.color": PLACE["soft"],
    "axes.facecolor": "none",
    "axes.edgecolor": PLACE["soft"],
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": PLACE["line"],
    "xtick.color": PLACE["soft"],
    "ytick.color": PLACE["soft"],
    "patch.linewidth": 0,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
STRONG: dict[str, Any] = {"weight": "bold", "color": PLACE["ink"]}
GRID: dict[str, Any] = {"color": PLACE["line"], "lw": 1, "zorder": 1.5}
UPRIGHT: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor", "va": "center_baseline"}
DOT = 7.0  # pixels around its centre that a dot of the roofline needs
# In degrees; to the right of a dot is best.
ANGLES = (0, 180, 30, 150, -30, -150, 60, 120, -60, -120, 90, -90)
SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

Result = Mapping[str, Any]
Point = tuple[float, float]
Dot = tuple[float, float, float | None]  # FLOP/byte, GFLOP/s, share of the limit
Place = tuple[Bbox, Point, bool]  # label, its point next to the dot, whether a line joins them
Draw = Callable[[bool], Figure]


def histogram(name: str, modes: Result) -> Markup | None:
    """Returns how many frames took how long, a row for each mode that has samples; None without."""
    held = {mode: modes[mode] for mode in MODES if modes.get(mode, {}).get("samples_ms")}
    if not held:
        return None
    said = "; ".join(f"{mode}: {_quantiles(of)}" for mode, of in held.items())
    return _chart(name, "Frame times", said, lambda narrow: _histogram(held, narrow))


def timeline(name: str, spans: Sequence[Result]) -> Markup | None:
    """Returns what each track does when, a colour for each frame; None without spans."""
    rows = lanes(spans)
    if not rows:
        return None
    seen = frames(spans)
    end = max(span.end for lane in rows for span in lane.spans) or 1.0
    title = f"Timeline: {len(seen)} frames overlapped on {len(rows)} tracks, {ms(end)}"
    said = "; ".join(f"{_lane_name(lane, rows)}: {len(lane.spans)} spans" for lane in rows)

    def draw(narrow: bool) -> Figure:
        return (_tall_timeline if narrow else _wide_timeline)(rows, seen, end)

    return _chart(name, title, said, draw)


def roofline(name: str, held: Result) -> Markup | None:
    """Returns what each graph reaches under what the device can do, on two logarithmic axes.

    The roof is min(rate, bandwidth * intensity), after Williams, Waterman and Patterson, "Roofline:
    an insightful visual performance model", 2009. None where no graph was timed, or a rate is not
    known.
    """
    dots = {
        graph: (work["gflop"] / work["gbyte"], 1e3 * work["gflop"] / took, work.get("share"))
        for graph, work in held["graphs"].items()
        if (took := work.get("measured_ms")) and work["gflop"] and work["gbyte"]
    }
    gflops, gbps = held["rates"]["gflops"], held["rates"]["copy_gbps"]
    if not dots or not gflops or not gbps:
        return None
    said = "; ".join(
        f"{graph}: {digits(intensity)} FLOP/byte, {rate(reached)}, {share(part)} of its limit"
        for graph, (intensity, reached, part) in dots.items()
    )
    title = "Roofline: each graph under its limit"
    return _chart(name, title, said, lambda narrow: _roofline(dots, gflops, gbps, narrow))


def _chart(name: str, title: str, description: str, draw: Draw) -> Markup:
    """Returns both drawings of a chart, which share a `name` that is unique on the page."""
    made = []
    for kind in ("wide", "narrow"):
        salt = {"svg.hashsalt": f"{name}-{kind}"}
        with style.context(["default", STYLE | salt]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the page's font draws it, not matplotlib's
            file = io.StringIO()
            draw(kind == "narrow").savefig(file, format="svg", metadata={"Date": None})
        svg = _for_page(ElementTree.fromstring(file.getvalue()))
        ids = (f"{name}-{kind}-title", f"{name}-{kind}-desc")
        for number, (tag, text) in enumerate((("title", title), ("desc", description))):
            entry = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": ids[number]})
            entry.text = _printable(text)
            svg.insert(number, entry)
        svg.attrib |= {"class": f"chart {kind}", "role": "img", "aria-labelledby": " ".join(ids)}
        made.append(ElementTree.tostring(svg, encoding="unicode"))
    return Markup("".join(made))


def _for_page(svg: ElementTree.Element) -> ElementTree.Element:
    """Returns the drawing without what would clash on a page, with the page's colours."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    for part in [*svg]:
        if part.tag == f"{{{SVG}}}metadata" or part.find(f"{{{SVG}}}style") is not None:
            svg.remove(part)
    values = " ".join(value for element in svg.iter() for value in element.attrib.values())
    used = set(re.findall(r"#([^)\" ]+)", values))
    for element in svg.iter():
        name = element.attrib.pop("id", "")
        kind, bar, tip = name.partition("|")
        if bar:
            element.set("class", kind)
        elif name in used:
            element.set("id", name)
        if tip:
            title = ElementTree.Element(f"{{{SVG}}}title")
            title.text = tip
            element.insert(0, title)
        element.text, element.tail = ((text or "").strip() for text in (element.text, element.tail))
        if colours := element.get("style"):
            element.set("style", re.sub(r"#0000([0-9a-f]{2})", _variable, colours))
    for side in ("width", "height", "version"):
        svg.attrib.pop(side, None)
    return svg


def _variable(found: re.Match[str]) -> str:
    return f"var(--{VARIABLES[int(found[1], 16) - 1]})"


def _printable(text: str) -> str:
    """Returns the text without what XML cannot hold, on one line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width / 72, height / 72))


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Adds axes in a place that is given in pixels from the upper left corner."""
    across, down = 72 * figure.get_figwidth(), 72 * figure.get_figheight()
    place = (left / across, 1 - (top + height) / down, width / across, height / down)
    return figure.add_axes(place)


def _histogram(modes: Result, narrow: bool) -> Figure:
    head, bars, gap, foot, side = 18.0, 56.0, 14.0, 22.0, 12.0
    row = head + bars + gap
    width = NARROW if narrow else 560.0
    low, high = _range(modes)
    figure = _figure(width, len(modes) * row - gap + foot)
    for number, (name, mode) in enumerate(modes.items()):
        axes = _axes(figure, side, number * row + head, width - 2 * side, bars)
        samples = np.clip(np.asarray(mode["samples_ms"], dtype=float), low, high)
        counts, edges = np.histogram(samples, bins=30 if narrow else 48, range=(low, high))
        step = edges[1] - edges[0]
        for count, edge in zip(counts, edges, strict=False):
            if count:
                box = Rectangle((edge + 0.05 * step, 0), 0.9 * step, count, fc=PLACE["accent"])
                axes.add_patch(box)
                box.set(gid="bar|", alpha=0.8, clip_on=False)
        axes.set(xlim=(low, high), ylim=(0, max(counts.max(), 1)), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 8, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: _number(value))
        axes.tick_params(labelbottom=number == len(modes) - 1)
        axes.grid(axis="x")
        for quantile, colour in (("p50", "ink"), ("p95", "late")):
            at = min(mode["frame_ms"][quantile], high)
            axes.axvline(at, color=PLACE[colour], lw=2, ls=(0, (2, 1.5)), clip_on=False)
        above: dict[str, Any] = {"y": 1 + 7 / bars, "transform": axes.transAxes}
        outside = side / (width - 2 * side)
        axes.text(-outside, s=name, **above, **STRONG)
        axes.text(1 + outside, s=_quantiles(mode), ha="right", **above)
    return figure


def _range(modes: Result) -> tuple[float, float]:
    """Returns the axis' ends: fastest frame and slowest that is not far off, with some room."""
    low = min(min(mode["samples_ms"]) for mode in modes.values())
    high = max(
        min(max(mode["samples_ms"]), 1.5 * mode["frame_ms"]["p99"]) for mode in modes.values()
    )
    room = max(0.03 * (high - low), 0.005 * high, 1e-6)
    return max(low - room, 0.0), high + room


def _quantiles(mode: Result) -> str:
    frame = mode["frame_ms"]
    return f"p50 {digits(frame['p50'])}, p95 {digits(frame['p95'])}, max {ms(frame['max'])}"


def _number(value: float) -> str:
    """Returns a tick's label: 0.01, 0.5, 20, 1000, 20k, 5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / min(unit, 1e3 if name == 'k' else unit):g}{name}"
    return f"{value:.6g}"


def _wide_timeline(rows: Sequence[Lane], seen: Sequence[int], end: float) -> Figure:
    """Draws the timeline with time to the right and a row a lane, below its process if several."""
    width, right, gap, heading = 1130.0, 1118.0, 8.0, 20.0
    high = 64.0 if len(rows) <= 6 else 34.0  # room for upright labels, unless there are many
    left = min(max(max(_width(lane.track) for lane in rows) + 12, 70.0), 190.0)
    processes = [*dict.fromkeys(lane.process for lane in rows)]
    named = processes if len(processes) > 1 else []
    bottom = len(rows) * (high + gap) + len(named) * heading
    figure, axes = _canvas(width, bottom + 22)
    scale, y = (right - left) / end, 0.0
    for tick in _ticks(end, 11):
        x = left + scale * tick
        axes.plot((x, x), (0, bottom), **GRID)
        axes.text(x, bottom + 14, _number(tick), ha="center")
    for lane in rows:
        if lane.process in named:
            named.remove(lane.process)
            axes.text(0, y + 12, _fitted(lane.process, width), **STRONG)
            y += heading
        axes.text(0, y + high / 2, _fitted(lane.track, left - 12), va="center_baseline")
        axes.add_patch(Rectangle((left, y), right - left, high, fc=PLACE["lane"]))
        for span in lane.spans:
            at, long = left + scale * span.start, scale * (span.end - span.start)
            _bar(axes, span, lane, seen, (at, y, long, high))
        y += high + gap
    return figure


def _tall_timeline(rows: Sequence[Lane], seen: Sequence[int], end: float) -> Figure:
    """Draws the timeline with time downwards and a column a lane: labels fit on a narrow page."""
    tall, left = 620.0, 44.0
    step, names = (NARROW - left) / len(rows), [_lane_name(lane, rows) for lane in rows]
    widest = max(map(_width, names))
    upright = widest > step - 4
    head, scale = min(widest + 8, 130.0) if upright else 20.0, tall / end
    figure, axes = _canvas(NARROW, head + tall + 6)
    for tick in _ticks(end, 9):
        y = head + scale * tick
        axes.plot((left - 4, NARROW), (y, y), **GRID)
        axes.text(left - 8, y, _number(tick), ha="right", va="center_baseline")
    for number, (lane, name) in enumerate(zip(rows, names, strict=True)):
        x, wide = left + number * step, step - 4
        if upright:
            axes.text(x + wide / 2, head - 6, _fitted(name, head - 8), **UPRIGHT, **STRONG)
        else:
            axes.text(x, 11, name, **STRONG)
        axes.add_patch(Rectangle((x, head), wide, tall, fc=PLACE["lane"]))
        for span in lane.spans:
            at, long = head + scale * span.start, scale * (span.end - span.start)
            _bar(axes, span, lane, seen, (x, at, wide, long))
    return figure


def _ticks(end: float, most: int) -> list[float]:
    """Returns round numbers from 0 to the end."""
    found = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(0, end)
    return [float(tick) for tick in found if 0 <= tick <= end]


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Adds axes over the whole figure, in pixels from the upper left corner."""
    figure = _figure(width, height)
    axes = _axes(figure, 0, 0, width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def _bar(axes: Axes, span: Span, lane: Lane, seen: Sequence[int], box: tuple[float, ...]) -> None:
    """Draws a span with its tip and label: across, else upright, else without the track's name."""
    x, y, width, height = box
    tip = f"{span.name}, frame {span.frame}: {ms(span.end - span.start)}, from {ms(span.start)}"
    colour = PLACE[f"f{seen.index(span.frame) % FRAME_COLOURS}"]
    shape = Rectangle((x, y), max(width, 1), max(height, 1), fc=colour, ec=PLACE["lane"])
    axes.add_patch(shape)
    edge = 1 if min(width, height) > 3 else 0  # an edge would hide a narrow span
    shape.set(gid=f"span|{_printable(tip)}", lw=edge, zorder=3, clip_on=False)
    across, down = x + width / 2, y + height / 2
    drawn: dict[str, Any] = {"color": PLACE["on-frame"], "gid": "inside|", "zorder": 3}
    for text in (span.name, span.name.removeprefix(lane.track.partition(" (")[0]).strip()):
        room = _width(text) + 6
        if text and room <= width and height >= FONT + 3:
            axes.text(across, down, _printable(text), ha="center", va="center_baseline", **drawn)
            return
        if text and room <= height and width >= FONT + 3:
            axes.text(across, down, _printable(text), ha="center", **UPRIGHT, **drawn)
            return


def _lane_name(lane: Lane, rows: Sequence[Lane]) -> str:
    """Returns a lane's name; with its process where there are several."""
    several = len({row.process for row in rows}) > 1
    return _printable(f"{lane.process} {lane.track}" if several else lane.track)


def _width(text: str) -> float:
    """Returns the most that a text may be wide: the page's fonts are not known here."""
    return WIDEST * FONT * sum(2 if ord(letter) > 0x2E80 else 1 for letter in text)


def _fitted(text: str, width: float) -> str:
    """Returns the text, cut with an ellipsis to the width; empty where not two letters fit."""
    if _width(text) > width:
        letters = int(width / (WIDEST * FONT)) - 1
        text = f"{text[:letters].rstrip()}\u2026" if letters >= 2 else ""
    return _printable(text)


def _roofline(dots: Mapping[str, Dot], gflops: float, gbps: float, narrow: bool) -> Figure:
    left, right, top, bottom = 50.0, 12.0, 24.0, 42.0
    width, height = (NARROW, 352.0) if narrow else (560.0, 520.0)
    ridge = gflops / gbps
    across = _decades([ridge, *(dot[0] for dot in dots.values())], 2.0)
    up = _decades([gflops, *(dot[1] for dot in dots.values())], 2.2)
    figure = _figure(width, height)
    axes = _axes(figure, left, top, width - left - right, height - top - bottom)
    axes.set(xscale="log", yscale="log", xlim=across, ylim=up)
    for axis, (low, high) in ((axes.xaxis, across), (axes.yaxis, up)):
        subs = (1, 2, 5) if high / low < 300 else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_major_formatter(lambda value, _: _number(value))
    axes.minorticks_off()
    axes.grid()
    in_pixels = IdentityTransform()
    axes.text(0, height - 10, "GFLOP/s", transform=in_pixels)
    axes.text(width - right, 8, "FLOP per byte", ha="right", transform=in_pixels)
    start = max(across[0], up[0] / gbps)
    roof = ((start, ridge, across[1]), (gbps * start, gflops, gflops))
    axes.plot(*roof, color=PLACE["late"], lw=2.5, clip_on=False)
    end, peak = axes.transData.transform((across[1], gflops))
    axes.text(end, peak + 7, rate(gflops), ha="right", transform=in_pixels, **STRONG)
    _label_dots(axes, dots, Bbox.from_extents(left + 2, bottom + 2, width - right, peak - 8))
    for name, (intensity, reached, part) in dots.items():
        limit = min(gbps * intensity, gflops)
        stem: dict[str, Any] = {"color": PLACE["accent"], "lw": 1, "ls": (0, (2, 3)), "alpha": 0.8}
        axes.plot((intensity, intensity), (reached, limit), clip_on=False, **stem)
        tip = _printable(f"dot|{name}: {share(part)} of its limit")
        (dot,) = axes.plot(intensity, reached, "o", ms=10, color=PLACE["accent"], gid=tip)
        dot.set(mec=PLACE["card"], mew=1.5, zorder=3, clip_on=False)
    return figure


def _label_dots(axes: Axes, dots: Mapping[str, Dot], inside: Bbox) -> None:
    """Writes names next to their dots, further away with a line where there is no room."""
    in_pixels = IdentityTransform()
    centres: list[Point] = [
        tuple(axes.transData.transform(dot[:2]).tolist()) for dot in dots.values()
    ]
    places = _places([*dots], centres, inside)
    for name, (x, y), (box, near, far) in zip(dots, centres, places, strict=True):
        drawn: dict[str, Any] = {"color": PLACE["ink"], "gid": "halo|", "zorder": 4}
        axes.text(box.x0, box.y0 + 3, _printable(name), transform=in_pixels, **drawn)
        if far:
            leader = Line2D((x, near[0]), (y, near[1]), color=PLACE["soft"], lw=1)
            axes.add_artist(leader)
            leader.set(transform=in_pixels, clip_on=False)


def _decades(values: Sequence[float], room: float) -> tuple[float, float]:
    """Returns the axis' ends: below the smallest and above the largest, a decade apart or more."""
    low, high = min(values) / room, max(values) * room
    return (low / 2, high * 1.6) if high / low < 20 else (low, high)


def _places(names: Sequence[str], dots: Sequence[Point], inside: Bbox) -> list[Place]:
    """Returns where labels cover neither each other nor a dot; by its dot where nothing is free."""
    taken = [Bbox.from_extents(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in dots]
    found: list[Place] = []
    for name, dot in zip(names, dots, strict=True):
        tried = [
            _place(dot, _width(name), ring, math.radians(angle))
            for ring in range(60)
            for angle in ANGLES
        ]
        chosen = next((place for place in tried if _is_free(place[0], inside, taken)), tried[0])
        taken.append(chosen[0])
        found.append(chosen)
    return found


def _place(dot: Point, width: float, ring: int, angle: float) -> Place:
    """Returns the label whose nearest point lies on a ring around the dot, at an angle."""
    radius, height = DOT + 4 + 6 * ring, FONT + 4
    x, y = dot[0] + radius * math.cos(angle), dot[1] + radius * math.sin(angle)
    left = x - width * (1 - math.cos(angle)) / 2
    low = y - height * (1 - math.sin(angle)) / 2
    return Bbox.from_bounds(left, low, width, height), (x, y), ring >= 3


def _is_free(box: Bbox, inside: Bbox, taken: Sequence[Bbox]) -> bool:
    if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1:
        return False
    return not box.count_overlaps(taken)
