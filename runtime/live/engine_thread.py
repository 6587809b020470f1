"""Runs the engines of whole frames in a thread, and gives up on those that never return.

Nothing can end a call into a GPU or a library that never returns. So a session waits no longer than
a frame can reasonably take, goes on without the engines, and gives up on them, and on this process,
much later.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ...graphs.arrays import Image
from .engine_pool import QualityLevels
from .status import gpu_status

Stepped = tuple[Image, dict[str, float]]  # the frame, milliseconds by stage

_GPU_S = 1.0  # between two looks at the GPU's memory


@dataclass(frozen=True, slots=True)
class HangLimits:
    """Limits of the time that a frame may take.

    Attributes:
        least_s: No frame is overdue earlier than this, in seconds.
        times: The deadline in median times of the frame's rung, where that is longer.
        unknown_s: The deadline in seconds before that is known: the first frame may compile.
        give_up: Deadlines after which a frame is taken as lost.
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
    """Makes frames with ladders of quality levels, one at a time, for one session or for many.

    Sessions take turns: each has one frame here at most, and they are made in the order of arrival.

    Attributes:
        gpu: The `gpu_status` of the GPU that the engines run on; it may be a second old. Only
            the engines' own thread asks for it, as a GPU that hangs may not answer.
    """

    def __init__(self, limits: HangLimits | None = None) -> None:
        self.limits = limits or HangLimits()
        self.gpu: dict[str, Any] | None = None
        self._gpu_at = float("-inf")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._overdue: list[_Job] = []

    @property
    def stuck_s(self) -> float:
        """Seconds that an overdue frame has taken; 0 if engines can be used. From any thread."""
        return max((time.monotonic() - job.began for job in self._late()), default=0.0)

    @property
    def lost(self) -> bool:
        """Returns whether an overdue frame has taken so long that it will never come."""
        now, give_up = time.monotonic(), self.limits.give_up
        return any(now - job.began > give_up * job.deadline_s for job in self._late())

    def step(self, ladder: QualityLevels, rung: str, image: Image) -> Stepped | None:
        """Runs `QualityLevels.step` in the engines' thread; returns None when it is overdue.

        Then `stuck_s` says for how long, and no ladder may be used until that is 0. A frame that
        comes too late is dropped; only the time that it took is kept.
        """
        if self.stuck_s:
            return None
        waiting = self._jobs.qsize()  # frames of other sessions, which are made first
        job = _Job(ladder, rung, image, (1 + waiting) * self._deadline_s(ladder, rung))
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
        self._jobs.put(job)
        if not job.done.wait(job.deadline_s):
            self._overdue = [*self._late(), job]
            return None
        if job.error is not None:
            raise job.error
        return job.made

    def close(self) -> None:
        """Ends the thread, if it can be ended; a later `step` starts another."""
        if self._thread is not None and not self.stuck_s:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _late(self) -> list[_Job]:
        return [job for job in self._overdue if not job.done.is_set()]

    def _deadline_s(self, ladder: QualityLevels, rung: str) -> float:
        limits, usual_s = self.limits, ladder.usual_s(rung)
        return limits.unknown_s if usual_s is None else max(limits.least_s, limits.times * usual_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.made = job.ladder.step(job.rung, job.image)
            except Exception as error:  # raised where the frame was asked for
                job.error = error
            job.done.set()
            device = job.ladder.device
            del job  # the frame is the session's now
            self._look_at_gpu(device)

    def _look_at_gpu(self, device: str) -> None:
        if time.monotonic() - self._gpu_at > _GPU_S:
            self.gpu, self._gpu_at = gpu_status(device), time.monotonic()
