"""What is known of a live source at the moment, for whoever looks at it.

Only counts and words; the source holds its lock around every call. It decides nothing.
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
        received: Frames that were decoded.
        dropped: Those of them that nobody was given.
        damaged: Those of them that were handed over marked as damaged, dropped ones among them.
        reconnects: How often it played again.
        attempts: How often it was opened, or tried to be.
        size: "WxH" of the last frame.
        codec: libav's name.
        error: Why it does not play, or "".
    """

    def __init__(self) -> None:
        self.state = "connecting"
        self.received = self.dropped = self.damaged = self.reconnects = self.attempts = 0
        self.size = self.codec = self.error = ""
        self._retry_at: float | None = None
        self._arrivals: deque[tuple[float, int]] = deque()  # captured, frames received by then

    def connecting(self) -> None:
        """Another attempt begins."""
        self.attempts += 1
        self.state, self._retry_at = "connecting", None

    def playing(self, codec: str) -> None:
        """Its first frame is there."""
        self.reconnects += self.received > 0
        self.state, self.codec, self.error = "playing", codec, ""

    def frame(self, frame: LiveFrame, *, replaced: bool) -> None:
        """A frame came; whether it took the place of one that nobody was given."""
        skipped = frame.index - self.received  # already dropped by the decoder's process
        self.received = frame.index + 1
        self.dropped += skipped + replaced
        self.damaged += frame.damaged
        self.size = f"{frame.size[1]}x{frame.size[0]}"
        self._arrivals.append((frame.captured, self.received))
        while frame.captured - self._arrivals[0][0] > _FPS_WINDOW_S:
            self._arrivals.popleft()

    def waiting(self, error: str, delay_s: float) -> None:
        """It does not play, and is tried again then."""
        self.state, self.error = "waiting", error
        self._retry_at = time.monotonic() + delay_s
        self._arrivals.clear()

    def ended(self) -> None:
        """It is not tried again; what breaks while it is closed is no error."""
        if self.state == "playing":
            self.error = ""
        self.state, self._retry_at = "ended", None
        self._arrivals.clear()

    def to_json(self) -> dict[str, Any]:
        """All of it, with frames per second and the seconds until the next attempt."""
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
