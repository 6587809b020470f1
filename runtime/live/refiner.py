"""Refines the tiles of one camera while it goes on, and decides how many it may have refined.

A frame never waits for a tile: it hands tiles over, and takes what earlier ones have become.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines.manifest import read_manifest
from ...engines.onnxruntime_backend import session_threads, usable_cpus
from ...errors import StreamDiffVSRError
from .tile_thread import Place, TileThread

if TYPE_CHECKING:  # these need OpenCV, which exact mode does without
    from ..adaptive.canvas import Floats
    from ..adaptive.carry import Motion
    from ..adaptive.tile_engine import TileEngine
    from ..adaptive.tiles import Patch
    from ..adaptive.upscaler import AdaptiveUpscaler, Job


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


class Refiner:
    """Hands the tiles of one camera to the thread that runs the model, and takes what they become.

    Args:
        shared: The thread, which other cameras may use too.

    Attributes:
        error: Why there is no engine, or why it failed with this camera's tiles; else "".
        made: The number of tiles so far.
        stale: How much of the picture the model has not made lately, above 0 and up to 1. It is the
            camera's weight where several compete for the engine.
    """

    def __init__(self, shared: TileThread) -> None:
        self._shared = shared
        self.error = ""
        self.made = 0
        self.stale = 1.0
        self._place = Place(self._take_failure)
        self._patches: queue.SimpleQueue[tuple[Flight, Patch]] = queue.SimpleQueue()
        self._stopped = False

    @property
    def opened(self) -> OpenedTiles | None:
        """The engine; None until it is open, or if it could not be opened."""
        return self._shared.opened

    @property
    def tile_s(self) -> float | None:
        """The seconds that a tile takes, a median; None before the first one."""
        return self._shared.tile_s

    @property
    def turn_s(self) -> float | None:
        """The seconds from one tile of this camera to its next, while others have theirs."""
        tile_s = self._shared.tile_s
        return None if tile_s is None else tile_s / self._shared.share_of(self._place)

    @property
    def gpu(self) -> dict[str, Any] | None:
        """The `gpu_status` of the engine's GPU, as of up to a second ago."""
        return self._shared.gpu

    @property
    def backlog(self) -> int:
        """The number of tiles that were handed over and are not back yet."""
        return self._place.backlog

    @property
    def stuck_s(self) -> float:
        """The seconds that an overdue tile has taken; 0 if none is overdue. From any thread."""
        return self._shared.stuck_s

    @property
    def lost(self) -> bool:
        """Whether an overdue tile has taken so long that it will never come."""
        return self._shared.lost

    def opening(self) -> tuple[str, float] | None:
        """Returns the step and the seconds of the opening or building of the engine, or None."""
        return None if self.error else self._shared.opening()

    def start(self) -> None:
        """Opens the engine in the background, unless that was done."""
        if not self.error and not self._stopped:
            self._shared.enter(self._place)

    def submit(self, upscaler: AdaptiveUpscaler, jobs: Sequence[Job], flight: Flight) -> None:
        """Hands over tiles, which `finished` returns some time later; ignored after a failure."""
        if self.error or not jobs:
            return

        def done(job: Job, hr: Floats) -> None:
            for patch in upscaler.patches([job], [hr]):
                self._patches.put((flight, patch))
            self.made += 1

        self.start()
        self._shared.submit(self._place, jobs, done, self.stale)

    def finished(self) -> list[tuple[Flight, Patch]]:
        """Returns what has been made since the last call, in order."""
        found = []
        while not self._patches.empty():
            found.append(self._patches.get())
        return found

    def drop_waiting(self) -> None:
        """Drops the tiles that have not begun: their frame says nothing about the next ones."""
        self._shared.drop_waiting(self._place)

    def close(self) -> None:
        """Gives up the camera's place; a later `submit` takes it again.

        The last one to go ends the thread, unless that opens the engine or is stuck, and frees the
        engine's buffers.
        """
        self._shared.leave(self._place)

    def stop(self, timeout_s: float) -> bool:
        """Gives it up for good; the last one also ends a build that is under way.

        Returns:
            Whether the thread is still in the engine or its build, with no camera left.
        """
        self._stopped = True
        return self._shared.leave(self._place, timeout_s)

    def _take_failure(self, error: Exception) -> None:
        if self._stopped:  # which ends a build
            return
        expected = isinstance(error, StreamDiffVSRError)
        self.error = str(error) if expected else f"{type(error).__name__}: {error}"


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
