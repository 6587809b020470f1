"""Runs engines in a thread of its own, each frame against a deadline.

Nothing can end a call into a GPU or a library that never returns. So the session waits for it no
longer than a frame can reasonably take, goes on without the engines, and gives up on them, and on
this process, much later. It knows no source, no sinks and no words for the user.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from ...graphs.arrays import Image
from .engine_pool import QualityLevels
from .status import gpu_status

Stepped = tuple[Image, dict[str, float]]  # the frame, milliseconds by stage

WARM_UP = 3  # frames of a rung until its usual time is known
_REMEMBERED = 32
_GPU_S = 1.0  # between two looks at the GPU's memory


@dataclass(frozen=True, slots=True)
class HangLimits:
    """How long a frame may take.

    Attributes:
        least_s: No frame is overdue before.
        times: Of what a frame of its rung usually takes (the median), where that is more.
        unknown_s: While nothing is usual yet: the first frame may load and compile.
        give_up: Of the deadline: a frame that takes so long never comes.
    """

    least_s: float = 10.0
    times: float = 20.0
    unknown_s: float = 120.0
    give_up: float = 6.0


@dataclass(slots=True)
class _Job:
    ladder: QualityLevels
    rung: str
    image: Image
    deadline_s: float
    began: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    made: Stepped | None = None
    error: Exception | None = None


class EngineThread:
    """Steps ladders, one frame at a time; for one session.

    Attributes:
        gpu: Of the GPU that the engines run on, as `gpu_status` has it; it may be a second old.
            Only the engines' own thread asks, as a GPU that hangs may not answer that either.
    """

    def __init__(self, limits: HangLimits | None = None) -> None:
        self.limits = limits or HangLimits()
        self.gpu: dict[str, Any] | None = None
        self._gpu_at = float("-inf")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._overdue: _Job | None = None
        self._ladder: QualityLevels | None = None
        self._costs_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    @property
    def stuck_s(self) -> float:
        """How long an overdue frame has taken so far; 0: engines can be used. From any thread."""
        job = self._overdue
        return 0.0 if job is None or job.done.is_set() else time.monotonic() - job.began

    @property
    def lost(self) -> bool:
        """Whether the overdue frame has taken so long that it will never come."""
        job = self._overdue
        return job is not None and self.stuck_s > self.limits.give_up * job.deadline_s

    def usual_s(self, rung: str) -> float | None:
        """What a frame of that rung takes, if it is known."""
        costs = list(self._costs_s[rung])  # a late frame may add its own just now
        return statistics.median(costs) if len(costs) >= WARM_UP else None

    def step(self, ladder: QualityLevels, rung: str, image: Image) -> Stepped | None:
        """`QualityLevels.step` in the engines' thread; None when it is overdue.

        Then `stuck_s` says for how long, and nothing may use the ladder until that is 0. What
        comes too late is thrown away, but for the time that it took.
        """
        assert not self.stuck_s
        if ladder is not self._ladder:
            self._ladder = ladder
            self._costs_s.clear()
        job = _Job(ladder, rung, image, self._deadline_s(rung))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()
        self._jobs.put(job)
        if not job.done.wait(job.deadline_s):
            self._overdue = job
            return None
        self._overdue = None
        if job.error is not None:
            raise job.error
        return job.made

    def close(self) -> None:
        """End the thread, if it can be ended; a later `step` begins another."""
        if self._thread is not None and not self.stuck_s:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _deadline_s(self, rung: str) -> float:
        limits, usual_s = self.limits, self.usual_s(rung)
        return limits.unknown_s if usual_s is None else max(limits.least_s, limits.times * usual_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.made = job.ladder.step(job.rung, job.image)
            except Exception as error:  # raised where the frame was asked for
                job.error = error
            self._costs_s[job.rung].append(time.monotonic() - job.began)
            job.done.set()
            device = job.ladder.device
            del job  # the frame is the session's now
            self._look_at_gpu(device)

    def _look_at_gpu(self, device: str) -> None:
        if time.monotonic() - self._gpu_at > _GPU_S:
            self.gpu, self._gpu_at = gpu_status(device), time.monotonic()
