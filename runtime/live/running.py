"""Runs a live session as a program does: with signals, a time limit, and a certain end.

Even if an engine, a camera or a sink is blocked, everything is closed within `END_S` of the request
to stop, files finished first.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ...errors import StreamDiffVSRError
from .engine_pool import EnginePool
from .frame import Sink
from .session import LiveSession
from .source import LiveSource

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


Show = Callable[[dict[str, Any]], None]


def run_session(
    session: LiveSession,
    source: LiveSource,
    shelf: EnginePool,
    max_seconds: float | None = None,
    max_frames: int | None = None,
    show: Show = lambda _: None,
) -> Ended:
    """Runs a session until it ends, a limit is reached, or Ctrl-C or SIGTERM asks to stop.

    Args:
        show: Receives the session's status four times a second.
    """
    stop = threading.Event()
    with signals_set(stop):
        ended = run_until(
            stop,
            session,
            source,
            max_seconds,
            max_frames,
            show,
            end_builds=shelf.stop_opening,
        )
        if not ended.stuck:  # else an engine is at work, and its memory must stay
            ended = replace(ended, stuck=shelf.close())
    return ended


def run_until(
    stop: threading.Event,
    session: LiveSession,
    source: LiveSource,
    max_seconds: float | None = None,
    max_frames: int | None = None,
    show: Show = lambda _: None,
    end_builds: Callable[[float], object] = lambda _: None,
) -> Ended:
    """Runs a session until it ends, a limit is reached, or `stop` is set, and closes its ends.

    Args:
        stop: Set when this returns, in any case.
        end_builds: Called at the end with the seconds that it may take, in a thread.
    """
    until = None if max_seconds is None else time.monotonic() + max_seconds
    reason = "stopped"
    loop = SessionThread(session, stop, max_frames)
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
    _close(session, source, end_builds)
    stuck = session.stuck_s > 0 or not loop.done.is_set() or session.stop_engines(0.0)
    if loop.error is not None:
        return Ended("failed", loop.error, stuck)
    return Ended(loop.reason or reason, None, stuck)


class SessionThread:
    """Runs a session in a thread, so that the main thread is always free for signals.

    Attributes:
        done: Set when the session has ended.
        error: The error that ended it, or None.
        reason: "source" or "frames" if one of them has ended, else "".
    """

    def __init__(
        self, session: LiveSession, stop: threading.Event, max_frames: int | None = None
    ) -> None:
        self.done = threading.Event()
        self.error: StreamDiffVSRError | None = None
        self.reason = ""
        self._session, self._stop, self._max_frames = session, stop, max_frames
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


def _close(session: LiveSession, source: LiveSource, end_builds: Callable[[float], object]) -> None:
    """Closes the source and all sinks and ends builds, at once; does not wait for what is late."""
    closing = [*(sink.close for sink in session.sinks), end_builds, session.stop_engines]
    closers = [threading.Thread(target=end, args=(_SINKS_S,), daemon=True) for end in closing]
    closers.append(threading.Thread(target=source.close, daemon=True))
    for closer in closers:
        closer.start()
    until = time.monotonic() + _CLOSE_S
    for closer in closers:
        closer.join(max(0.0, until - time.monotonic()))


@contextmanager
def signals_set(stop: threading.Event) -> Iterator[None]:
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
