"""Opens the engine of the tiles and runs it in one thread, for one camera or for many.

Every camera has a place with its own queue. Of those whose tiles wait, the one goes first that has
waited longest for its last one, weighted by how stale its picture is. So no camera starves, none
builds up a backlog, and what has changed most gets most.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..processes.child import close_children_of
from .engine_pool import WARM_UP
from .engine_thread import HangLimits
from .status import gpu_status

if TYPE_CHECKING:  # these need OpenCV, which exact mode does without
    from ..adaptive.canvas import Floats
    from ..adaptive.upscaler import Job
    from .refiner import OpenedTiles

Tell = Callable[[str], None]
NICE = 5  # frames and encoders go first where a core is wanted by several
LEAST_STALE = 0.1  # the weight of a picture that has just been made
ACTIVE_S = 3.0  # after its last tiles a camera no longer counts as one that wants some
_REMEMBERED = 32
_GPU_S = 1.0  # between two looks at the GPU's memory
_TICK_S = 0.05
_END_S = 1.0


Done = Callable[["Job", "Floats"], None]  # a tile, and what the model made of it


@dataclass(slots=True, eq=False)
class Place:
    """The place of one camera.

    Attributes:
        fail: Receives the error that its tiles, or the opening of the engine, ended with.
        backlog: The number of its tiles that are not back yet.
    """

    fail: Callable[[Exception], None]
    backlog: int = 0
    waiting: deque[tuple[Job, Done]] = field(default_factory=deque)
    stale: float = 1.0
    asked: float = float("-inf")  # when it last handed over tiles
    served: float = field(default_factory=time.monotonic)

    def urgency(self, now: float) -> float:
        """Returns how much its next tile matters: the longer it waits, the more."""
        return self.stale * (now - self.served)


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    place: Place
    job: Job
    done: Done


class TileThread:
    """Opens the engine of the tiles and runs it, in one thread of a low priority.

    Args:
        open_tiles: Finds or builds the engine, and calls its argument with the name of each step.
        limits: How long a tile may take before the engine counts as stuck.

    Attributes:
        opened: The engine; None until it is open.
        tile_s: The seconds that a tile takes, a median; None before the first one.
        gpu: The `gpu_status` of the engine's GPU, as of up to a second ago.
    """

    def __init__(
        self, open_tiles: Callable[[Tell], OpenedTiles], limits: HangLimits | None = None
    ) -> None:
        self._open, self._limits = open_tiles, limits or HangLimits()
        self.opened: OpenedTiles | None = None
        self.tile_s: float | None = None
        self.gpu: dict[str, Any] | None = None
        self._gpu_at = float("-inf")
        self._costs_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._changed = threading.Condition()
        self._places: list[Place] = []
        self._since: float | None = None  # the launch that runs now, or the opening
        self._step = "opening"
        self._thread: threading.Thread | None = None

    @property
    def stuck_s(self) -> float:
        """The seconds that an overdue tile has taken; 0 if none is overdue. From any thread."""
        since = self._since if self.opened is not None else None
        took_s = 0.0 if since is None else time.monotonic() - since
        return took_s if took_s > self._deadline_s() else 0.0

    @property
    def lost(self) -> bool:
        """Whether an overdue tile has taken so long that it will never come."""
        return self.stuck_s > self._limits.give_up * self._deadline_s()

    def opening(self) -> tuple[str, float] | None:
        """Returns the step and the seconds of the opening or building of the engine, or None."""
        since = self._since
        if self.opened is not None or since is None:
            return None
        return self._step, time.monotonic() - since

    def enter(self, place: Place) -> None:
        """Counts a place among those that are served; opens the engine in the background."""
        with self._changed:
            if place not in self._places:
                self._places.append(place)
                place.served = time.monotonic()
            if self._thread is None:
                if self.opened is None:
                    self._since = time.monotonic()
                self._thread = threading.Thread(target=self._run, name="tiles", daemon=True)
                self._thread.start()

    def submit(self, place: Place, jobs: Sequence[Job], done: Done, stale: float) -> None:
        """Queues tiles.

        Args:
            done: Receives each tile with what the model made of it, in the thread.
            stale: The weight of the camera, up to 1.
        """
        with self._changed:
            place.stale, place.asked = max(stale, LEAST_STALE), time.monotonic()
            place.waiting.extend((job, done) for job in jobs)
            place.backlog += len(jobs)
            self._changed.notify()

    def share_of(self, place: Place) -> float:
        """Returns the part of the engine that a place may expect, above 0 and up to 1."""
        since = time.monotonic() - ACTIVE_S
        with self._changed:
            others = [p.stale for p in self._places if p is not place and p.asked > since]
        return place.stale / (place.stale + sum(others))

    def drop_waiting(self, place: Place) -> None:
        """Drops the tiles of a place that have not begun."""
        with self._changed:
            place.backlog -= len(place.waiting)
            place.waiting.clear()

    def leave(self, place: Place, timeout_s: float = 0.0) -> bool:
        """Gives up a place; the last one ends the thread, if that can be ended.

        Args:
            timeout_s: How long to wait for a build to end; 0 leaves it alone.

        Returns:
            Whether the thread goes on although no place is left.
        """
        self.drop_waiting(place)
        with self._changed:
            if place in self._places:
                self._places.remove(place)
            thread = self._thread
            if self._places or thread is None:
                return False
        until = time.monotonic() + timeout_s
        while self.opening() is not None and time.monotonic() < until:
            close_children_of(thread)
            time.sleep(_TICK_S)
        if self.opening() is None and not self.stuck_s:
            with self._changed:
                self._changed.notify()
            thread.join(_END_S)
        return thread.is_alive()

    def _deadline_s(self) -> float:
        limits, costs = self._limits, list(self._costs_s)
        if len(costs) < WARM_UP:
            return limits.unknown_s
        return max(limits.least_s, limits.times * statistics.median(costs))

    def _run(self) -> None:
        _yield_to_frames()
        try:
            opened = self.opened or self._open(self._at)
        except Exception as error:  # the thread would end silently
            with self._changed:
                places, self._places = self._places, []
                self._since = self._thread = None
            for place in places:
                self._failed(place, error)
            return
        self._since, self.opened = None, opened
        self._look_at_gpu(opened)
        while not self._ended():
            while taken := self._next(opened.engine.batch):
                self._launch(opened, taken)
            opened.engine.close()

    def _ended(self) -> bool:
        """Returns whether no place is left; then another thread may be started."""
        with self._changed:
            if not self._places:
                self._thread = None
            return not self._places

    def _next(self, batch: int) -> list[_Taken]:
        """Waits for tiles, and returns those of the next launch; none if no place is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._places or self._most_urgent())
            taken: list[_Taken] = []
            while len(taken) < batch and (place := self._most_urgent()) is not None:
                taken.append(_Taken(place, *place.waiting.popleft()))
                place.served = time.monotonic()
            return taken

    def _most_urgent(self) -> Place | None:
        now = time.monotonic()
        waiting = [place for place in self._places if place.waiting]
        return max(waiting, key=lambda place: place.urgency(now), default=None)

    def _launch(self, opened: OpenedTiles, taken: Sequence[_Taken]) -> None:
        """Runs the model once; what fails for one camera fails for no other."""
        self._since = began = time.monotonic()
        try:
            made = opened.engine.refine([one.job.tile for one in taken])
        except Exception as error:
            self._since = None
            places = {one.place for one in taken}
            for place in places:
                if len(places) > 1:
                    self._launch(opened, [one for one in taken if one.place is place])
                else:
                    self._failed(place, error)
            return
        took_s, self._since = time.monotonic() - began, None
        self._costs_s.append(took_s)
        self.tile_s = statistics.median(self._costs_s) / opened.engine.batch
        for one, hr in zip(taken, made, strict=True):
            try:
                one.done(one.job, hr)
            except Exception as error:
                self._failed(one.place, error)
            with self._changed:
                one.place.backlog = max(0, one.place.backlog - 1)
        self._look_at_gpu(opened)

    def _failed(self, place: Place, error: Exception) -> None:
        with self._changed:
            place.waiting.clear()
            place.backlog = 0
        place.fail(error)

    def _look_at_gpu(self, opened: OpenedTiles) -> None:
        if time.monotonic() - self._gpu_at > _GPU_S:
            self.gpu, self._gpu_at = gpu_status(opened.device), time.monotonic()

    def _at(self, step: str) -> None:
        self._step = step


def _yield_to_frames() -> None:
    """Lowers the priority of this thread, where threads have one."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
