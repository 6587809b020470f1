"""The timeline as a trace that Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

Chrome's JSON trace format: a process for each process of each subject, a thread for each track.
Perfetto colours by name and leaves `cname` alone on purpose
(https://github.com/google/perfetto/issues/208); chrome://tracing shows it, one colour a frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError
from .lanes import Lane, lanes
from .written import write_text

# Names that chrome://tracing knows, told apart well side by side.
COLOURS = ("rail_response", "rail_load", "rail_animation", "thread_state_iowait")

Event = dict[str, Any]


def write_trace(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the trace of every subject that has a timeline.

    Raises:
        StreamDiffVSRError: No subject has one, or the file cannot be written.
    """
    content = trace(result)
    if not content["traceEvents"]:
        why = "no file was run for its timeline (an odd size cannot be encoded)"
        raise StreamDiffVSRError(f"cannot write the trace {path}", why)
    write_text(path, json.dumps(content, indent=1))


def trace(result: Mapping[str, Any]) -> dict[str, Any]:
    """The trace as an object. Times in µs; `args.frame` is the frame's index."""
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
    """A metadata event."""
    return {"ph": "M", "name": what, "pid": process_id, "tid": thread_id, "ts": 0, "args": args}


def _spans(process_id: int, thread_id: int, lane: Lane) -> list[Event]:
    """Complete events. Starts and ends are rounded, not durations: so neighbours stay apart."""
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
