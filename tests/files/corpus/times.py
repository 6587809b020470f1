"""Draws the times of a file's pictures: odd rates, late starts, gaps, wall clocks, and so on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from .containers import CONTAINERS
from .limits import is_intra, rates_of

_WALL_CLOCK_S = 1_760_000_000
_TEN_HOURS_S = 36_000
_STEADY = (24, 25, 30, 50, 12, 15)
_ODD_RATES = (Fraction(2398, 100), Fraction(25, 2), Fraction(7, 3), Fraction(2997, 200))
_NTSC = (Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001))
_FOR_CLOCKS = ("late", "late by hours", "fine ticks", "coarse ticks", "fast", "ntsc", "odd rate")
_FAST = (Fraction(240), Fraction(120000, 1001), Fraction(100))


@dataclass(frozen=True)
class Timing:
    """The times at which pictures are shown.

    Attributes:
        kind: What is odd about it.
        time_base: Seconds per tick.
        pts: Of each picture, in ticks.
        last_duration: Of the last picture, in ticks.
        rate: Pictures per second that the stream claims.
    """

    kind: str
    time_base: Fraction
    pts: tuple[int, ...]
    last_duration: int
    rate: Fraction

    @property
    def seconds(self) -> list[Fraction]:
        """The time at which each picture is shown, in seconds."""
        return [pts * self.time_base for pts in self.pts]

    @property
    def end(self) -> Fraction:
        """The time at which the last picture ends, in seconds."""
        return (self.pts[-1] + self.last_duration) * self.time_base


def kinds_for(suffix: str, encoder: str) -> Sequence[str]:
    """Returns what can be odd about the times in such a file."""
    times = CONTAINERS[suffix].times
    if times == "none" or suffix in ("swf", "roq", "dv", "gxf"):
        return ("steady",)
    if times == "film":
        return ("steady", "ntsc")
    kinds = ["steady", "ntsc", "odd rate", "slow", "fast"]
    if encoder.startswith("+"):
        return kinds
    if times == "rate":
        return [*kinds, "gaps"] if suffix == "avi" else kinds
    kinds += ["variable", "late", "gap", "fine ticks", "coarse ticks", "late by hours"]
    if suffix in ("mkv", "nut"):
        kinds.append("wall clock")
    if suffix == "mkv" and is_intra(encoder):
        kinds.append("repeats")
    if suffix in ("mp4", "mov"):
        kinds.append("held at the end")
    if suffix in ("gif", "apng", "avif"):
        return [kind for kind in kinds if kind not in _FOR_CLOCKS]
    return kinds


def timing(kind: str, suffix: str, encoder: str, chance: random.Random, *, few: bool) -> Timing:
    """Times of that kind."""
    count = chance.randint(5, 7) if few else chance.randint(8, 24)
    rate = _rate(kind, suffix, encoder, chance)
    base, steps = 1 / rate, [1] * count
    if kind == "variable":
        base, steps = Fraction(1, 30000), [chance.randint(300, 4000) for _ in range(count)]
    elif kind == "fine ticks":
        base, steps = Fraction(1, 1_000_000), [chance.randint(33_000, 34_000) for _ in range(count)]
    elif kind == "coarse ticks":
        base, count = Fraction(1), 6
        steps = [chance.randint(1, 2) for _ in range(count)]
    elif kind in ("gap", "gaps"):
        for place in chance.sample(range(1, count - 1), 1 if kind == "gap" else 3):
            steps[place] = round(chance.randint(2, 6) * rate) if kind == "gap" else 3
    elif kind == "repeats":
        base = Fraction(1, 1000)
        steps = [0 if place % 5 == 2 else 40 for place in range(count)]
    elif kind == "held at the end":
        steps[-1] = round(chance.randint(1, 3) * rate)
    first = {"wall clock": _WALL_CLOCK_S, "late by hours": _TEN_HOURS_S}.get(kind, 0) / base
    if kind == "late":
        first = chance.randint(1, 60) * max(Fraction(1), rate // 30)
    pts = [round(first) + sum(steps[:place]) for place in range(count)]
    return Timing(kind, base, tuple(pts), max(1, steps[-1]), rate)


def _rate(kind: str, suffix: str, encoder: str, chance: random.Random) -> Fraction:
    if CONTAINERS[suffix].times in ("film", "none") or suffix in ("swf", "roq"):
        rates = rates_of(suffix, encoder)
        if CONTAINERS[suffix].times == "none" or suffix == "swf":
            return rates[0]
        return Fraction(30) if suffix == "roq" else chance.choice(rates)
    if kind in ("ntsc", "odd rate", "fast"):
        return chance.choice({"ntsc": _NTSC, "odd rate": _ODD_RATES, "fast": _FAST}[kind])
    return Fraction(1, 2) if kind == "slow" else Fraction(chance.choice(_STEADY))
