"""Counts what a live session does, for the status line, the preview page and the metrics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from ...engines.host import cuda_gpu, free_device_bytes
from ...engines.interface import kind_of, ordinal_of
from .frame import OutputFrame

WINDOW_S = 10.0  # over which rates and percentiles are taken
SMOOTHING = 0.2


class Tally:
    """Counts output frames; may be read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._started = clock()
        self._recent: deque[tuple[float, float]] = deque()  # (finished, latency in ms)
        self._stage_ms: dict[str, float] = {}
        self._resets: Counter[str] = Counter()
        self._frames = self._passed = 0

    def frame(self, frame: OutputFrame, *, passed_through: bool) -> None:
        """Counts a frame that was handed to the sinks."""
        with self._lock:
            self._frames += 1
            self._passed += passed_through
            self._recent.append((frame.finished, frame.latency_ms))
            self._forget_old()
            for name, ms in frame.stage_ms.items():
                before = self._stage_ms.get(name, ms)
                self._stage_ms[name] = before + SMOOTHING * (ms - before)

    def reset(self, reason: str) -> None:
        """Counts a reset of the state."""
        with self._lock:
            self._resets[reason] += 1

    def to_json(self) -> dict[str, Any]:
        """Returns uptime, frames, resets, rate, latency and the times of stages, for JSON."""
        with self._lock:
            self._forget_old()
            latencies = [latency for _, latency in self._recent]
            span = min(WINDOW_S, max(self._clock() - self._started, 1e-3))
            return {
                "uptime_s": round(self._clock() - self._started, 1),
                "frames": self._frames,
                "passed_through": self._passed,
                "resets": dict(self._resets),
                "fps_out": round(len(latencies) / span, 2),
                "latency_ms": _percentiles(latencies),
                "stage_ms": {name: round(ms, 2) for name, ms in self._stage_ms.items()},
            }

    def _forget_old(self) -> None:
        limit = self._clock() - WINDOW_S
        while self._recent and self._recent[0][0] < limit:
            self._recent.popleft()


def _percentiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def gpu_status(device: str) -> dict[str, Any] | None:
    """Returns name and used memory of the GPU that engines for `device` run on; None on a CPU."""
    if kind_of(device) == "cpu":
        return None
    gpu, free = cuda_gpu(ordinal_of(device)), free_device_bytes(ordinal_of(device))
    if gpu is None or free is None:
        return None
    total_mb = int(gpu.memory.split()[0])  # "24564 MiB"
    return {"name": gpu.name, "memory_mb": total_mb - free // 2**20}


def memory_mb() -> int:
    """Returns the resident memory of this process and its children, in MiB."""
    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it has ended meanwhile
    return int(total // 2**20)
