"""Runs the model on tiles while a live session goes on, and decides how many it may take.

A frame never waits for a tile: it hands tiles over, and takes what earlier ones have become.
"""

from __future__ import annotations

import os
import queue
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines.manifest import read_manifest
from ...engines.onnxruntime_backend import session_threads, usable_cpus
from ...errors import StreamDiffVSRError
from ..processes.child import close_children_of
from .engine_pool import WARM_UP, HangLimits
from .status import gpu_status

if TYPE_CHECKING:  # these need OpenCV, which exact mode does without
    from ..adaptive.carry import Motion
    from ..adaptive.tile_engine import TileEngine
    from ..adaptive.tiles import Patch
    from ..adaptive.upscaler import AdaptiveUpscaler, Job

Tell = Callable[[str], None]
NICE = 5  # frames and encoders go first where a core is wanted by several
_REMEMBERED = 32
_GPU_S = 1.0  # between two looks at the GPU's memory
_TICK_S = 0.05
_END_S = 1.0


@dataclass(frozen=True, slots=True)
class OpenedTiles:
    """The engine of the tiles, what it is in words, and the device that it runs on."""

    engine: TileEngine
    described: str
    device: str = "cpu"


def open_tiles(folder: Path, device: str | None = None) -> OpenedTiles:
    """Opens the engine of the tiles; on a CPU it leaves a core to the frames.

    Raises:
        StreamDiffVSRError: See `load_tile_engine`.
    """
    from ..adaptive.tile_engine import load_tile_engine

    before = session_threads.set(max(1, usable_cpus() - 1))
    try:
        engine = load_tile_engine(folder, device)
    finally:
        session_threads.reset(before)
    manifest = read_manifest(folder)
    key = manifest.key
    described = f"{manifest.model_name} tiles of {key.size} {key.precision}, {key.backend} on "
    device = device or key.device
    return OpenedTiles(engine, described + device, device)


@dataclass(slots=True, eq=False)
class Flight:
    """Tiles of one frame that are with the model.

    Attributes:
        seconds: When their frame is shown.
        left: How many of them have not been blended yet.
        motion: The way from the newest frame back to theirs; None if it is the same frame.
    """

    seconds: float
    left: int
    motion: Motion | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    upscaler: AdaptiveUpscaler
    jobs: Sequence[Job]
    flight: Flight


class Refiner:
    """Opens the engine of the tiles and runs it, in one thread of a low priority.

    Args:
        open_tiles: Finds or builds the engine, and calls its argument with the name of each step.
        limits: How long a tile may take before the engine counts as stuck.

    Attributes:
        opened: The engine; None until it is open, or if it could not be opened.
        error: Why there is no engine, or why it failed; else "".
        tile_s: The seconds that a tile takes, a median; None before the first one.
        made: The number of tiles so far.
        gpu: The `gpu_status` of the engine's GPU, as of up to a second ago.
    """

    def __init__(
        self, open_tiles: Callable[[Tell], OpenedTiles], limits: HangLimits | None = None
    ) -> None:
        self._open, self._limits = open_tiles, limits or HangLimits()
        self.opened: OpenedTiles | None = None
        self.error = ""
        self.tile_s: float | None = None
        self.made = 0
        self.gpu: dict[str, Any] | None = None
        self._gpu_at = float("-inf")
        self._costs_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._asked: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._patches: queue.SimpleQueue[tuple[Flight, Patch]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._backlog = 0
        self._since: float | None = None  # the launch that runs now, or the opening
        self._step = "opening"
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def backlog(self) -> int:
        """The number of tiles that were handed over and are not back yet."""
        return self._backlog

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
        if self.opened is not None or self.error or since is None:
            return None
        return self._step, time.monotonic() - since

    def start(self) -> None:
        """Opens the engine in the background, unless that was done."""
        if self._thread is None and not self.error and not self._stopped:
            if self.opened is None:
                self._since = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="tiles", daemon=True)
            self._thread.start()

    def submit(self, upscaler: AdaptiveUpscaler, jobs: Sequence[Job], flight: Flight) -> None:
        """Hands over tiles, which `finished` returns some time later; ignored after a failure."""
        if self.error or not jobs:
            return
        with self._lock:
            self._backlog += len(jobs)
        self.start()
        self._asked.put(_Work(upscaler, jobs, flight))

    def finished(self) -> list[tuple[Flight, Patch]]:
        """Returns what has been made since the last call, in order."""
        found = []
        while not self._patches.empty():
            found.append(self._patches.get())
        return found

    def drop_waiting(self) -> None:
        """Drops the tiles that have not begun: their frame says nothing about the next ones."""
        while not self._asked.empty():
            work = self._asked.get()
            if work is None:
                self._asked.put(None)
                return
            with self._lock:
                self._backlog -= len(work.jobs)

    def close(self) -> None:
        """Ends the thread, unless it is opening the engine or stuck; a later `submit` restarts it.

        Also frees the buffers of the engine.
        """
        thread = self._thread
        if thread is None or self.stuck_s or self.opening() is not None:
            return
        self.drop_waiting()
        self._asked.put(None)
        thread.join(_END_S)
        if not thread.is_alive():
            self._thread = None
            if self.opened is not None:
                self.opened.engine.close()

    def stop(self, timeout_s: float) -> bool:
        """Opens nothing more, and ends a build that is under way.

        Returns:
            Whether the thread is still in the engine or its build.
        """
        self._stopped = True
        until, thread = time.monotonic() + timeout_s, self._thread
        while thread is not None and self.opening() is not None and time.monotonic() < until:
            close_children_of(thread)
            time.sleep(_TICK_S)
        self.close()
        return self._thread is not None and self._thread.is_alive()

    def _deadline_s(self) -> float:
        limits, costs = self._limits, list(self._costs_s)
        if len(costs) < WARM_UP:
            return limits.unknown_s
        return max(limits.least_s, limits.times * statistics.median(costs))

    def _run(self) -> None:
        _yield_to_frames()
        try:
            opened = self.opened or self._open(self._at)
            self._since, self.opened = None, opened
            self._look_at_gpu(opened)
            while not self._stopped and (work := self._asked.get()) is not None:
                self._refine(opened, work)
        except Exception as error:  # the thread would end silently
            expected = isinstance(error, StreamDiffVSRError)
            self.error = str(error) if expected else f"{type(error).__name__}: {error}"
            self._since, self._backlog = None, 0

    def _refine(self, opened: OpenedTiles, work: _Work) -> None:
        batch = opened.engine.batch
        for start in range(0, len(work.jobs), batch):
            jobs = work.jobs[start : start + batch]
            self._since = began = time.monotonic()
            patches = work.upscaler.refine(jobs)
            took_s, self._since = time.monotonic() - began, None
            self._costs_s.append(took_s)
            self.tile_s = statistics.median(self._costs_s) / batch
            self.made += len(jobs)
            for patch in patches:
                self._patches.put((work.flight, patch))
            with self._lock:
                self._backlog -= len(jobs)
            self._look_at_gpu(opened)

    def _look_at_gpu(self, opened: OpenedTiles) -> None:
        if time.monotonic() - self._gpu_at > _GPU_S:
            self.gpu, self._gpu_at = gpu_status(opened.device), time.monotonic()

    def _at(self, step: str) -> None:
        self._step = step


def _yield_to_frames() -> None:
    """Lowers the priority of this thread, where threads have one."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


LATE, LATE_FOR_LIMIT = 1.0, 0.8  # of the source's period, and of the latency that is to be kept
LEAST_SHARE = 0.05
LESS, MORE = 0.8, 0.03  # times the share after a late frame; added after one in time


class TileBudget:
    """Allows as many tiles as leave the frames in time; fractions of a tile add up.

    Args:
        limit_s: The latency to keep, in seconds; None: only the source's rate.

    Attributes:
        share: The part of the time that the model may work, up to 1. Late frames lower it.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = limit_s
        self.share = 1.0
        self._credit = 1.0

    def frame(self, period_s: float, tile_s: float | None) -> int:
        """Returns how many tiles may be handed over at a frame.

        Args:
            period_s: The time from one frame of the source to the next.
            tile_s: The time of a tile; None if it is unknown.
        """
        each = 0.0 if tile_s is None else self.share * period_s / max(tile_s, 1e-6)
        self._credit = min(self._credit + each, 1 + each)
        return int(self._credit)

    def spend(self, tiles: int) -> None:
        """Notes that tiles were handed over."""
        self._credit -= tiles

    def finished(self, age_s: float, period_s: float, *, skipped: bool) -> None:
        """Learns how old a frame was when it was done, and whether frames were lost before it."""
        late = skipped or age_s > LATE * period_s
        late = late or (self._limit_s is not None and age_s > LATE_FOR_LIMIT * self._limit_s)
        self.share = max(LEAST_SHARE, self.share * LESS) if late else min(1.0, self.share + MORE)
