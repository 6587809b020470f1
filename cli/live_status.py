"""Prints the messages and the status of a live session."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import typer
from rich.cells import cell_len, set_cell_size

EVERY_S = 1.0  # from one JSON status line to the next
_EARLY_S = 0.01  # by which one may come earlier, as clocks are read twice
_LEAST_FIRST = ("p95", "resets", "reconnects", "words", "dropped", "rung", "latency")


class Reporter:
    """Prints messages and the status of a session: one line at a terminal, else JSON lines.

    Methods may be called from any thread.

    Args:
        as_json: Whether to print JSON lines at a terminal too. The caller then prints the last one.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._lines = as_json or not sys.stdout.isatty()
        self._as_json = as_json
        self._lock = threading.Lock()
        self._shown_at = float("-inf")
        self._drawn = False

    def tell(self, line: str) -> None:
        """Prints a message, above the status line."""
        with self._lock:
            if self._lines:
                self._print({"event": "message", "text": line})
            else:
                self._wipe()
                typer.echo(line, err=True)

    def show(self, status: dict[str, Any]) -> None:
        """Shows the current status."""
        self._show(status, lambda width: in_one_line(status, width))

    def end(self, reason: str, status: dict[str, Any]) -> None:
        """Prints the last status and why the session ended."""
        self._end(reason, status, in_one_line(status))

    def _show(self, status: dict[str, Any], in_line: Callable[[int], str]) -> None:
        with self._lock:
            now = time.monotonic()
            if not self._lines:
                self._wipe()
                width = shutil.get_terminal_size().columns - 1
                typer.echo(in_line(width), err=True, nl=False)
                self._drawn = True
            elif now - self._shown_at >= EVERY_S - _EARLY_S:
                self._shown_at = now
                self._print({"event": "status", **status})

    def _end(self, reason: str, status: dict[str, Any], line: str) -> None:
        with self._lock:
            if not self._lines:
                self._wipe()
                typer.echo(f"{ended(reason)}: {line}", err=True)
            elif not self._as_json:
                self._print({"event": "end", "reason": reason, **status})

    def _wipe(self) -> None:
        if self._drawn:
            typer.echo("\r\x1b[K", err=True, nl=False)
            self._drawn = False

    def _print(self, event: dict[str, Any]) -> None:
        typer.echo(json.dumps(event))


class ServeReporter(Reporter):
    """The same for a service: its status is a list with an entry for each camera."""

    def show(self, status: Any) -> None:
        """Shows the current status."""
        self._show({"cameras": status}, lambda width: cameras_in_one_line(status, width))

    def end(self, reason: str, status: Any) -> None:
        """Prints the last status and why the service ended."""
        self._end(reason, {"cameras": status}, cameras_in_one_line(status))


def cameras_in_one_line(cameras: list[dict[str, Any]], width: int | None = None) -> str:
    """Returns how many cameras play, and what the others do, in one line of text."""
    playing = [one for one in cameras if one["state"] == "playing"]
    fps = sum(one["fps_out"] or 0.0 for one in playing)
    parts = [f"{len(playing)} of {len(cameras)} cameras play, {fps:.1f} fps"]
    parts += [f"{one['name']} {one['state']}" for one in cameras if one not in playing]
    line = ", ".join(parts)
    if width is None or cell_len(line) <= width:
        return line
    return set_cell_size(line, width - 1).rstrip() + "…"


def ended(reason: str) -> str:
    """Returns a reason for the end of a session in words."""
    return {
        "time": "the time is up",
        "frames": "all frames are done",
        "source": "the source has ended",
    }.get(reason, reason)


def in_one_line(status: dict[str, Any], width: int | None = None) -> str:
    """Returns the status of a live session in one line of text.

    Args:
        width: The most terminal cells that it may take; None for no limit. A longer line first
            loses its least important parts and words, then its end.
    """
    parts = _parts(status)
    for least in _LEAST_FIRST:
        if width is None or cell_len(_joined(parts)) <= width:
            break
        _shorten(parts, least)
    line = _joined(parts)
    if width is None or cell_len(line) <= width:
        return line
    return set_cell_size(line, width - 1).rstrip() + "…"


def _shorten(parts: dict[str, str], least: str) -> None:
    """Takes the part that matters least out of the line, or the words that only explain a part."""
    if least == "p95":
        parts["latency"] = parts.get("latency", "").partition(" (")[0]
    elif least == "words":
        parts["rung"] = parts["rung"].replace(" % model", " %").replace("tiles/frame", "tiles")
    else:
        parts.pop(least, None)


def _parts(status: dict[str, Any]) -> dict[str, str]:
    """Returns the parts of a status line by name, in order; a part with nothing to say is empty."""
    source, latency = status["source"], status["latency_ms"]
    parts = {"state": source["state"]}
    if status["size"]:
        rate = f" at {status['fps_in']:.1f} fps" if status["fps_in"] else ""
        parts["rates"] = f"{status['size']}{rate} -> {status['fps_out']:.1f} fps"
    if latency["p50"] is not None:
        parts["latency"] = f"{latency['p50']:.0f} ms (p95 {latency['p95']:.0f})"
    parts["rung"] = "" if status["note"] else _how(status)  # a note replaces it
    for name, count in (
        ("dropped", status["dropped"]),
        ("reconnects", source["reconnects"]),
        ("resets", sum(status["resets"].values())),
    ):
        parts[name] = f"{count} {name}" if count else ""
    parts["note"] = status["note"]
    parts["source"] = source["error"] if source["state"] != "playing" else ""
    parts["sinks"] = ", ".join(f"{s['name']}: {s['error']}" for s in status["sinks"] if s["error"])
    return parts


def _joined(parts: dict[str, str]) -> str:
    return ", ".join(part for part in parts.values() if part)


def _how(status: dict[str, Any]) -> str:
    """Returns how frames are made, and how much of them by the model if not all is."""
    if not (adaptive := status.get("adaptive")):
        return str(status["rung"])
    share, tiles = 100 * adaptive["fresh"], adaptive["tiles_per_frame"]
    return f"{status['rung']}, {share:.0f} % model, {tiles:.1f} tiles/frame"
