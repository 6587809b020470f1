"""Quantiles, confidence, noise of the machine, and the frames of a benchmark."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import psutil

from .._about import CLIP
from ..engines.onnxruntime_backend import usable_cpus
from ..graphs.arrays import Image
from ..graphs.spec import Size
from ..runtime.media.reader import FileSource
from ..runtime.media.rgb import resized

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


LIMIT = 0.05  # two runs should agree within this
OTHERS_LIMIT = 0.05
PROBE = bytes(4 << 20)
PROBES = 5


class NoiseWatch:
    """From its making to its report."""

    def __init__(self) -> None:
        self._probes: list[float] = []
        self._started = time.monotonic()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def probe(self) -> None:
        """Time the fixed work; between rounds, when nothing of ours runs."""
        times = []
        for _ in range(PROBES):
            started = time.perf_counter()
            hashlib.sha256(PROBE).digest()
            times.append(time.perf_counter() - started)
        self._probes.append(median(times))

    def report(self, rounds: Iterable[Sequence[float]]) -> dict[str, Any]:
        """What there was.

        Args:
            rounds: The p50 of each round, of each thing that was timed.
        """
        between = max((spread(p50s) for p50s in rounds), default=0.0)
        probe, others = spread(self._probes) if self._probes else 0.0, self._others()
        why = []
        if between > LIMIT:
            why.append(f"rounds of one thing differ by {between:.0%} at p50")
        if probe > LIMIT:
            why.append(f"a fixed piece of work took {probe:.0%} longer at worst than at best")
        if others > OTHERS_LIMIT:
            why.append(f"other processes had {others:.0%} of the processors")
        return {
            "noisy": bool(why),
            "why": why,
            "p50_spread": round(between, 4),
            "probe_spread": round(probe, 4),
            "probe_ms": round(1e3 * median(self._probes), 4) if self._probes else None,
            "others_cpu": round(others, 4),
        }

    def _others(self) -> float:
        """Share of all processors' time that was neither idle nor this process's."""
        elapsed = time.monotonic() - self._started
        rest = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, rest / (elapsed * (psutil.cpu_count() or usable_cpus())))


def _busy_seconds() -> float:
    """Of all processors since the start of the machine."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guests' time in user's too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - waiting - guests)


def _own_seconds() -> float:
    """Of this process and its children, those that it has waited for included."""
    process = psutil.Process()
    own = process.cpu_times()
    seconds = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            times = child.cpu_times()
            seconds += times.user + times.system
    return float(seconds)


LENGTH = 24  # frames of the clip; more would be megabytes of the same


@lru_cache(maxsize=8)
def clip(size: Size) -> tuple[Image, ...]:
    """Frames of the built-in clip, (h, w, 3) uint8 RGB.

    Raises:
        StreamDiffVSRError: The clip is not there, or cannot be decoded.
    """
    with FileSource(CLIP) as source:
        frames = [frame.image for frame, _ in zip(source, range(LENGTH), strict=False)]
    return tuple(resized(frame, size) for frame in frames)


def endless(size: Size) -> Iterator[Image]:
    """The clip to and fro, so that every frame moves a little from the one before it."""
    frames = clip(size)
    order = [*frames, *frames[-2:0:-1]]
    while True:
        yield from order
