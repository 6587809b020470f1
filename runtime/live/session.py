"""One live session: newest frame in, one output frame to every sink, for as long as it lasts.

The loop reads top to bottom in `_frame`: forget what does not belong to this frame, choose a rung,
make the frame, hand it on. It knows no libav, no network and no terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, Protocol

from ...errors import StreamDiffVSRError
from ...graphs.spec import SCALE, format_size
from ..media.rgb import Bicubic
from ..scene_cuts import CutDetector
from .engine_pool import EnginePool, QualityLevels
from .engine_thread import EngineThread, HangLimits
from .frame import Image, LiveFrame, OutputFrame, Sink
from .latency_budget import BICUBIC, LatencyBudget
from .status import Tally, memory_mb

WAIT_S = 0.2
MAX_GAP_S = 1.0  # between two frames that may guide one another
MAX_GAP_FRAMES = 3.0  # but as many times what a frame takes, where that is longer
Made = tuple[Image, str, dict[str, float]]  # the frame, its rung, milliseconds by stage


class Source(Protocol):
    """Where frames come from: `LiveSource`, or a test's own."""

    def newest(self, timeout_s: float) -> LiveFrame | None:
        """A frame newer than the last one given; EOFError when there will be none."""

    def status(self) -> dict[str, Any]:
        """As `LiveSource.status`."""

    def close(self) -> None:
        """Stop."""


class LiveSession:
    """From a source through engines to sinks.

    Args:
        limit_ms: The latency to keep by shedding work, or None.
        tell: Receives one line for whatever a user should know.
        limits: How long a frame may take before the engines are held to be stuck.
    """

    def __init__(
        self,
        source: Source,
        shelf: EnginePool,
        sinks: Sequence[Sink],
        *,
        limit_ms: float | None = None,
        tell: Callable[[str], None] = lambda _: None,
        max_gap_s: float = MAX_GAP_S,
        limits: HangLimits | None = None,
    ) -> None:
        self._source, self._shelf, self.sinks = source, shelf, list(sinks)
        self._limit_ms, self._tell, self._max_gap_s = limit_ms, tell, max_gap_s
        self._tally = Tally()
        self._cuts = CutDetector()
        self._bicubic = Bicubic(SCALE)
        self._runner = EngineThread(limits)
        self._ladder: QualityLevels | None = None
        self._budget = LatencyBudget([BICUBIC], limit_ms)
        self._last: LiveFrame | None = None
        self._reconnects = 0  # of the source, at the last new epoch
        self._last_made: float | None = None  # when the frame was shown that the state is of
        self._own_pace_s = 0.0  # slow engines would never be guided by a limit of their own time
        self._forget: str | None = None  # why the state must not guide the next frame
        self._stuck = False  # the engines are at a frame that is overdue: nothing may touch them

    def run(self, stop: Event, *, max_frames: int | None = None) -> bool:
        """Until the source ends, `stop` is set, or that many frames are out.

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
                if frame is not None:
                    self._frame(frame)
                    done += 1
        except EOFError:
            return True
        finally:
            self._runner.close()
        return False

    @property
    def stuck_s(self) -> float:
        """How long the frame has taken that the engines are stuck at; 0: all is well."""
        return self._runner.stuck_s

    def status(self) -> dict[str, Any]:
        """All that is known, as JSON can carry it (docs/live.md names every field)."""
        source, last, ladder = self._source.status(), self._last, self._ladder
        return {
            "state": source["state"],
            **self._tally.to_json(),
            "source": source,
            "fps_in": source.get("fps"),
            "dropped": source["dropped"],
            "size": format_size(last.size) if last else None,
            "rung": self._budget.rung,
            "rungs": list(self._budget.rungs),
            "engine": ladder.described if ladder else "",
            "stuck_s": round(self.stuck_s, 1),
            "note": self._note(),
            "building": self._shelf.opening(last.size) if last else None,
            "memory_mb": memory_mb(),
            "gpu": self._runner.gpu,
            "sinks": [sink.status() for sink in self.sinks],
        }

    def _note(self) -> str:
        if stuck_s := self.stuck_s:
            return f"engine stuck for {stuck_s:.0f} s, bicubic"
        return self._shelf.note(self._last.size) if self._last else ""

    def _frame(self, frame: LiveFrame) -> None:
        self._note_resets(frame)
        ladder = None if self._stuck else self._ladder_for(frame)
        age_ms = 1000 * (time.monotonic() - frame.captured)
        rung = self._budget.choose(age_ms)
        if ladder is None or frame.damaged or rung == BICUBIC:
            image, rung, stage_ms = self._pass_through(frame)
        else:
            image, rung, stage_ms = self._make(ladder, rung, frame, age_ms)
        finished = time.monotonic()
        image.flags.writeable = False  # every sink has the same
        out = OutputFrame(image, frame, rung, finished, stage_ms)
        for sink in self.sinks:
            sink.offer(out)
        self._tally.frame(out, passed_through=rung == BICUBIC)
        self._last = frame

    def _note_resets(self, frame: LiveFrame) -> None:
        """Note why the state must be forgotten, if it must; the first reason counts."""
        last = self._last
        if last is not None and frame.epoch != last.epoch:
            self._cuts.reset()  # there is nothing to compare with, maybe not even of its size
            self._forget = self._forget or self._why_new_epoch(frame, last)
        if self._cuts.is_cut(frame.image):
            self._forget = self._forget or "cut"
        if frame.damaged:
            self._forget = self._forget or "damage"

    def _why_new_epoch(self, frame: LiveFrame, last: LiveFrame) -> str:
        before, self._reconnects = self._reconnects, self._source.status()["reconnects"]
        if frame.size != last.size:
            return "size"
        return "reconnect" if self._reconnects > before else "jump"

    def _ladder_for(self, frame: LiveFrame) -> QualityLevels | None:
        ladder = self._shelf.get(frame.size)
        if ladder is not self._ladder:
            rungs = ladder.rungs if ladder else (BICUBIC,)
            self._budget = LatencyBudget(rungs, self._limit_ms, tell=self._tell)
            self._ladder, self._last_made = ladder, None
            if ladder is not None:
                ladder.forget()  # it may have been used before
        return ladder

    def _make(self, ladder: QualityLevels, rung: str, frame: LiveFrame, age_ms: float) -> Made:
        """The frame by the model; bicubic, and from then on, where the engines fail."""
        if self._last_made is not None:
            if frame.seconds - self._last_made > max(self._max_gap_s, self._own_pace_s):
                self._forget = self._forget or "gap"
            if self._forget:
                ladder.forget()
                self._tally.reset(self._forget)
        self._forget, self._last_made = None, frame.seconds
        started = time.perf_counter()
        try:
            made = self._runner.step(ladder, rung, frame.image)
        except StreamDiffVSRError as error:
            self._shelf.fail(frame.size, str(error))
            return self._pass_through(frame)
        if made is None:
            self._note_stuck(rung, time.perf_counter() - started)
            return self._pass_through(frame)
        cost_ms = 1000 * (time.perf_counter() - started)
        self._budget.measured(rung, age_ms, cost_ms)
        self._own_pace_s = MAX_GAP_FRAMES * cost_ms / 1000
        return made[0], rung, {"wait": age_ms, **(made[1] or {"upscale": cost_ms})}

    def _note_stuck(self, rung: str, took_s: float) -> None:
        self._stuck, usual_s = True, self._runner.usual_s(rung)
        usual = "the first ones" if usual_s is None else f"{usual_s:.2g} s is usual"
        self._tell(f"engine stuck: a frame has taken {took_s:.0f} s ({usual}); bicubic now")

    def _check_engines(self) -> None:
        """Use the engines again once they answer; give up on them if they never will."""
        if not self._stuck:
            return
        if self._runner.lost:
            raise StreamDiffVSRError(
                f"the engine has been stuck for {self.stuck_s:.0f} s",
                "a frame has never come back from it, and nothing here can end that",
                "start again, as a service manager does by itself (docs/live.md)",
            )
        if not self.stuck_s:
            self._stuck, self._forget = False, "stuck"
            self._tell("the engine answers again")

    def _pass_through(self, frame: LiveFrame) -> Made:
        started = time.perf_counter()
        image = self._bicubic(frame.image)
        return image, BICUBIC, {"bicubic": 1000 * (time.perf_counter() - started)}
