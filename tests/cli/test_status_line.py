"""Tests what a running command shows, at a terminal and in a pipe."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.cells import cell_len

from streamdiffvsr.cli.live_status import Reporter, in_one_line

STATUS: dict[str, Any] = {
    "size": "640x360",
    "fps_in": 30.0,
    "fps_out": 14.9,
    "latency_ms": {"p50": 41.2, "p95": 55.0},
    "rung": "flow 1/2",
    "note": "",
    "dropped": 12,
    "resets": {"cut": 1, "reconnect": 2},
    "source": {"state": "waiting", "reconnects": 2, "error": "no answer"},
    "sinks": [{"name": "out.mkv", "error": "the disk is full"}, {"name": "null", "error": ""}],
}


def test_one_line_has_what_matters() -> None:
    line = in_one_line(STATUS)
    assert line.startswith("waiting, 640x360 at 30.0 fps -> 14.9 fps, 41 ms (p95 55), flow 1/2")
    for part in (
        "12 dropped",
        "2 reconnects",
        "3 resets",
        "no answer",
        "out.mkv: the disk is full",
    ):
        assert part in line
    assert "\n" not in line


def test_nothing_is_made_up_before_the_first_frame() -> None:
    start = {**STATUS, "size": None, "latency_ms": {"p50": None, "p95": None}, "sinks": []}
    assert "fps" not in in_one_line(start) and "ms" not in in_one_line(start)


@pytest.mark.parametrize("width", [30, 60, 79, 100, 119, 140, 200])
def test_where_there_is_no_room_what_matters_least_goes_first(width: int) -> None:
    line = in_one_line(STATUS, width)
    assert len(line) <= width
    assert line.startswith("waiting, 640x360 at 30.0 fps"[:width])
    whole = in_one_line(STATUS)
    gone = [part for part in whole.split(", ") if part not in line and "…" not in line]
    assert gone == [
        p
        for p in ("41 ms (p95 55)", "flow 1/2", "12 dropped", "2 reconnects", "3 resets")
        if p in gone
    ]
    for less, more in (
        ("3 resets", "12 dropped"),
        ("12 dropped", "flow 1/2"),
        ("flow 1/2", "41 ms"),
    ):
        assert less not in line or more in line
    assert width < 100 or "out.mkv: the disk is full" in line


def test_a_name_of_wide_letters_takes_two_cells_each() -> None:
    sinks = [{"name": "監視カメラ録画.mkv", "error": "満杯" * 20}]
    assert cell_len(in_one_line({**STATUS, "sinks": sinks}, 79)) <= 79


def test_a_stuck_engine_is_on_the_line_at_eighty_columns() -> None:
    note = "engine stuck for 12 s, bicubic"
    source = {"state": "playing", "reconnects": 2, "error": ""}
    line = in_one_line({**STATUS, "source": source, "sinks": [], "note": note}, 79)
    assert note in line and "640x360" in line


def test_a_pipe_gets_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(as_json=False)
    reporter.tell("reconnecting")
    reporter.show(STATUS)
    reporter.show(STATUS)  # within the same second
    reporter.end("stopped", STATUS)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["message", "status", "end"]
    assert lines[0]["text"] == "reconnecting" and lines[2]["reason"] == "stopped"


def test_a_terminal_gets_one_line_that_renews_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    reporter = Reporter(as_json=False)
    reporter.show(STATUS)
    reporter.show(STATUS)
    reporter.end("time", STATUS)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1  # the last line alone stays
    assert all(len(part.split("\x1b[K")[-1]) < 80 for part in shown.err.split("\r")[:-1])
    assert shown.err.splitlines()[-1].split("\x1b[K")[-1].startswith("the time is up: waiting")
