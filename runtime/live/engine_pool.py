"""Engines of a live session: the levels of quality for one size, the choice of a level by latency,
the pool of sizes in use, and the thread that runs them.

Nothing can end a call into a GPU or a library that never returns. So the session waits no longer
than a frame can reasonably take, goes on without the engines, and gives up on them, and on this
process, much later.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import StreamDiffVSRError
from ...graphs.arrays import Image
from ...graphs.spec import Size, format_size
from ..frame_stream import Session
from ..processes.child import close_children_of
from ..state import StreamState
from .status import gpu_status

BICUBIC = "bicubic"
DOWN_AFTER = 3  # late frames in a row; one alone only becomes bicubic
CLIMB_BELOW = 0.8  # of the limit: the most that the better rung may be expected to take
FIRST_HOLD_S, LONGEST_HOLD_S = 3.0, 60.0
HOPELESS = 3.0  # times the limit: a rung that costs more is tried seldom from the start
STEADY_S = 30.0  # on the best rung: earlier failed climbs are forgotten
SMOOTHING = 0.3


class LatencyBudget:
    """Goes down a rung when frames are late, and climbs back when there is time for it.

    A climb that fails doubles the time until the next one, so a machine that is too slow for a rung
    tries it less and less often.

    Args:
        rungs: Best first; the last is `BICUBIC`.
        limit_ms: The most from a frame's capture to its hand-over to the sinks; None: always the
            best rung.
        tell: Receives a line for each change of rung.
    """

    def __init__(
        self,
        rungs: Sequence[str],
        limit_ms: float | None,
        *,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not rungs or rungs[-1] != BICUBIC:
            raise ValueError(f"{rungs = } do not end in {BICUBIC!r}")
        if limit_ms is not None and limit_ms <= 0:
            raise ValueError(f"{limit_ms = } is no time")
        self.rungs, self.limit_ms = tuple(rungs), limit_ms
        self._tell, self._clock = tell, clock
        self._costs_ms: dict[str, float] = {}
        self._level = self._late = 0
        self._since = clock()
        self._hold_s = FIRST_HOLD_S
        self._probing = False

    @property
    def rung(self) -> str:
        """The current rung; single frames may still pass as bicubic."""
        return self.rungs[self._level]

    def choose(self, age_ms: float) -> str:
        """Returns the rung for a frame that is `age_ms` old."""
        if self.limit_ms is None:
            return self.rungs[0]
        self._climb(age_ms)
        if self._probing or self.rung not in self._costs_ms:
            return self.rung  # only running it shows what it costs now
        if age_ms + self._costs_ms[self.rung] <= self.limit_ms:
            self._late = 0
            return self.rung
        self._late += 1
        if self._late >= DOWN_AFTER:
            self._step_down(age_ms)
            return self.rung
        return BICUBIC

    def measured(self, rung: str, age_ms: float, cost_ms: float) -> None:
        """Learns the cost of a frame that was `age_ms` old when it began."""
        before = self._costs_ms.get(rung)
        if before is None or (self._probing and rung == self.rung):
            self._costs_ms[rung] = cost_ms  # a probe replaces what was known
        else:
            self._costs_ms[rung] = before + SMOOTHING * (cost_ms - before)
        if self._probing and rung == self.rung:
            self._probing = False
            if self.limit_ms is not None and age_ms + cost_ms > self.limit_ms:
                self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S)
                self._step_down(age_ms)

    def _climb(self, age_ms: float) -> None:
        stayed_s = self._clock() - self._since
        if stayed_s > STEADY_S and self._level == 0:
            self._hold_s = FIRST_HOLD_S
        if self._level == 0 or self.limit_ms is None:
            return
        cost_ms = self._costs_ms.get(self.rungs[self._level - 1], 0.0)
        hopeless = cost_ms > HOPELESS * self.limit_ms
        if stayed_s < (LONGEST_HOLD_S if hopeless else self._hold_s):
            return
        room = age_ms + cost_ms <= CLIMB_BELOW * self.limit_ms
        # Its cost was measured under an earlier load: after the hold it is tried again.
        self._move(-1, "there is room for it" if room else "to see whether it fits again")
        self._probing = True

    def _step_down(self, age_ms: float) -> None:
        if self._level + 1 < len(self.rungs):
            expected = age_ms + self._costs_ms.get(self.rung, 0.0)
            self._move(1, f"{expected:.0f} ms would exceed {self.limit_ms:.0f} ms")

    def _move(self, levels: int, why: str) -> None:
        before = self.rung
        self._level += levels
        self._late, self._since = 0, self._clock()
        self._tell(f"rung {before} -> {self.rung}: {why}")


class QualityLevels:
    """The engines of one size by rung, best first, which share one state.

    Args:
        engines: One session or more by rung, the best first; all of one size.
        seed: The seed of the noise.
        described: A short description of the engines.
        device: The device that they run on, "cpu", "cuda" or "cuda:1".
    """

    def __init__(
        self, engines: Mapping[str, Session], *, seed: int, described: str, device: str = "cpu"
    ) -> None:
        if not engines:
            raise ValueError("a ladder needs an engine")
        self.engines, self.described, self.device = dict(engines), described, device
        self.rungs = (*engines, BICUBIC)
        self._active = next(iter(self.engines.values()))
        self._active.state = StreamState(seed=seed)

    @property
    def size(self) -> Size:
        """LR size (h, w) of the frames."""
        return self._active.size

    def forget(self) -> None:
        """Begins a new epoch: the next frame is made without a previous one."""
        self._active.state = self._active.state.reset()

    def step(self, rung: str, image: Image) -> tuple[Image, dict[str, float]]:
        """Returns the frame upscaled by this rung, and the milliseconds of its stages."""
        engine = self.engines[rung]
        if engine is not self._active:
            engine.state = self._active.state
            self._active = engine
        return engine.step(image), engine.stage_ms()

    def close(self) -> None:
        """Closes the sessions."""
        for engine in self.engines.values():
            engine.close()


Tell = Callable[[str], None]
MAX_POOLED = 2  # sizes: a source that changes back and forth finds both
_TICK_S = 0.05


class _Opening:
    """The progress of opening or building the engines of one size, in a thread of its own."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.thread = threading.Thread(target=run, name="engines", daemon=True)
        self._step, self._since = "opening", time.monotonic()

    def at(self, step: str) -> None:
        self._step = step

    def now(self) -> tuple[str, int]:
        return self._step, int(time.monotonic() - self._since)


class EnginePool:
    """Opens the ladders of quality levels for the sizes in use, and keeps them.

    Args:
        open_ladder: Finds or builds the engines of a size, and calls its second argument with the
            name of each step; may take minutes.
        tell: Receives one line when engines are needed, are ready, or have failed.
        meanwhile: What frames are until then.
    """

    def __init__(
        self,
        open_ladder: Callable[[Size, Tell], QualityLevels],
        *,
        tell: Tell,
        meanwhile: str = BICUBIC,
    ) -> None:
        self._open, self._tell, self._meanwhile = open_ladder, tell, meanwhile
        self._ladders: dict[Size, QualityLevels] = {}
        self._failures: dict[Size, str] = {}
        self._opening: dict[Size, _Opening] = {}
        self._stopped = False
        self._lock = threading.Lock()

    def put(self, ladder: QualityLevels) -> None:
        """Adds a ladder that was opened already."""
        with self._lock:
            self._ladders[ladder.size] = ladder

    def get(self, size: Size) -> QualityLevels | None:
        """Returns the engines of a size; None while they are being opened, or if they failed."""
        with self._lock:
            if size in self._ladders:
                self._ladders[size] = self._ladders.pop(size)  # the last used is dropped last
                return self._ladders[size]
            if size in self._opening or size in self._failures or self._stopped:
                return None
            opening = self._opening[size] = _Opening(lambda: self._fetch(size))
        self._tell(
            f"engines for {format_size(size)}: opened now, or built first, which takes seconds "
            f"for the built-in model; {self._meanwhile} meanwhile"
        )
        opening.thread.start()
        return None

    def fail(self, size: Size, why: str) -> None:
        """Gives up the engines of a size, which have failed."""
        with self._lock:
            ladder = self._ladders.pop(size, None)
            self._failures[size] = why
        left = self._meanwhile
        self._tell(f"engines for {format_size(size)} failed, {left} from now on: {why}")
        if ladder is not None:
            ladder.close()

    def note(self, size: Size) -> str:
        """Returns what a viewer should know about the engines of a size; "" if they run."""
        with self._lock:
            if size in self._failures:
                return f"bicubic: {self._failures[size]}"
            if size not in self._opening:
                return ""
            step, seconds = self._opening[size].now()
            return (
                f"bicubic until the engines for {format_size(size)} are there: {step}, {seconds} s"
            )

    def opening(self, size: Size) -> dict[str, Any] | None:
        """Returns `size`, `step` and `seconds` of engines being opened; None if none are."""
        with self._lock:
            if size not in self._opening:
                return None
            step, seconds = self._opening[size].now()
            return {"size": format_size(size), "step": step, "seconds": seconds}

    def stop_opening(self, timeout_s: float) -> None:
        """Opens no more engines, and ends the builds that are under way.

        A build's process is killed, and its thread then removes the unfinished files. This method
        waits for that for at most `timeout_s` seconds.
        """
        with self._lock:
            self._stopped = True
            threads = [opening.thread for opening in self._opening.values()]
        until = time.monotonic() + timeout_s
        for thread in threads:
            while (thread.ident is None or thread.is_alive()) and time.monotonic() < until:
                close_children_of(thread)
                time.sleep(_TICK_S)

    def close(self) -> bool:
        """Closes the engines; returns whether a thread is still opening some."""
        with self._lock:
            ladders, self._ladders = list(self._ladders.values()), {}
            opening = bool(self._opening)
        for ladder in ladders:
            ladder.close()
        return opening

    def _fetch(self, size: Size) -> None:
        try:
            ladder = self._open(size, self._opening[size].at)
        except Exception as error:  # the thread would end silently
            expected = isinstance(error, StreamDiffVSRError)
            with self._lock:
                self._opening.pop(size)
                if self._stopped:
                    self._failures[size] = "the session ended before its engines were ready"
                    return
            self.fail(size, str(error) if expected else f"{type(error).__name__}: {error}")
            return
        with self._lock:
            self._opening.pop(size)
            wanted = not self._stopped
            if wanted:
                self._ladders[size] = ladder
                for old in list(self._ladders)[:-MAX_POOLED]:
                    self._ladders.pop(old)  # not closed: it may be making a frame right now
        if wanted:
            self._tell(f"engines for {format_size(size)}: {ladder.described}")
        else:
            ladder.close()


Stepped = tuple[Image, dict[str, float]]  # the frame, milliseconds by stage

WARM_UP = 3  # frames of a rung before its usual time is known
_REMEMBERED = 32
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
    """Makes frames with ladders of quality levels, one at a time, for one session.

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
        self._overdue: _Job | None = None
        self._ladder: QualityLevels | None = None
        self._costs_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    @property
    def stuck_s(self) -> float:
        """Seconds that an overdue frame has taken; 0 if engines can be used. From any thread."""
        job = self._overdue
        return 0.0 if job is None or job.done.is_set() else time.monotonic() - job.began

    @property
    def lost(self) -> bool:
        """Returns whether the overdue frame has taken so long that it will never come."""
        job = self._overdue
        return job is not None and self.stuck_s > self.limits.give_up * job.deadline_s

    def usual_s(self, rung: str) -> float | None:
        """Returns the seconds that a frame of that rung usually takes, or None if unknown."""
        costs = list(self._costs_s[rung])  # a late frame may be adding its own
        return statistics.median(costs) if len(costs) >= WARM_UP else None

    def step(self, ladder: QualityLevels, rung: str, image: Image) -> Stepped | None:
        """Runs `QualityLevels.step` in the engines' thread; returns None when it is overdue.

        Then `stuck_s` says for how long, and the ladder must not be used until that is 0. A
        frame that comes too late is dropped; only the time that it took is kept.
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
        """Ends the thread, if it can be ended; a later `step` starts another."""
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
