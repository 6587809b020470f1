"""The bar is shown only at a terminal."""

import io
import sys

import pytest

from streamdiffvsr.cli.progress import progress_bar


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest puts its own stderr in place between set-up and test."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return screen


def test_a_terminal_shows_count_speed_and_time_left(monkeypatch):
    screen = terminal(monkeypatch)
    with progress_bar("holiday [1].mp4") as progress:
        for done in range(1, 6):
            progress(done, 10)
    shown = screen.getvalue()
    assert "holiday [1].mp4" in shown
    assert "5/10 frames" in shown
    assert " fps" in shown
    assert ":" in shown.split("5/10 frames")[-1]


def test_an_unknown_total_and_one_that_was_too_low_are_shown_as_such(monkeypatch):
    screen = terminal(monkeypatch)
    with progress_bar("clip") as progress:
        progress(3, None)
    assert "3/? frames" in screen.getvalue()
    with progress_bar("clip") as progress:
        progress(12, 10)
    assert "12/12 frames" in screen.getvalue()


def test_beside_json_nothing_is_shown(monkeypatch):
    screen = terminal(monkeypatch)
    with progress_bar("clip", enabled=False) as progress:
        progress(1, 2)
    assert screen.getvalue() == ""


def test_in_a_pipe_nothing_is_shown(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("clip") as progress:
        progress(1, 2)
    assert stream.getvalue() == ""
