"""The modes of a live session, and when `auto` makes whole frames."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from .engine_pool import DOWN_AFTER, FIRST_HOLD_S, LONGEST_HOLD_S, SMOOTHING, STEADY_S, WARM_UP
from .frame import LiveFrame

AUTO, EXACT, ADAPTIVE = "auto", "exact", "adaptive"
MODES = (AUTO, EXACT, ADAPTIVE)
WHOLE = 1.4  # times what its tiles take: flow and features, which tiles do without
ROOM = 0.7  # of a frame's period, which whole frames may be expected to take
FULL = 0.95  # of it: those that take more are late
_PERIODS = 30  # frames over which the period is measured
USUAL_PERIOD_S = 1 / 25


class Period:
    """Measures the time from one frame of a source to the next, frames that were dropped included.

    Attributes:
        skipped: Whether frames were dropped right before the last one.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float, int]] = deque(maxlen=_PERIODS)
        self.skipped = False

    def note(self, frame: LiveFrame) -> None:
        """Notes the next frame."""
        if self._seen and self._seen[-1][2] != frame.epoch:
            self._seen.clear()
        self.skipped = bool(self._seen) and frame.index > self._seen[-1][0] + 1
        self._seen.append((frame.index, frame.captured, frame.epoch))

    @property
    def seconds(self) -> float:
        """The period; `USUAL_PERIOD_S` before it is known."""
        if len(self._seen) < 2:
            return USUAL_PERIOD_S
        (first, began, _), (last, ended, _) = self._seen[0], self._seen[-1]
        return max((ended - began) / max(last - first, 1), 1e-3)


class WholeFrames:
    """Decides when whole frames keep the source's rate with a margin.

    Their time is first predicted from that of the tiles, then measured. Each time that they turn
    out to be too slow doubles the wait until they are tried again.

    Args:
        limit_ms: The latency to keep in ms, or None.
        tell: Receives a line for each change.

    Attributes:
        running: Whether frames are made whole.
    """

    def __init__(
        self,
        limit_ms: float | None = None,
        *,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s = None if limit_ms is None else limit_ms / 1000
        self._tell, self._clock = tell, clock
        self.running = False
        self._hold_s, self._since = 0.0, clock()
        self._frames = self._late = 0
        self._cost_s = 0.0

    def expected(self, tile_count: int, tile_s: float | None, period_s: float) -> bool:
        """Returns whether whole frames, were their engines there, should be made now."""
        if self.running:
            return True
        if tile_s is None or self._clock() - self._since < self._hold_s:
            return False
        return WHOLE * tile_count * tile_s < ROOM * self._room_s(period_s)

    def begin(self) -> None:
        """Notes that frames are made whole from now on."""
        if not self.running:
            self.running, self._since = True, self._clock()
            self._frames = self._late = 0
            self._tell("mode adaptive -> exact: whole frames keep the rate of the source")

    def measured(self, age_s: float, cost_s: float, period_s: float, *, skipped: bool) -> None:
        """Learns what a whole frame took that was `age_s` old when it began."""
        self._frames += 1
        if self._frames <= WARM_UP:  # the first ones load and compile
            self._cost_s = cost_s
            return
        self._cost_s += SMOOTHING * (cost_s - self._cost_s)
        room_s = FULL * self._room_s(period_s)
        late = skipped or cost_s > room_s
        late = late or (self._limit_s is not None and age_s + cost_s > self._limit_s)
        self._late = self._late + 1 if late else 0
        if self._late >= DOWN_AFTER or self._cost_s > room_s:
            self.end(f"they take {1000 * self._cost_s:.0f} ms, a frame has {1000 * room_s:.0f}")
        elif self._clock() - self._since > STEADY_S:
            self._hold_s = 0.0

    def end(self, why: str) -> None:
        """Goes back to adaptive frames, and waits before whole ones are tried again."""
        if self.running:
            self.running, self._since = False, self._clock()
            self._hold_s = min(max(2 * self._hold_s, FIRST_HOLD_S), LONGEST_HOLD_S)
            self._tell(f"mode exact -> adaptive: {why}")

    def _room_s(self, period_s: float) -> float:
        return period_s if self._limit_s is None else min(period_s, self._limit_s)
