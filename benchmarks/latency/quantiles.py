"""What is told of many times: quantiles, and how much parts of them disagree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAMES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


def quantiles(ms: Sequence[float]) -> dict[str, float] | None:
    """p50, p90, p95, p99, mean, least and most of some ms, and how many they are; None of none."""
    if not ms:
        return None
    told = {name: float(np.percentile(ms, at)) for name, at in NAMES.items()}
    told |= {"mean": float(np.mean(ms)), "min": min(ms), "max": max(ms)}
    return {"n": len(ms)} | {name: round(value, 4) for name, value in told.items()}


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return float(np.median(values))


def spread(values: Sequence[float]) -> float:
    """How far apart the least and the most are, as a share of the middle; 0 of less than two."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 else 0.0


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, object] | None:
    """Pair by pair: the middle ratio, the middle half of them, and how many; None of no pairs."""
    if not over or not under:
        return None
    each = np.asarray(over) / np.asarray(under)
    low, high = np.percentile(each, (25, 75))
    return {
        "ratio": round(float(np.median(each)), 4),
        "spread": [round(float(low), 4), round(float(high), 4)],
        "pairs": len(each),
    }
