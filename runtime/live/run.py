"""Runs a session as a program does: with signals, a time limit, and a certain end.

Even if an engine, a camera or a sink is blocked, everything is closed within `END_S` of the
request to stop, files finished first.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...errors import StreamDiffVSRError
from .engine_pool import EnginePool
from .frame import Sink
from .session import LiveSession, Source

END_S = 5.0
_LOOP_S, _SINKS_S, _CLOSE_S = 1.0, 3.0, 3.5  # of it: the current frame, a sink, all closing
_TICK_S = 0.25


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a session.

    Attributes:
        reason: "stopped", "time", "frames", "source" (the source ended), or "failed".
        error: The error that made it fail, or None.
        stuck: Whether a thread is still in an engine or its build: the process cannot end as usual.
    """

    reason: str
    error: StreamDiffVSRError | None = None
    stuck: bool = False


def run_session(
    session: LiveSession,
    source: Source,
    shelf: EnginePool,
    max_seconds: float | None = None,
    max_frames: int | None = None,
    show: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Ended:
    """Runs a session until it ends, a limit is reached, or Ctrl-C or SIGTERM asks to stop.

    Args:
        show: Receives the session's status four times a second.
    """
    stop = threading.Event()
    loop = _Loop(session, stop, max_frames)
    until = None if max_seconds is None else time.monotonic() + max_seconds
    reason = "stopped"
    with _signals_set(stop):
        loop.start()
        while not loop.done.wait(_TICK_S) and not stop.is_set():
            show(session.status())
            if until is not None and time.monotonic() > until:
                reason = "time"
                break
            if error := _nothing_left(session.sinks):
                loop.error, reason = error, "failed"
                break
        stop.set()
        loop.done.wait(_LOOP_S)
        _close(session.sinks, source, shelf)
        stuck = session.stuck_s > 0 or not loop.done.is_set()
        if not stuck:  # else an engine is at work, and its memory must stay
            stuck = shelf.close()
    if loop.error is not None:
        return Ended("failed", loop.error, stuck)
    return Ended(loop.reason or reason, None, stuck)


class _Loop:
    """Runs the session in a thread, so that the main thread is always free for signals."""

    def __init__(self, session: LiveSession, stop: threading.Event, max_frames: int | None) -> None:
        self.done = threading.Event()
        self.error: StreamDiffVSRError | None = None
        self.reason = ""
        self._session, self._stop, self._max_frames = session, stop, max_frames

    def start(self) -> None:
        threading.Thread(target=self._run, name="live", daemon=True).start()

    def _run(self) -> None:
        try:
            source_ended = self._session.run(self._stop, max_frames=self._max_frames)
            if not self._stop.is_set():
                self.reason = "source" if source_ended else "frames"
        except StreamDiffVSRError as error:
            self.error = error
        except Exception as error:  # a thread's own end would go unseen
            self.error = StreamDiffVSRError(
                "the live session failed", f"{type(error).__name__}: {error}", "please report it"
            )
        finally:
            self.done.set()


def _nothing_left(sinks: list[Sink]) -> StreamDiffVSRError | None:
    """Returns an error if every sink has failed for good."""
    found = [sink.status() for sink in sinks]
    if not found or any(status["state"] != "failed" for status in found):
        return None
    why = "; ".join(f"{status['name']}: {status['error']}" for status in found)
    return StreamDiffVSRError("no sink is left", why)


def _close(sinks: list[Sink], source: Source, shelf: EnginePool) -> None:
    """Closes the source and all sinks and ends builds, at once; does not wait for what is late."""
    closers = [threading.Thread(target=sink.close, args=(_SINKS_S,), daemon=True) for sink in sinks]
    closers.append(threading.Thread(target=source.close, daemon=True))
    closers.append(threading.Thread(target=shelf.stop_opening, args=(_SINKS_S,), daemon=True))
    for closer in closers:
        closer.start()
    until = time.monotonic() + _CLOSE_S
    for closer in closers:
        closer.join(max(0.0, until - time.monotonic()))


@contextmanager
def _signals_set(stop: threading.Event) -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM ask to stop; a second Ctrl-C ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
