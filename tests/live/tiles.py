"""Engines of tiles of known behaviour, and moving pictures, for tests of adaptive frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.adaptive.tile_engine import TILE, TileInput
from streamdiffvsr.runtime.live.adaptive_frames import AdaptiveFrames
from streamdiffvsr.runtime.live.frame import LiveFrame
from streamdiffvsr.runtime.live.refiner import OpenedTiles

GAIN = 30.0  # levels that the detail of `Marking` adds where a picture is bright


def marked(lr: np.ndarray) -> np.ndarray:
    """Returns the detail of a picture, (4h, 4w, 3): more where it is bright."""
    bright = (cv2.GaussianBlur(lr.astype(np.float32), (0, 0), 1.5) - 128) / 128
    return GAIN * cv2.resize(bright, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)


@dataclass
class Marking:
    """In place of a `TileEngine`: adds to a tile what only the picture in it decides."""

    cost_s: float = 0.0
    tile: int = TILE
    batch: int = 1
    latent_channels: int = 4
    fails_after: int | None = None
    hangs_after: int | None = None
    began: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    seen: list[TileInput] = field(default_factory=list)

    def refine(self, tiles: list[TileInput]) -> list[np.ndarray]:
        self.began.set()
        time.sleep(self.cost_s)
        if self.fails_after is not None and len(self.seen) >= self.fails_after:
            raise StreamDiffVSRError("the engine failed", "on purpose")
        if self.hangs_after is not None and len(self.seen) >= self.hangs_after:
            self.released.wait(60)
        self.seen += tiles
        return [self._refined(tile.lr) for tile in tiles]

    def _refined(self, lr: np.ndarray) -> np.ndarray:
        base = cv2.resize(lr, None, fx=4, fy=4, interpolation=cv2.INTER_LANCZOS4)
        return base + marked(lr)

    def close(self) -> None:
        """Nothing to free."""


def adaptive(engine: Any, told: list[str] | None = None, **options: Any) -> AdaptiveFrames:
    """Returns the frames of an engine, which is open already."""
    tell: Callable[[str], None] = (told if told is not None else []).append
    opened = OpenedTiles(engine, "stand-in tiles")
    made = AdaptiveFrames(lambda at: opened, tell=tell, **options)
    wait_for(lambda: made.ready)
    return made


def wait_for(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Waits until something holds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.002)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns a smooth picture in which motion can be found, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(np.clip(128 + 45 * smooth / smooth.std(), 0, 255), np.uint8)


def moving(
    count: int, size: tuple[int, int] = (96, 128), step: int = 2, fps: float = 15.0
) -> list[LiveFrame]:
    """Returns frames of a camera that pans to the right by `step` pixels a frame."""
    scene = textured(size[0], size[1] + step * count)
    shown = (scene[:, step * n : step * n + size[1]].copy() for n in range(count))
    return [frame(n, image, fps) for n, image in enumerate(shown)]


def frame(index: int, image: np.ndarray, fps: float = 15.0, **more: Any) -> LiveFrame:
    """Returns a frame that has just been captured."""
    return LiveFrame(image, index / fps, time.monotonic(), more.pop("epoch", 0), index, **more)
