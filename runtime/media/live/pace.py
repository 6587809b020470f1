"""Frames that come faster than they are shown, held back to the pace of their own times.

Files, and live sources that come in pieces of seconds, are read like this. It never drops a frame,
and one that is late is not held back at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

_MAX_STEP_S = 10.0  # a larger one is a jump of the source's clock, not a pause


class _Pulse(Protocol):
    alive: float | None


class Pace:
    """A clock that starts with the first frame.

    Args:
        pulse: Where silence is counted; waiting here is none.
        fallback_s: From one frame to the next where frames have no times.
    """

    def __init__(
        self,
        pulse: _Pulse,
        *,
        fallback_s: float = 1 / 25,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pulse, self._fallback_s = pulse, fallback_s
        self._clock, self._sleep = clock, sleep
        self._due: float | None = None
        self._last: float | None = None

    def wait(self, seconds: float | None) -> None:
        """Return when the frame of that time is due."""
        now = self._clock()
        step = self._fallback_s
        if seconds is not None and self._last is not None:
            step = seconds - self._last
        self._last = seconds
        if self._due is None or not 0 <= step <= _MAX_STEP_S:
            self._due = now
            return
        self._due += step
        if self._due > now:
            self._pulse.alive = None
            self._sleep(self._due - now)
            self._pulse.alive = self._clock()
