"""Engines of live sessions: the levels of quality for one size, the choice of a level by latency,
and the pool of sizes in use."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from ...errors import StreamDiffVSRError
from ...graphs.arrays import Image
from ...graphs.spec import Size, format_size
from ..frame_stream import Session
from ..processes.child import close_children_of
from ..state import StreamState

BICUBIC = "bicubic"
DOWN_AFTER = 3  # late frames in a row; one alone only becomes bicubic
CLIMB_BELOW = 0.8  # of the limit: the most that the better rung may be expected to take
FIRST_HOLD_S, LONGEST_HOLD_S = 3.0, 60.0
HOPELESS = 3.0  # times the limit: a rung that costs more is tried seldom from the start
STEADY_S = 30.0  # on the best rung: earlier failed climbs are forgotten
SMOOTHING = 0.3
WARM_UP = 3  # frames of a rung before its usual time is known
_REMEMBERED = 32
_CLOSE_S = 2.0


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
    """The engines of one size by rung, best first, and the state of one stream of frames.

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
        self._state = StreamState(seed=seed)
        self._costs_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._turn = threading.Lock()

    def share(self) -> QualityLevels:
        """Returns the same engines for another stream, with a state of its own."""
        twin = copy(self)
        twin._state = StreamState(seed=self._state.seed)
        return twin

    @property
    def size(self) -> Size:
        """LR size (h, w) of the frames."""
        return next(iter(self.engines.values())).size

    def forget(self) -> None:
        """Begins a new epoch: the next frame is made without a previous one."""
        self._state = self._state.reset()

    def step(self, rung: str, image: Image) -> tuple[Image, dict[str, float]]:
        """Returns the frame upscaled by this rung, and the milliseconds of its stages."""
        engine, began = self.engines[rung], time.monotonic()
        with self._turn:
            engine.state = self._state
            try:
                made = engine.step(image), engine.stage_ms()
            finally:
                self._costs_s[rung].append(time.monotonic() - began)
            self._state = engine.state
            return made

    def usual_s(self, rung: str) -> float | None:
        """Returns the seconds that a frame of that rung usually takes, or None if unknown."""
        costs = list(self._costs_s[rung])  # a late frame may be adding its own
        return statistics.median(costs) if len(costs) >= WARM_UP else None

    def close(self) -> None:
        """Closes the sessions, for all streams; one that is at work for long keeps its memory."""
        if self._turn.acquire(timeout=_CLOSE_S):
            try:
                for engine in self.engines.values():
                    engine.close()
            finally:
                self._turn.release()


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
        given: Whether the engines were given, so that none are ever built.
        pooled: For how many sizes engines are kept.
    """

    def __init__(
        self,
        open_ladder: Callable[[Size, Tell], QualityLevels],
        *,
        tell: Tell,
        meanwhile: str = BICUBIC,
        given: bool = False,
        pooled: int = MAX_POOLED,
    ) -> None:
        self._open, self._tell, self._meanwhile = open_ladder, tell, meanwhile
        self._given, self._pooled = given, pooled
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
        built = "opened now, or built first, which takes seconds for the built-in model"
        how = "the given set is checked and opened" if self._given else built
        self._tell(f"engines for {format_size(size)}: {how}; {self._meanwhile} meanwhile")
        opening.thread.start()
        return None

    def fail(self, size: Size, why: str) -> None:
        """Gives up the engines of a size, which have failed."""
        with self._lock:
            ladder = self._ladders.pop(size, None)
            if ladder is None and size in self._failures:  # as another stream has found
                return
            self._failures[size] = why
        left = self._meanwhile
        self._tell(f"engines for {format_size(size)} failed, {left} from now on: {why}")
        if ladder is not None:
            ladder.close()

    def forgive(self) -> None:
        """Lets engines that have failed be opened again, when they are next needed."""
        with self._lock:
            self._failures.clear()

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
                for old in list(self._ladders)[: -self._pooled]:
                    self._ladders.pop(old)  # not closed: it may be making a frame right now
        if wanted:
            self._tell(f"engines for {format_size(size)}: {ladder.described}")
        else:
            ladder.close()
