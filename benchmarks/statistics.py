"""Statistics of a benchmark, the noise of the machine, and the frames to run."""

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
from ..runtime.media.resize import resized

NAMES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


def quantiles(ms: Sequence[float]) -> dict[str, float] | None:
    """Returns n, p50, p90, p95, p99, mean, min and max of times in ms; None if there are none."""
    if not ms:
        return None
    values = {name: float(np.percentile(ms, at)) for name, at in NAMES.items()}
    values |= {"mean": float(np.mean(ms)), "min": min(ms), "max": max(ms)}
    return {"n": len(ms)} | {name: round(value, 4) for name, value in values.items()}


def median(values: Sequence[float]) -> float:
    """Returns the median."""
    return float(np.median(values))


def spread(values: Sequence[float]) -> float:
    """Returns the range of the values as a share of their median; 0 for fewer than two."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 else 0.0


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, object] | None:
    """Returns the median and quartiles of the ratios of pairs, and their count; None if none."""
    if not over or not under:
        return None
    each = np.asarray(over) / np.asarray(under)
    low, high = np.percentile(each, (25, 75))
    return {
        "ratio": round(float(np.median(each)), 4),
        "spread": [round(float(low), 4), round(float(high), 4)],
        "pairs": len(each),
    }


LIMIT = 0.05  # two runs should agree within this share
OTHERS_LIMIT = 0.05
PROBE = bytes(4 << 20)
PROBES = 5


class NoiseWatch:
    """Watches, from its creation to its report, whether the machine was too busy to measure."""

    def __init__(self) -> None:
        self._probes: list[float] = []
        self._started = time.monotonic()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def probe(self) -> None:
        """Times a fixed piece of work; to be called between rounds, when nothing else runs."""
        times = []
        for _ in range(PROBES):
            started = time.perf_counter()
            hashlib.sha256(PROBE).digest()
            times.append(time.perf_counter() - started)
        self._probes.append(median(times))

    def report(self, rounds: Iterable[Sequence[float]]) -> dict[str, Any]:
        """Returns the noise that was measured.

        Args:
            rounds: For each thing that was timed, the p50 of each round.
        """
        between = max((spread(p50s) for p50s in rounds), default=0.0)
        probe, others = spread(self._probes) if self._probes else 0.0, self._others()
        why = []
        if between > LIMIT:
            why.append(f"rounds of one thing differ by {100 * between:.0f} % at p50")
        if probe > LIMIT:
            why.append(
                f"a fixed piece of work took {100 * probe:.0f} % longer at worst than at best"
            )
        if others > OTHERS_LIMIT:
            why.append(f"other processes had {100 * others:.0f} % of the processors")
        return {
            "noisy": bool(why),
            "why": why,
            "p50_spread": round(between, 4),
            "probe_spread": round(probe, 4),
            "probe_ms": round(1e3 * median(self._probes), 4) if self._probes else None,
            "others_cpu": round(others, 4),
        }

    def _others(self) -> float:
        """Returns the share of all processors' time that other processes used."""
        elapsed = time.monotonic() - self._started
        rest = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, rest / (elapsed * (psutil.cpu_count() or usable_cpus())))


def _busy_seconds() -> float:
    """Returns the busy seconds of all processors since the machine was started."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    # Linux includes the guests' time in that of users.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - waiting - guests)


def _own_seconds() -> float:
    """Returns the processor seconds of this process and its children, finished ones included."""
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
    """Returns the frames of the built-in clip at a size, (h, w, 3) uint8 RGB.

    Raises:
        StreamDiffVSRError: The clip is missing, or cannot be decoded.
    """
    with FileSource(CLIP) as source:
        frames = [frame.image for frame, _ in zip(source, range(LENGTH), strict=False)]
    return tuple(resized(frame, size) for frame in frames)


def endless(size: Size) -> Iterator[Image]:
    """Yields the clip forwards and backwards without end, so that motion is always small."""
    frames = clip(size)
    order = [*frames, *frames[-2:0:-1]]
    while True:
        yield from order
