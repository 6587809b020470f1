"""The timeline as a trace that Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

Chrome's JSON trace format: a process for each process of each subject, a thread for each lane.
Perfetto colours by name and leaves `cname` alone on purpose
(https://github.com/google/perfetto/issues/208); chrome://tracing shows it, one colour a frame.

Within a lane nothing overlaps. A stream runs one thing at a time, but times taken on two clocks, or
a thread that waits inside a span, may overlap all the same. Viewers of traces show such spans
wrongly, so they get a further lane of the same track.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError
from .files import write_text

ROUNDING_MS = 0.002  # an end may be this much after the next start, by rounding
# Names of colours that chrome://tracing knows, and that are easy to distinguish.
COLOURS = ("rail_response", "rail_load", "rail_animation", "thread_state_iowait")

Event = dict[str, Any]


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
    """Returns the lanes, those of a process together, otherwise in the order in which they begin.

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
    """Returns the indices of the frames, ascending."""
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


def write_trace(result: Mapping[str, Any], path: str | Path) -> None:
    """Writes the trace of every subject that has a timeline.

    Raises:
        StreamDiffVSRError: No subject has one, or the file cannot be written.
    """
    content = trace(result)
    if not content["traceEvents"]:
        why = "no file was run for its timeline (an odd size cannot be encoded)"
        raise StreamDiffVSRError(f"cannot write the trace {path}", why)
    write_text(path, json.dumps(content, indent=1))


def trace(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the trace as an object. Times in µs; `args.frame` is the frame's index."""
    events: list[Event] = []
    process_id = 0
    for subject in result["subjects"]:
        by_process: dict[str, list[Lane]] = {}
        for lane in lanes(subject.get("timeline") or ()):
            by_process.setdefault(lane.process, []).append(lane)
        for process, held in by_process.items():
            process_id += 1
            events += _process(process_id, f"{process}: {subject['id']}", held)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"schema": result["schema"], "created": result["created"]},
    }


def _process(process_id: int, name: str, held: list[Lane]) -> list[Event]:
    events = [_named("process_name", process_id, 0, name=name)]
    events.append(_named("process_sort_index", process_id, 0, sort_index=process_id))
    for thread_id, lane in enumerate(held, start=1):
        events.append(_named("thread_name", process_id, thread_id, name=lane.track))
        events.append(_named("thread_sort_index", process_id, thread_id, sort_index=thread_id))
        events += _spans(process_id, thread_id, lane)
    return events


def _named(what: str, process_id: int, thread_id: int, **args: Any) -> Event:
    """Returns a metadata event."""
    return {"ph": "M", "name": what, "pid": process_id, "tid": thread_id, "ts": 0, "args": args}


def _spans(process_id: int, thread_id: int, lane: Lane) -> list[Event]:
    """Returns complete events, of which the ends are rounded: so neighbours stay apart."""
    events = []
    for span in lane.spans:
        start, end = round(1000 * span.start), round(1000 * span.end)
        events.append(
            {
                "ph": "X",
                "name": span.name,
                "cat": "stage",
                "pid": process_id,
                "tid": thread_id,
                "ts": start,
                "dur": end - start,
                "cname": COLOURS[span.frame % len(COLOURS)],
                "args": {"frame": span.frame},
            }
        )
    return events
