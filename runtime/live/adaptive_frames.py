"""Makes the adaptive frames of a live session: the canvas is carried, and refined in a thread.

Needs OpenCV: the session gets an `AdaptiveFrames` only where it is wanted.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ...errors import StreamDiffVSRError, UsageError
from ...graphs.arrays import Image
from ...graphs.spec import Size, format_size
from ..adaptive.canvas import Canvas, Floats
from ..adaptive.carry import carry
from ..adaptive.tiles import blend
from ..adaptive.upscaler import REFRESH_S, AdaptiveUpscaler, Region, check_region
from .engine_thread import HangLimits
from .frame import LiveFrame
from .mode import Period
from .refiner import Flight, OpenedTiles, Refiner, TileBudget
from .tile_thread import Tell, TileThread

ROWS, COLUMNS = 27, 48  # the most cells of `freshness`
FRESH, CARRIED = 0.75, 0.1  # of the model's quality: what counts as such in the status
RATE_S = 5.0  # over which tiles are counted
ONE_CORE = 640 * 360  # LR pixels up to which one thread carries the canvas
_REFRESHED = 2.0  # times what the machine takes to refine every tile: the shortest refresh


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveFrame:
    """One frame of a canvas.

    Attributes:
        image: (4h, 4w, 3) uint8 RGB.
        freshness: Up to `ROWS` by `COLUMNS` cells of the frame, uint8: 0 where it is interpolated,
            255 where the model has just made it.
        stage_ms: Milliseconds by stage.
    """

    image: Image
    freshness: npt.NDArray[np.uint8]
    stage_ms: dict[str, float]


class AdaptiveFrames:
    """Makes frames of any size from one canvas, with tiles that are refined in a thread.

    `step` and `reset` are for one thread; the other methods may be called from any.

    Args:
        tiles: The thread that refines the tiles, which other cameras may use too; or what finds or
            builds the engine for a thread of its own, as `TileThread` takes it.
        regions: Regions of interest, in pixels of the source; those outside its first frame are
            reported and ignored.
        refresh_s: Seconds after which a part of the picture is refined again before all others,
            where the machine can.
        seed: The seed of the model's noise.
        limit_ms: The latency to keep in ms, or None.
        tell: Receives one line for each thing that a user should know.
        limits: How long a tile may take before the engine of a thread of its own counts as stuck.
    """

    def __init__(
        self,
        tiles: TileThread | Callable[[Tell], OpenedTiles],
        *,
        regions: Sequence[Region] = (),
        refresh_s: float = REFRESH_S,
        seed: int = 0,
        limit_ms: float | None = None,
        tell: Tell = lambda _: None,
        limits: HangLimits | None = None,
    ) -> None:
        shared = tiles if isinstance(tiles, TileThread) else TileThread(tiles, limits)
        self._refiner = Refiner(shared)
        self._budget = TileBudget(None if limit_ms is None else limit_ms / 1000)
        self._refresh_s, self._seed, self._tell = refresh_s, seed, tell
        self._lock = threading.Lock()
        self._regions: tuple[Region, ...] = tuple(regions)
        self._upscaler: AdaptiveUpscaler | None = None
        self._canvas: Canvas | None = None
        self._spare: Floats | None = None  # memory for the next frame's detail
        self._whole: tuple[LiveFrame, Image] | None = None  # the last frame, if it was made whole
        self._seconds = 0.0  # of the canvas's frame
        self._flights: list[Flight] = []
        self._blended: deque[tuple[float, int]] = deque()  # (when, tiles) of each frame
        self._failed = self._stuck = False  # as was said
        self._refiner.start()

    @property
    def ready(self) -> bool:
        """Whether there is an engine, or was one until it failed."""
        return self._refiner.opened is not None

    @property
    def described(self) -> str:
        """The engine in words; "" until it is open."""
        opened = self._refiner.opened
        return opened.described if opened else ""

    @property
    def gpu(self) -> dict[str, Any] | None:
        """The GPU that the tiles are refined on; see `TileThread`."""
        return self._refiner.gpu

    @property
    def stuck_s(self) -> float:
        """The seconds that an overdue tile has taken; 0 if none is."""
        return self._refiner.stuck_s

    @property
    def tile_s(self) -> float | None:
        """The seconds that a tile of this camera takes, others' between them included, or None."""
        return self._refiner.turn_s

    def tile_count(self, size: Size) -> int:
        """Returns how many tiles refine a frame of a size; the engine must be there."""
        return self._upscaler_for(size).tile_count

    def check(self) -> None:
        """Says when the engine fails, hangs or answers again.

        Raises:
            StreamDiffVSRError: A tile will never come back.
        """
        refiner = self._refiner
        if refiner.error and not self._failed:
            self._failed = True
            self._tell(
                f"the engine of the tiles failed, {self._left()} from now on: {refiner.error}"
            )
        if refiner.lost:
            raise StreamDiffVSRError(
                f"the engine has been stuck for {refiner.stuck_s:.0f} s",
                "a tile has never come back from it, and nothing here can end that",
                "start again, as a service manager does by itself (docs/live.md)",
            )
        if (refiner.stuck_s > 0) != self._stuck:
            self._stuck = not self._stuck
            self._tell(
                f"engine stuck: a tile has taken {refiner.stuck_s:.0f} s; carried detail only"
                if self._stuck
                else "the engine answers again"
            )

    def note(self) -> str:
        """Returns what a viewer should know; "" if all is well."""
        refiner = self._refiner
        if stuck_s := refiner.stuck_s:
            return f"engine stuck for {stuck_s:.0f} s, carried detail only"
        if refiner.error:
            return f"{self._left()}: {refiner.error}"
        if opening := refiner.opening():
            step, seconds = opening
            return f"bicubic until the engine of the tiles is there: {step}, {seconds:.0f} s"
        return ""

    def opening(self) -> dict[str, Any] | None:
        """Returns `size`, `step` and `seconds` of an engine that is being opened, or None."""
        if (opening := self._refiner.opening()) is None:
            return None
        from ..adaptive.tile_engine import TILE

        return {"size": format_size((TILE, TILE)), "step": opening[0], "seconds": int(opening[1])}

    def prefer(self, regions: Sequence[Region]) -> None:
        """Sets the regions of interest, in place of earlier ones.

        Raises:
            UsageError: A region lies outside the newest frame, or is empty.
        """
        with self._lock:
            if self._upscaler is not None:
                self._upscaler.prefer(regions)
            self._regions = tuple(regions)

    def reset(self) -> None:
        """Empties the canvas: the next frame shows a new scene."""
        self._whole = None
        self._forget_flights()
        if self._canvas is not None:
            self._canvas = self._canvas.reset()

    def follow(self, frame: LiveFrame, image: Image) -> None:
        """Notes a frame that was made whole, from which a canvas may begin."""
        self._forget_flights()
        self._whole, self._canvas = (frame, image), None

    def step(self, frame: LiveFrame, period: Period) -> AdaptiveFrame:
        """Returns the next frame; the engine must be there, and the frame undamaged."""
        began = time.perf_counter()
        upscaler = self._upscaler_for(frame.size)
        canvas = self._carried(upscaler, frame)
        carried = time.perf_counter()
        self._blend_finished(canvas, frame)
        self._hand_over(upscaler, canvas, frame, period)
        blended = time.perf_counter()
        image = upscaler.render(canvas)
        fresh = _cells(canvas.fresh[: frame.size[0], : frame.size[1]])
        self._canvas, self._seconds = canvas, frame.seconds
        age_s = time.monotonic() - frame.captured
        self._budget.finished(age_s, period.seconds, skipped=period.skipped)
        ended = time.perf_counter()
        parts = {"carry": carried - began, "tiles": blended - carried, "render": ended - blended}
        return AdaptiveFrame(image, fresh, {name: 1000 * s for name, s in parts.items()})

    def status(self) -> dict[str, Any] | None:
        """Returns the figures of adaptive mode for JSON; None before the first frame."""
        canvas, upscaler = self._canvas, self._upscaler
        if canvas is None or upscaler is None:
            return None
        h, w = upscaler.size
        fresh, age = canvas.fresh[:h, :w], canvas.age[:h, :w]
        model, some = (float((fresh >= least).mean()) for least in (FRESH, CARRIED))
        per_frame, per_s = self._rates()
        tile_s = self._refiner.tile_s
        return {
            "fresh": round(model, 3),
            "carried": round(some - model, 3),
            "bicubic": round(1 - some, 3),
            "tiles_per_frame": round(per_frame, 2),
            "tiles_per_s": round(per_s, 1),
            "tile_ms": None if tile_s is None else round(1000 * tile_s, 1),
            "tile_count": upscaler.tile_count,
            "oldest_s": round(float(age.max()), 1),
            "regions": [list(region) for region in self._regions],
        }

    def close(self) -> None:
        """Ends the thread of the tiles, if it can be ended; a later frame starts another."""
        self._refiner.close()
        self._flights.clear()

    def stop(self, timeout_s: float) -> bool:
        """Ends it for good, builds included; returns whether its thread is still at work."""
        return self._refiner.stop(timeout_s)

    def _upscaler_for(self, size: Size) -> AdaptiveUpscaler:
        if self._upscaler is not None and self._upscaler.size == size:
            return self._upscaler
        assert self._refiner.opened is not None
        with self._lock:
            kept = tuple(region for region in self._regions if _fits(region, size, self._tell))
            engine = self._refiner.opened.engine
            self._upscaler = AdaptiveUpscaler(engine, size, regions=kept)
            self._regions = kept
        cores = os.cpu_count() or 1
        cv2.setNumThreads(1 if size[0] * size[1] <= ONE_CORE else max(1, cores // 2))
        self._canvas = self._spare = None
        self._forget_flights()
        return self._upscaler

    def _carried(self, upscaler: AdaptiveUpscaler, frame: LiveFrame) -> Canvas:
        """Returns the canvas in the next frame; moves the tiles in flight along."""
        canvas = self._canvas
        if canvas is None or canvas.size != upscaler.padded:
            canvas = self._begun(upscaler)
        seconds = frame.seconds - self._seconds
        spare = self._spare
        following, motion = carry(canvas, upscaler.pad(frame.image), seconds, spare)
        self._spare = spare if following.detail is canvas.detail else canvas.detail
        for flight in self._flights:
            flight.motion = motion if flight.motion is None else motion.after(flight.motion)
        return following

    def _begun(self, upscaler: AdaptiveUpscaler) -> Canvas:
        """Returns a canvas of the last frame if that was made whole, else an empty one."""
        whole, self._whole = self._whole, None
        canvas = upscaler.initial_state(self._seed)
        if whole is None or whole[0].size != upscaler.size or upscaler.padded != upscaler.size:
            return canvas
        frame, image = whole
        self._seconds = frame.seconds
        canvas, _ = carry(canvas, frame.image, 0.0)
        np.subtract(image, canvas.render(), out=canvas.detail, dtype=np.float32)
        canvas.fresh[:] = 1
        return canvas

    def _blend_finished(self, canvas: Canvas, frame: LiveFrame) -> None:
        count = 0
        for flight, patch in self._refiner.finished():
            if flight in self._flights:  # else it is of another scene
                blend(canvas, patch, flight.motion, frame.seconds - flight.seconds)
                flight.left -= 1
                count += 1
        self._flights = [
            flight for flight in self._flights if flight.left and not self._refiner.error
        ]
        now = time.monotonic()
        self._blended.append((now, count))
        while now - self._blended[0][0] > RATE_S:
            self._blended.popleft()

    def _hand_over(
        self, upscaler: AdaptiveUpscaler, canvas: Canvas, frame: LiveFrame, period: Period
    ) -> None:
        """Gives the model tiles of this frame, if it would run out of them before the next one."""
        refiner, budget = self._refiner, self._budget
        refiner.stale = 1 - float(canvas.fresh.mean())
        tile_s, period_s = refiner.turn_s, period.seconds
        allowed = min(budget.frame(period_s, tile_s), upscaler.tile_count)
        if tile_s is not None:
            takes_s = _REFRESHED * upscaler.tile_count * tile_s / budget.share
            upscaler.refresh_s = max(self._refresh_s, takes_s)
        if refiner.error or refiner.stuck_s or not allowed:
            return
        if refiner.backlog * (tile_s or period_s) >= period_s:
            return
        jobs = upscaler.inputs(canvas, upscaler.choose(canvas, allowed))
        if jobs:
            flight = Flight(frame.seconds, len(jobs))
            self._flights.append(flight)
            refiner.submit(upscaler, jobs, flight)
            budget.spend(len(jobs))

    def _forget_flights(self) -> None:
        self._flights.clear()
        self._refiner.drop_waiting()

    def _rates(self) -> tuple[float, float]:
        """Returns the tiles a frame, and a second."""
        seen = list(self._blended)
        if len(seen) < 2:
            return 0.0, 0.0
        tiles = sum(count for _, count in seen[1:])
        return tiles / (len(seen) - 1), tiles / max(seen[-1][0] - seen[0][0], 1e-3)

    def _left(self) -> str:
        """Returns what is shown without an engine."""
        return "carried detail only" if self.ready else "bicubic"


def _cells(fresh: Floats) -> npt.NDArray[np.uint8]:
    h, w = min(ROWS, fresh.shape[0]), min(COLUMNS, fresh.shape[1])
    cells = cv2.resize(fresh, (w, h), interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(255 * np.clip(cells, 0, 1)), np.uint8)


def _fits(region: Region, size: Size, tell: Tell) -> bool:
    try:
        check_region(region, size)
    except UsageError as error:
        tell(f"{error}; it is ignored")
        return False
    return True
