"""How far the medians of two runs may be apart by chance alone.

Two sources, and the larger of the two counts:

1. **Rounds.** What changes between rounds (clocks, temperature, other processes) is seen only by
   comparing rounds: frames of one round share it, so counting frames as independent would make the
   band far too narrow. The logarithms of the rounds' medians of both runs give a pooled standard
   deviation s; by Student's t the band is t(df) s sqrt(1/a + 1/b), df = a + b - 2. The fewer the
   rounds, the larger t: with 3 and 3 rounds 3.5, with 2 and 2 already 6.2. No bootstrap here:
   3 rounds have 10 distinct resamples, and it would understate s by a fifth.
2. **Frames.** Rounds may agree by luck. A moving-block bootstrap of all frames (Künsch 1989; blocks
   of n^(1/3), as neighbouring frames are alike) gives the band of a median of so many frames.

Neither sees what differs between processes: where memory lies, which clock it began at. So no
change below `LEAST` is called one; where one of the runs has a single round, none below `BLIND`.
Both bands are at 97.5 %: of 100 comparisons of a thing with itself about 2 differ by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST = 0.01
BLIND = 0.05
RESAMPLES = 1000
CONFIDENCE = 0.975
# Two-sided 97.5 % quantiles of Student's t by degrees of freedom; from the normal beyond.
STUDENT = (25.45, 6.205, 4.177, 3.495, 3.163, 2.969, 2.841, 2.752, 2.685, 2.634, 2.593, 2.560)
NORMAL = 2.241


@dataclass(frozen=True, slots=True)
class Band:
    """What may be chance.

    Attributes:
        log_width: Half the band's width as a difference of logarithms.
        why: What set it.
    """

    log_width: float
    why: str

    @property
    def ratios(self) -> tuple[float, float]:
        """Ratios from the first to the second are no change."""
        return math.exp(-self.log_width), math.exp(self.log_width)

    def holds(self, ratio: float) -> bool:
        """Whether a ratio may be chance."""
        return abs(math.log(ratio)) <= self.log_width


def band(a: Mapping[str, Any], b: Mapping[str, Any]) -> Band:
    """The band of the ratio of the medians of two modes (MODE of the result's schema)."""
    rounds = [_positive(mode.get("rounds_p50")) for mode in (a, b)]
    frames = [_positive(mode.get("samples_ms")) for mode in (a, b)]
    found = [Band(LEAST, "no change below 1 % is called one")]
    if min(len(held) for held in rounds) < 2:
        found.append(Band(BLIND, "one round: how rounds differ is not known, 5 % assumed"))
    else:
        counts = " and ".join(str(len(held)) for held in rounds)
        found.append(Band(_of_rounds(*rounds), f"spread of {counts} rounds"))
    if min(len(held) for held in frames) >= 2:
        counts = " and ".join(str(len(held)) for held in frames)
        found.append(Band(_of_frames(*frames), f"spread of {counts} frames"))
    return max(found, key=lambda band: band.log_width)


def student(degrees: int) -> float:
    """The two-sided 97.5 % quantile of Student's t."""
    return STUDENT[degrees - 1] if degrees <= len(STUDENT) else NORMAL * (1 + 1.6 / degrees)


def of_quantiles(a: Mapping[str, float], b: Mapping[str, float], z: float) -> float:
    """The band of medians of which only quantiles are known, as a difference of logarithms.

    The standard error of a median is 1.2533 sigma / sqrt(n); sigma is from p50 and p90, which late
    frames do not move.

    Args:
        z: Standard errors to allow for.
    """
    squares = 0.0
    for held in (a, b):
        sigma = (held["p90"] - held["p50"]) / 1.2816 / held["p50"]
        squares += (1.2533 * sigma) ** 2 / held["n"]
    return z * math.sqrt(squares)


def _positive(values: Sequence[float] | None) -> np.ndarray:
    held = np.asarray(values or (), dtype=float)
    return held[held > 0]


def _of_rounds(a: np.ndarray, b: np.ndarray) -> float:
    degrees = len(a) + len(b) - 2
    squares = sum(float(((np.log(held) - np.log(held).mean()) ** 2).sum()) for held in (a, b))
    deviation = math.sqrt(squares / degrees)
    return student(degrees) * deviation * math.sqrt(1 / len(a) + 1 / len(b))


def _of_frames(a: np.ndarray, b: np.ndarray) -> float:
    rng = np.random.default_rng(0)  # the same verdict each time
    drawn = [np.log(_medians(held, rng)) for held in (a, b)]
    apart = (drawn[1] - drawn[1].mean()) - (drawn[0] - drawn[0].mean())
    return float(np.quantile(np.abs(apart), CONFIDENCE))


def _medians(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Medians (RESAMPLES,) of resampled frames, drawn in blocks of neighbours."""
    count = len(frames)
    length = max(1, round(count ** (1 / 3)))
    starts = rng.integers(0, count - length + 1, (RESAMPLES, math.ceil(count / length)))
    places = (starts[..., None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :count]
    medians: np.ndarray = np.median(frames[places], axis=1)
    return medians
