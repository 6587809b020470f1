"""Upscales the newest frame of a live source and hands it to every sink, in a loop.

The loop is `LiveSession.run` and `_upscale`: choose a rung, upscale the frame with it or by
bicubic, and hand it to the sinks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ...errors import StreamDiffVSRError, UsageError, option
from ...graphs.spec import SCALE, format_size
from ..media.resize import Bicubic
from .engine_pool import BICUBIC, EnginePool, LatencyBudget, QualityLevels
from .engine_thread import EngineThread, HangLimits
from .frame import Continuity, Image, LiveFrame, OutputFrame, Sink
from .mode import ADAPTIVE, AUTO, EXACT, Period, WholeFrames
from .source import LiveSource
from .status import Tally, memory_mb

if TYPE_CHECKING:  # they need OpenCV, which exact mode does without
    from ..adaptive.upscaler import Region
    from .adaptive_frames import AdaptiveFrames

WAIT_S = 0.2
Made = tuple[Image, str, dict[str, float]]  # the output frame, its rung, milliseconds by stage
_INTERPOLATED = np.zeros((1, 1), np.uint8)  # the freshness of such a frame


class LiveSession:
    """Upscales the frames of a source with the engines of a pool, and hands them to sinks.

    Args:
        mode: "exact": every frame whole, by the engines of the pool; "adaptive": every frame from
            a canvas; "auto": from a canvas, or whole where that keeps the source's rate.
        adaptive: What makes frames from a canvas; None in exact mode.
        limit_ms: The latency in ms to keep by lowering the quality, or None.
        tell: Receives one line for each thing that a user should know.
        limits: How long a frame may take before the engines count as stuck.
        runner: The thread that runs the engines of whole frames, for several sessions; None for one
            of its own, with these limits.
        memory: Returns the memory of all processes in MiB, for the status.
    """

    def __init__(
        self,
        source: LiveSource,
        shelf: EnginePool,
        sinks: Sequence[Sink],
        *,
        mode: str = EXACT,
        adaptive: AdaptiveFrames | None = None,
        limit_ms: float | None = None,
        tell: Callable[[str], None] = lambda _: None,
        limits: HangLimits | None = None,
        runner: EngineThread | None = None,
        memory: Callable[[], int | None] = memory_mb,
    ) -> None:
        if (adaptive is None) != (mode == EXACT):
            raise ValueError(f"{mode = } and {adaptive = } do not go together")
        self._source, self._shelf, self.sinks = source, shelf, list(sinks)
        self._mode, self._adaptive = mode, adaptive
        # A late frame becomes adaptive in auto mode, not one of a lower rung.
        self._limit_ms = limit_ms if mode == EXACT else None
        self._canvas_budget = LatencyBudget([ADAPTIVE, BICUBIC], limit_ms, tell=tell)
        self._whole, self._period = WholeFrames(limit_ms, tell=tell), Period()
        self._running = BICUBIC  # the last frame's mode
        self._tell = tell
        self._tally = Tally()
        self._continuity = Continuity(lambda: source.status()["reconnects"])
        self._bicubic = Bicubic(SCALE)
        self._runner = runner or EngineThread(limits)
        self._owns_runner, self._memory = runner is None, memory
        self._shared: QualityLevels | None = None  # the pool's, of which the ladder has the engines
        self._own: WeakKeyDictionary[QualityLevels, QualityLevels] = WeakKeyDictionary()
        self._ladder: QualityLevels | None = None
        self._budget = LatencyBudget([BICUBIC], self._limit_ms)
        self._last: LiveFrame | None = None
        self._stuck = False  # a frame of the engines is overdue, and nothing may use them

    def run(self, stop: Event, *, max_frames: int | None = None) -> bool:
        """Runs until the source ends, `stop` is set, or `max_frames` frames were handed out.

        Returns:
            Whether the source has ended.

        Raises:
            StreamDiffVSRError: The source cannot go on, or the engines are stuck for good.
        """
        done = 0
        try:
            while not stop.is_set() and (max_frames is None or done < max_frames):
                self._check_engines()
                frame = self._source.newest(WAIT_S)
                if frame is None:
                    continue
                out = self._upscale(frame)
                for sink in self.sinks:
                    sink.offer(out)
                self._tally.frame(out, passed_through=out.rung == BICUBIC)
                self._last = frame
                done += 1
        except EOFError:
            return True
        finally:
            if self._owns_runner:
                self._runner.close()
            if self._adaptive is not None:
                self._adaptive.close()
        return False

    def prefer(self, regions: Sequence[Region]) -> None:
        """Sets the regions of interest (x, y, width, height), in pixels of the source.

        They take the place of earlier ones. From any thread.

        Raises:
            UsageError: A region lies outside the newest frame, or frames are made whole only.
        """
        if self._adaptive is None:
            what = "regions of interest need adaptive frames"
            raise UsageError(what, remedy=f"use {option('mode', 'auto')}")
        self._adaptive.prefer(regions)

    def stop_engines(self, timeout_s: float) -> bool:
        """Opens no more engines of tiles; returns whether a thread is still at work in one."""
        return self._adaptive is not None and self._adaptive.stop(timeout_s)

    def _upscale(self, frame: LiveFrame) -> OutputFrame:
        """Upscales a frame in the mode that keeps the source's rate."""
        self._continuity.note(frame)
        self._period.note(frame)
        freshness = None
        if self._adaptive is None:
            made = self._by_ladder(frame) or self._pass_through(frame)
        else:
            made, freshness = self._by_mode(self._adaptive, frame)
        image, rung, stage_ms = made
        self._running = rung if rung in (ADAPTIVE, BICUBIC) else EXACT
        image.flags.writeable = False  # all sinks share it
        return OutputFrame(image, frame, rung, time.monotonic(), stage_ms, freshness)

    def _by_mode(
        self, adaptive: AdaptiveFrames, frame: LiveFrame
    ) -> tuple[Made, npt.NDArray[np.uint8] | None]:
        """Returns a frame that was made whole or from a canvas, and its freshness."""
        if not frame.damaged and self._takes_whole(adaptive, frame):
            made = self._by_ladder(frame)
            if made is not None:
                adaptive.follow(frame, made[0])
                return made, None
            self._whole.end("the engines of whole frames fail or do not answer")
        self._shared = self._ladder = None  # the state of whole frames is not of this one
        return self._from_canvas(adaptive, frame)

    def _takes_whole(self, adaptive: AdaptiveFrames, frame: LiveFrame) -> bool:
        """Returns whether a frame is to be made whole; has engines for that opened if needed."""
        if self._mode != AUTO or self._stuck or not adaptive.ready:
            return False
        count, period_s = adaptive.tile_count(frame.size), self._period.seconds
        if not self._whole.expected(count, adaptive.tile_s, period_s):
            return False
        if self._shelf.get(frame.size) is None:
            self._whole.end("the engines of whole frames are not there")
            return False
        self._whole.begin()
        return True

    def _from_canvas(
        self, adaptive: AdaptiveFrames, frame: LiveFrame
    ) -> tuple[Made, npt.NDArray[np.uint8]]:
        """Returns a frame of the canvas and its freshness; bicubic if it is damaged or late."""
        age_ms = 1000 * (time.monotonic() - frame.captured)
        usable = adaptive.ready and not frame.damaged
        if not usable or self._canvas_budget.choose(age_ms) == BICUBIC:
            return self._pass_through(frame), _INTERPOLATED
        if reset := self._continuity.why_forget(frame):
            adaptive.reset()
            self._tally.reset(reset)
        started = time.perf_counter()
        made = adaptive.step(frame, self._period)
        cost_s = time.perf_counter() - started
        self._canvas_budget.measured(ADAPTIVE, age_ms, 1000 * cost_s)
        self._continuity.made_in(cost_s)
        return (made.image, ADAPTIVE, {"wait": age_ms, **made.stage_ms}), made.freshness

    def _by_ladder(self, frame: LiveFrame) -> Made | None:
        """Upscales a frame by the best rung that keeps the latency; None if that is bicubic."""
        ladder = None if self._stuck else self._ladder_for(frame)
        age_ms = 1000 * (time.monotonic() - frame.captured)
        rung = self._budget.choose(age_ms)
        if ladder is None or frame.damaged or rung == BICUBIC:
            return None
        return self._make(ladder, rung, frame, age_ms)

    def _make(
        self, ladder: QualityLevels, rung: str, frame: LiveFrame, age_ms: float
    ) -> Made | None:
        """Upscales a frame by the model; returns None if the engines fail or do not answer."""
        if reset := self._continuity.why_forget(frame):
            ladder.forget()
            self._tally.reset(reset)
        started = time.perf_counter()
        try:
            made = self._runner.step(ladder, rung, frame.image)
        except StreamDiffVSRError as error:
            self._shelf.fail(frame.size, str(error))
            return None
        cost_s = time.perf_counter() - started
        if made is None:
            self._note_stuck(ladder, rung)
            return None
        self._budget.measured(rung, age_ms, 1000 * cost_s)
        skipped = self._period.skipped
        self._whole.measured(age_ms / 1000, cost_s, self._period.seconds, skipped=skipped)
        self._continuity.made_in(cost_s)
        image, stage_ms = made
        return image, rung, {"wait": age_ms, **(stage_ms or {"upscale": 1000 * cost_s})}

    def _ladder_for(self, frame: LiveFrame) -> QualityLevels | None:
        shared = self._shelf.get(frame.size)
        if shared is not self._shared:
            self._shared, self._ladder = shared, self._own_ladder(shared) if shared else None
            rungs = shared.rungs if shared else (BICUBIC,)
            self._budget = LatencyBudget(rungs, self._limit_ms, tell=self._tell)
            self._continuity.restart()
        return self._ladder

    def _own_ladder(self, shared: QualityLevels) -> QualityLevels:
        own = self._own.setdefault(shared, shared.share())
        own.forget()  # it may have been used before
        return own

    def _note_stuck(self, ladder: QualityLevels, rung: str) -> None:
        self._stuck, usual_s = True, ladder.usual_s(rung)
        usual = "the first ones" if usual_s is None else f"{usual_s:.2g} s is usual"
        took_s = self._runner.stuck_s
        self._tell(f"engine stuck: a frame has taken {took_s:.0f} s ({usual}); bicubic now")

    def _check_engines(self) -> None:
        """Allows the engines again once they answer; raises if they never will."""
        if self._adaptive is not None:
            self._adaptive.check()
        if not self._stuck:
            return
        if self._runner.lost:
            raise StreamDiffVSRError(
                f"the engine has been stuck for {self._runner.stuck_s:.0f} s",
                "a frame has never come back from it, and nothing here can end that",
                "start again, as a service manager does by itself (docs/live.md)",
            )
        if not self._runner.stuck_s:
            self._stuck = False
            self._continuity.end("stuck")
            self._tell("the engine answers again")

    def _pass_through(self, frame: LiveFrame) -> Made:
        started = time.perf_counter()
        image = self._bicubic(frame.image)
        return image, BICUBIC, {"bicubic": 1000 * (time.perf_counter() - started)}

    @property
    def stuck_s(self) -> float:
        """The seconds that an overdue frame or tile has taken; 0 if the engines are not stuck."""
        tiles_s = self._adaptive.stuck_s if self._adaptive else 0.0
        return max(self._runner.stuck_s, tiles_s)

    def status(self) -> dict[str, Any]:
        """Returns the status as JSON can carry it (docs/live.md describes every field)."""
        source, last = self._source.status(), self._last
        return {
            "state": source["state"],
            **self._tally.to_json(),
            "source": source,
            "fps_in": source.get("fps"),
            "dropped": source["dropped"],
            "size": format_size(last.size) if last else None,
            "mode": self._mode,
            "running": self._running,
            **self._engines(),
            "stuck_s": round(self.stuck_s, 1),
            "note": self._note(),
            "building": self._building(),
            "memory_mb": self._memory(),
            "sinks": [sink.status() for sink in self.sinks],
        }

    def _engines(self) -> dict[str, Any]:
        """Returns the part of the status that says what makes the frames."""
        ladder, adaptive = self._ladder, self._adaptive
        if adaptive is None:
            return {
                "rung": self._budget.rung,
                "rungs": list(self._budget.rungs),
                "engine": ladder.described if ladder else "",
                "gpu": self._runner.gpu,
                "adaptive": None,
            }
        whole = self._running == EXACT and ladder is not None
        return {
            "rung": self._budget.rung if whole else self._running,
            "rungs": [*(["full"] if self._mode == AUTO else []), *self._canvas_budget.rungs],
            "engine": ladder.described if whole and ladder else adaptive.described,
            "gpu": self._runner.gpu or adaptive.gpu,
            "adaptive": None if whole else adaptive.status(),
        }

    def _building(self) -> dict[str, Any] | None:
        tiles = self._adaptive.opening() if self._adaptive else None
        return tiles or (self._shelf.opening(self._last.size) if self._last else None)

    def _note(self) -> str:
        if stuck_s := self._runner.stuck_s:
            return f"engine stuck for {stuck_s:.0f} s, {ADAPTIVE if self._adaptive else BICUBIC}"
        if self._adaptive is not None:
            return self._adaptive.note()
        return self._shelf.note(self._last.size) if self._last else ""
