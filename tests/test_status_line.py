"""What a running command shows, at a terminal and in a pipe."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamdiffvsr.status_line import Reporter, in_one_line

STATUS: dict[str, Any] = {
    "size": "640x360",
    "fps_in": 30.0,
    "fps_out": 14.9,
    "latency_ms": {"p50": 41.2, "p95": 55.0},
    "rung": "flow 1/2",
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
    assert shown.err.splitlines()[-1].split("\x1b[K")[-1].startswith("the time is up: waiting")
