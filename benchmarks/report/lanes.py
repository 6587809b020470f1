"""A timeline sorted into lanes: within one, nothing overlaps.

A stream runs one thing at a time, but times taken on two clocks, or a thread that waits inside a
span, may overlap all the same. Viewers of traces show such spans wrongly, so they get a further
lane of the same track.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ROUNDING_MS = 0.002  # what an end may lie after the next start: times are rounded


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work; times in ms since the first of the timeline."""

    name: str
    frame: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Lane:
    """Spans of one track, in order and apart."""

    process: str
    track: str
    spans: tuple[Span, ...]


def lanes(timeline: Iterable[Mapping[str, Any]]) -> list[Lane]:
    """The lanes, those of a process together, otherwise in the order in which they begin.

    A track of which spans overlap is several lanes: `name`, `name (2)` and so on.
    """
    rows: dict[tuple[str, str], list[list[Span]]] = {}
    for entry in sorted(timeline, key=lambda span: (span["start_ms"], span["end_ms"])):
        place = rows.setdefault((entry["process"], entry["track"]), [])
        _put(entry, place)
    processes = list(dict.fromkeys(process for process, _ in rows))
    return [
        Lane(process, track if number == 1 else f"{track} ({number})", tuple(spans))
        for (process, track), held in sorted(rows.items(), key=lambda i: processes.index(i[0][0]))
        for number, spans in enumerate(held, start=1)
    ]


def frames(timeline: Iterable[Mapping[str, Any]]) -> list[int]:
    """The indices of the frames, ascending."""
    return sorted({span["frame"] for span in timeline})


def _put(entry: Mapping[str, Any], place: list[list[Span]]) -> None:
    start, end = entry["start_ms"], max(entry["start_ms"], entry["end_ms"])
    for row in place:
        if start >= row[-1].end - ROUNDING_MS:
            start = max(start, row[-1].end)
            break
    else:
        place.append(row := [])
    row.append(Span(entry["name"], entry["frame"], start, max(start, end)))
