"""Latency control: chooses the rung that makes a frame, so that it reaches the sinks in time.

A rung is a way of making a frame: the whole model, the model with a coarser flow, bicubic. Rungs
are given best first; their cost is learnt as they run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

BICUBIC = "bicubic"
DOWN_AFTER = 3  # late frames in a row; one alone only becomes bicubic
CLIMB_BELOW = 0.8  # of the limit: the most that the better rung may be expected to take
FIRST_HOLD_S, LONGEST_HOLD_S = 3.0, 60.0
HOPELESS = 3.0  # times the limit: a rung that costs more is tried seldom from the start
STEADY_S = 30.0  # on the best rung: earlier failed climbs are forgotten
SMOOTHING = 0.3


class LatencyBudget:
    """Goes down a rung when frames are late, and climbs back when there is time for it.

    A climb that fails doubles the time until the next one, so a machine that is too slow for a rung
    tries it less and less often.

    Args:
        rungs: Best first; the last is `BICUBIC`.
        limit_ms: The most from a frame's capture to its hand-over to the sinks; None: always the
            best rung.
        tell: Receives a line for each change of rung.
    """

    def __init__(
        self,
        rungs: Sequence[str],
        limit_ms: float | None,
        *,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not rungs or rungs[-1] != BICUBIC:
            raise ValueError(f"{rungs = } do not end in {BICUBIC!r}")
        if limit_ms is not None and limit_ms <= 0:
            raise ValueError(f"{limit_ms = } is no time")
        self.rungs, self.limit_ms = tuple(rungs), limit_ms
        self._tell, self._clock = tell, clock
        self._costs_ms: dict[str, float] = {}
        self._level = self._late = 0
        self._since = clock()
        self._hold_s = FIRST_HOLD_S
        self._probing = False

    @property
    def rung(self) -> str:
        """The current rung; single frames may still pass as bicubic."""
        return self.rungs[self._level]

    def choose(self, age_ms: float) -> str:
        """Returns the rung for a frame that is `age_ms` old."""
        if self.limit_ms is None:
            return self.rungs[0]
        self._climb(age_ms)
        if self._probing or self.rung not in self._costs_ms:
            return self.rung  # only running it shows what it costs now
        if age_ms + self._costs_ms[self.rung] <= self.limit_ms:
            self._late = 0
            return self.rung
        self._late += 1
        if self._late >= DOWN_AFTER:
            self._step_down(age_ms)
            return self.rung
        return BICUBIC

    def measured(self, rung: str, age_ms: float, cost_ms: float) -> None:
        """Learns the cost of a frame that was `age_ms` old when it began."""
        before = self._costs_ms.get(rung)
        if before is None or (self._probing and rung == self.rung):
            self._costs_ms[rung] = cost_ms  # a probe replaces what was known
        else:
            self._costs_ms[rung] = before + SMOOTHING * (cost_ms - before)
        if self._probing and rung == self.rung:
            self._probing = False
            if self.limit_ms is not None and age_ms + cost_ms > self.limit_ms:
                self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S)
                self._step_down(age_ms)

    def _climb(self, age_ms: float) -> None:
        stayed_s = self._clock() - self._since
        if stayed_s > STEADY_S and self._level == 0:
            self._hold_s = FIRST_HOLD_S
        if self._level == 0 or self.limit_ms is None:
            return
        cost_ms = self._costs_ms.get(self.rungs[self._level - 1], 0.0)
        hopeless = cost_ms > HOPELESS * self.limit_ms
        if stayed_s < (LONGEST_HOLD_S if hopeless else self._hold_s):
            return
        room = age_ms + cost_ms <= CLIMB_BELOW * self.limit_ms
        # Its cost was measured under an earlier load: after the hold it is tried again.
        self._move(-1, "there is room for it" if room else "to see whether it fits again")
        self._probing = True

    def _step_down(self, age_ms: float) -> None:
        if self._level + 1 < len(self.rungs):
            expected = age_ms + self._costs_ms.get(self.rung, 0.0)
            self._move(1, f"{expected:.0f} ms would exceed {self.limit_ms:.0f} ms")

    def _move(self, levels: int, why: str) -> None:
        before = self.rung
        self._level += levels
        self._late, self._since = 0, self._clock()
        self._tell(f"rung {before} -> {self.rung}: {why}")
