"""The status of a live session and of its source, as the page, the metrics and `--json` show it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from typing import Any

import numpy as np
import psutil

from ...engines.host import cuda_gpu, free_device_bytes
from ...engines.interface import kind_of, ordinal_of
from .frame import LiveFrame, OutputFrame

_FPS_WINDOW_S = 2.0
_FPS_FRAMES = 3  # at least, of a source that is so slow
_SHOWN = (
    *("state", "received", "dropped", "damaged", "reconnects"),
    *("attempts", "size", "codec", "transport", "error", "remedy"),
)


class SourceStatus:
    """Counters since the source was made.

    Attributes:
        state: "connecting", "playing", "waiting" or "ended".
        received: The number of frames that were decoded.
        dropped: The number of those that were never used.
        damaged: The number of those that were marked as damaged, dropped ones included.
        reconnects: How often it played again.
        attempts: How often opening it was tried.
        size: The size of the last frame, "WxH".
        codec: libav's name of the codec.
        transport: That of RTSP, "tcp" or "udp"; else "".
        error: Why it does not play, or "".
        remedy: What to do about that, or "".
    """

    def __init__(self) -> None:
        self.state = "connecting"
        self.received = self.dropped = self.damaged = self.reconnects = self.attempts = 0
        self.size = self.codec = self.transport = self.error = self.remedy = ""
        self._retry_at: float | None = None
        self._arrivals: deque[tuple[float, int]] = deque()  # captured, frames received by then

    def connecting(self) -> None:
        """Notes that another attempt begins."""
        self.attempts += 1
        self.state, self._retry_at = "connecting", None

    def playing(self, codec: str, transport: str = "") -> None:
        """Notes that the first frame of an attempt has come."""
        self.reconnects += self.received > 0
        self.state, self.codec, self.transport = "playing", codec, transport
        self.error = self.remedy = ""

    def frame(self, frame: LiveFrame, *, replaced: bool) -> None:
        """Counts a frame; `replaced` says that it took the place of one that was not used."""
        skipped = frame.index - self.received  # already dropped by the decoder's process
        self.received = frame.index + 1
        self.dropped += skipped + replaced
        self.damaged += frame.damaged
        self.size = f"{frame.size[1]}x{frame.size[0]}"
        self._arrivals.append((frame.captured, self.received))
        while len(self._arrivals) > _FPS_FRAMES and self._span() > _FPS_WINDOW_S:
            self._arrivals.popleft()

    def waiting(self, error: str, remedy: str, delay_s: float) -> None:
        """Notes that it does not play, and is tried again after the delay."""
        self.state, self.error, self.remedy = "waiting", error, remedy
        self._retry_at = time.monotonic() + delay_s
        self._arrivals.clear()

    def ended(self) -> None:
        """Notes that it is not tried again; being closed while it plays is no error."""
        if self.state == "playing":
            self.error = self.remedy = ""
        self.state, self._retry_at = "ended", None
        self._arrivals.clear()

    def to_json(self) -> dict[str, Any]:
        """Returns the status, with frames per second and the seconds until the next attempt."""
        left = None if self._retry_at is None else self._retry_at - time.monotonic()
        return {
            **{name: getattr(self, name) for name in _SHOWN},
            "fps": self._fps(),
            "retry_in_s": None if left is None else round(max(0.0, left), 1),
        }

    def _span(self) -> float:
        return self._arrivals[-1][0] - self._arrivals[0][0]

    def _fps(self) -> float:
        if len(self._arrivals) < 2:
            return 0.0
        received = self._arrivals[-1][1] - self._arrivals[0][1]
        return round(received / max(self._span(), 1e-6), 1)


_MEMORY_S = 1.0  # for which the memory counts as measured
WINDOW_S = 10.0  # over which rates and percentiles are taken
SMOOTHING = 0.2


class Tally:
    """Counts output frames; may be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque()  # (finished, latency in ms)
        self._stages: dict[str, tuple[float, float]] = {}  # its last frame finished, mean in ms
        self._resets: Counter[str] = Counter()
        self._frames = self._passed = 0

    def frame(self, frame: OutputFrame, *, passed_through: bool) -> None:
        """Counts a frame that was handed to the sinks."""
        with self._lock:
            self._frames += 1
            self._passed += passed_through
            self._recent.append((frame.finished, frame.latency_ms))
            self._forget_old()
            oldest = frame.finished - WINDOW_S  # no stage of a mode that has long been left
            stages = {name: seen for name, seen in self._stages.items() if seen[0] >= oldest}
            for name, ms in frame.stage_ms.items():
                _, before = stages.get(name, (0.0, ms))
                stages[name] = frame.finished, before + SMOOTHING * (ms - before)
            self._stages = stages

    def reset(self, reason: str) -> None:
        """Counts a reset of the state."""
        with self._lock:
            self._resets[reason] += 1

    def to_json(self) -> dict[str, Any]:
        """Returns uptime, frames, resets, rate, latency and the times of stages, for JSON."""
        with self._lock:
            self._forget_old()
            latencies = [latency for _, latency in self._recent]
            span = min(WINDOW_S, max(time.monotonic() - self._started, 1e-3))
            return {
                "uptime_s": round(time.monotonic() - self._started, 1),
                "frames": self._frames,
                "passed_through": self._passed,
                "resets": dict(self._resets),
                "fps_out": round(len(latencies) / span, 2),
                "latency_ms": _percentiles(latencies),
                "stage_ms": {name: round(ms, 2) for name, (_, ms) in self._stages.items()},
            }

    def _forget_old(self) -> None:
        limit = time.monotonic() - WINDOW_S
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


class RecentMemory:
    """Returns `memory_mb` as of up to a second ago, for many who ask."""

    def __init__(self) -> None:
        self._last: tuple[float, int | None] = (float("-inf"), None)

    def __call__(self) -> int | None:
        at, found = self._last
        if time.monotonic() - at > _MEMORY_S:
            found = memory_mb()
            self._last = time.monotonic(), found
        return found


def memory_mb() -> int | None:
    """Returns the resident memory of this process and its children, in MiB.

    None if the system does not say it now, as when this process has no file left to open.
    """
    total = 0
    try:
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                total += process.memory_info().rss
    except (psutil.Error, OSError):
        return None
    return int(total // 2**20)
