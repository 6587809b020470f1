"""Keeps the status of a live source: counts and words.

The source holds its lock around every call.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from .frame import LiveFrame

_FPS_WINDOW_S = 2.0
_SHOWN = (
    "state",
    "received",
    "dropped",
    "damaged",
    "reconnects",
    "attempts",
    "size",
    "codec",
    "error",
)


class SourceStatus:
    """Counters since the source was made.

    Attributes:
        state: "connecting", "playing", "waiting" or "ended".
        received: The number of frames that were decoded.
        dropped: The number of those that were never used.
        damaged: The number of those that were marked as damaged, dropped ones included.
        reconnects: How often it played again.
        attempts: How often opening it was tried.
        size: The size of the last frame, "WxH".
        codec: libav's name of the codec.
        error: Why it does not play, or "".
    """

    def __init__(self) -> None:
        self.state = "connecting"
        self.received = self.dropped = self.damaged = self.reconnects = self.attempts = 0
        self.size = self.codec = self.error = ""
        self._retry_at: float | None = None
        self._arrivals: deque[tuple[float, int]] = deque()  # captured, frames received by then

    def connecting(self) -> None:
        """Notes that another attempt begins."""
        self.attempts += 1
        self.state, self._retry_at = "connecting", None

    def playing(self, codec: str) -> None:
        """Notes that the first frame of an attempt has come."""
        self.reconnects += self.received > 0
        self.state, self.codec, self.error = "playing", codec, ""

    def frame(self, frame: LiveFrame, *, replaced: bool) -> None:
        """Counts a frame; `replaced` says that it took the place of one that was not used."""
        skipped = frame.index - self.received  # already dropped by the decoder's process
        self.received = frame.index + 1
        self.dropped += skipped + replaced
        self.damaged += frame.damaged
        self.size = f"{frame.size[1]}x{frame.size[0]}"
        self._arrivals.append((frame.captured, self.received))
        while frame.captured - self._arrivals[0][0] > _FPS_WINDOW_S:
            self._arrivals.popleft()

    def waiting(self, error: str, delay_s: float) -> None:
        """Notes that it does not play, and is tried again after the delay."""
        self.state, self.error = "waiting", error
        self._retry_at = time.monotonic() + delay_s
        self._arrivals.clear()

    def ended(self) -> None:
        """Notes that it is not tried again; being closed while it plays is no error."""
        if self.state == "playing":
            self.error = ""
        self.state, self._retry_at = "ended", None
        self._arrivals.clear()

    def to_json(self) -> dict[str, Any]:
        """Returns the status, with frames per second and the seconds until the next attempt."""
        left = None if self._retry_at is None else self._retry_at - time.monotonic()
        return {
            **{name: getattr(self, name) for name in _SHOWN},
            "fps": self._fps(),
            "retry_in_s": None if left is None else round(max(0.0, left), 1),
        }

    def _fps(self) -> float:
        if len(self._arrivals) < 2:
            return 0.0
        (begin, before), (end, after) = self._arrivals[0], self._arrivals[-1]
        return round((after - before) / max(end - begin, 1e-6), 1)
