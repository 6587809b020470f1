"""A sink that notes when each frame came, and when the time in its pixels says that it was made.

It keeps no frame. What it makes of the notes is plain arithmetic on two times of each frame.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...runtime.live.frame import OutputFrame
from ...spec import SCALE
from .clock_code import age_ms

WARM_UP, WARM_UP_S = 8, 5.0  # frames, or seconds where frames are slow: engines load, queues fill
_LOOK_S = 0.005  # between two looks at the newest frame


@dataclass(frozen=True, slots=True)
class Taken:
    """One frame, in seconds of the monotonic clock.

    Attributes:
        at: When it was with the sink.
        made: When it was captured: by its stamp, or when its decoder handed it over.
        stage_ms: Milliseconds by stage.
    """

    at: float
    made: float
    stage_ms: dict[str, float] = field(default_factory=dict)


class Taking:
    """A `Sink` that measures for so many seconds, behind a warm-up.

    Args:
        seconds: How long, from the first frame that counts.
        stamped: Read the time from the pixels.

    Attributes:
        armed: To be set when frames are made as they are to be measured; the warm-up begins then.
        offered: How many frames came, those that do not count too.
        began: When the first frame that counts came; None before.
        taken: Those that count.
        unread: Frames whose stamp was not whole.
        started, done: Set when the first frame has counted, and when the time is over.
    """

    name = "measurement"

    def __init__(self, seconds: float, *, stamped: bool) -> None:
        self.began: float | None = None
        self.taken: list[Taken] = []
        self.unread = 0
        self.armed, self.started, self.done = (threading.Event() for _ in range(3))
        self.stamped, self._seconds = stamped, seconds
        self.offered = self._warm = 0
        self._warm_since: float | None = None

    def offer(self, frame: OutputFrame) -> None:
        """As `Sink`; reading a stamp takes it half a millisecond, behind the time it notes."""
        now = time.monotonic()
        self.offered += 1
        if not self.armed.is_set() or self.done.is_set():
            return
        self._warm, self._warm_since = self._warm + 1, self._warm_since or now
        if self._warm <= WARM_UP and now - self._warm_since < WARM_UP_S:
            return
        if self.began is None:
            self.began = now
            self.started.set()
        made: float | None = frame.source.captured
        if self.stamped:
            age = age_ms(frame.image, SCALE)
            made = None if age is None else time.monotonic() - age / 1000
        if made is None:
            self.unread += 1
        else:
            self.taken.append(Taken(now, made, dict(frame.stage_ms)))
        if now - self.began >= self._seconds:
            self.done.set()

    def status(self) -> dict[str, Any]:
        """As `Sink`."""
        return {
            "name": self.name,
            "state": "closed" if self.done.is_set() else "open",
            "written": self.offered,
            "dropped": 0,
            "reopened": 0,
            "error": "",
        }

    def close(self, deadline_s: float) -> None:
        """As `Sink`: no frame counts from now on."""
        self.done.set()


def latencies_ms(taken: list[Taken]) -> list[float]:
    """From capture to the sink, of each frame."""
    return [1000 * (one.at - one.made) for one in taken]


def ages_ms(taken: list[Taken]) -> list[float]:
    """How old the newest frame is whenever one looks: also while the next one is awaited."""
    if len(taken) < 2:
        return []
    at = np.array([one.at for one in taken])
    made = np.array([one.made for one in taken])
    looks = np.arange(at[0], at[-1], _LOOK_S)
    newest = np.searchsorted(at, looks, side="right") - 1
    ages: list[float] = (1000 * (looks - made[newest])).tolist()
    return ages


def stages_ms(taken: list[Taken]) -> dict[str, list[float]]:
    """The milliseconds of each stage, of the frames that have it."""
    names = dict.fromkeys(name for one in taken for name in one.stage_ms)
    return {name: [one.stage_ms[name] for one in taken if name in one.stage_ms] for name in names}
