"""The trace: every event as the format has it, tracks named, nothing overlapping on one track."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.benchmarks.report.trace import lanes, write_trace
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.benchmarks.report.sample import live_sample, sample

FIELDS = {
    "M": {"ph", "name", "pid", "tid", "ts", "args"},
    "X": {"ph", "name", "cat", "pid", "tid", "ts", "dur", "cname", "args"},
}
METADATA = {
    "process_name": {"name": str},
    "process_sort_index": {"sort_index": int},
    "thread_name": {"name": str},
    "thread_sort_index": {"sort_index": int},
}

Event = dict[str, Any]


def span(track: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    named = {"track": track, "process": "engine", "name": "flow", "frame": 0}
    return {**named, "start_ms": start, "end_ms": end, **more}


def written(result: dict[str, Any], folder: Path) -> list[Event]:
    path = folder / "deep" / "trace.json"
    write_trace(result, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [file.name for file in path.parent.iterdir()] == ["trace.json"]
    assert set(content) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert content["displayTimeUnit"] in ("ms", "ns")
    return list(content["traceEvents"])


def check(events: list[Event]) -> None:
    """Checks what the format and Perfetto's importer require of every event."""
    for event in events:
        assert set(event) == FIELDS[event["ph"]]
        assert all(type(event[key]) is int for key in ("pid", "tid", "ts"))
        if event["ph"] == "M":
            fields = METADATA[event["name"]]
            assert {key: type(value) for key, value in event["args"].items()} == fields
        else:
            assert type(event["dur"]) is int and event["dur"] >= 0 and event["ts"] >= 0
            assert event["name"] and type(event["args"]["frame"]) is int
    for track in tracks(events).values():
        assert track == sorted(track, key=lambda event: event["ts"])
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(track))
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert set(tracks(events)) == named
    assert {e["pid"] for e in events} == {e["pid"] for e in events if e["name"] == "process_name"}


def tracks(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    found: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        if event["ph"] == "X":
            found.setdefault((event["pid"], event["tid"]), []).append(event)
    return found


def names(events: list[Event], what: str) -> list[str]:
    return [event["args"]["name"] for event in events if event["name"] == what]


@pytest.mark.parametrize("gpu", [False, True])
def test_a_track_a_stream_and_every_span_in_microseconds(tmp_path: Path, gpu: bool) -> None:
    result = sample(gpu=gpu)
    events = written(result, tmp_path)
    check(events)
    first = result["subjects"][0]
    assert names(events, "process_name") == [f"engine: {first['id']}"]
    assert names(events, "thread_name") == ["input", "denoise", "output"]
    found = sorted((e["name"], e["args"]["frame"], e["ts"], e["dur"]) for e in events if "dur" in e)
    assert found == sorted(
        (
            s["name"],
            s["frame"],
            start := round(1e3 * s["start_ms"]),
            round(1e3 * s["end_ms"]) - start,
        )
        for s in first["timeline"]
    )


def test_a_frame_has_one_colour_and_the_next_another(tmp_path: Path) -> None:
    colours: dict[int, set[str]] = {}
    for event in written(sample(), tmp_path):
        if event["ph"] == "X":
            colours.setdefault(event["args"]["frame"], set()).add(event["cname"])
    assert sorted(colours) == [12, 13, 14]
    assert all(len(held) == 1 for held in colours.values())
    assert len(set.union(*colours.values())) == 3


def test_every_subject_and_process_is_a_process_of_its_own(tmp_path: Path) -> None:
    result = sample()
    result["subjects"][1]["timeline"] = [
        span("demuxer", 0.0, 1.0, process="decoder"),
        span("input", 1.0, 3.0),
        span("encoder", 3.0, 4.0, process="encoder"),
        span("denoise", 3.0, 9.0),
    ]
    events = written(result, tmp_path)
    check(events)
    second = result["subjects"][1]["id"]
    others = [f"{process}: {second}" for process in ("decoder", "engine", "encoder")]
    assert names(events, "process_name")[1:] == others
    assert names(events, "thread_name")[3:] == ["demuxer", "input", "denoise", "encoder"]


def test_spans_that_overlap_get_a_further_track(tmp_path: Path) -> None:
    result = sample()
    result["subjects"] = [{**result["subjects"][0], "timeline": []}]
    result["subjects"][0]["timeline"] = [
        span("input", 0.0, 5.0),
        span("input", 4.0, 6.0),
        span("input", 4.999, 7.0),  # within rounding: next to the first
        span("input", 8.0, 8.0),
    ]
    events = written(result, tmp_path)
    check(events)
    assert names(events, "thread_name") == ["input", "input (2)"]
    assert [[e["ts"] for e in track] for track in tracks(events).values()] == [
        [0, 5000, 8000],
        [4000],
    ]


def test_lanes_of_one_process_stay_together() -> None:
    rows = lanes(
        [
            span("a", 0, 1),
            span("x", 1, 2, process="other"),
            span("b", 2, 3),
            span("a", 1, 2),
        ]
    )
    assert [(row.process, row.track, len(row.spans)) for row in rows] == [
        ("engine", "a", 2),
        ("engine", "b", 1),
        ("other", "x", 1),
    ]


def test_without_a_timeline_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="no file was run for its timeline"):
        write_trace(live_sample(), tmp_path / "trace.json")
    assert not list(tmp_path.iterdir())


def test_where_it_cannot_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StreamDiffVSRError, match="cannot write"):
        write_trace(sample(), tmp_path / "file" / "trace.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StreamDiffVSRError, match="cannot write"):
        write_trace(sample(), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
