"""Was the machine quiet? Asked three ways, as a figure of a noisy machine is worth little.

1. A fixed piece of work is timed between the rounds: a clock or a neighbour that changes moves it.
2. The processors' time that was not ours: other processes, and what a hypervisor took.
3. The rounds of one thing against each other: what matters in the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import psutil

from ...engines.ort import usable_cpus
from .quantiles import median, spread

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
