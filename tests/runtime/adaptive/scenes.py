"""Scenes with a known truth, and an engine that knows it: what carrying and choosing do alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from streamdiffvsr.graphs.spec import SCALE
from streamdiffvsr.runtime.adaptive.tile_engine import TileInput

LEVELS = np.float32(255)
TILE = 48


def picture(height: int, width: int, seed: int = 0) -> Any:
    """A picture with edges and texture at every scale, (height, width, 3) float32 levels."""
    rng = np.random.default_rng(seed)
    made = np.full((height, width, 3), 128, np.float32)
    for size in (64, 32, 16, 8):
        coarse = rng.normal(0, 40, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        made += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(height * width // 3000):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        end = x + int(rng.integers(-90, 90)), y + int(rng.integers(-90, 90))
        colour = [float(c) for c in rng.integers(0, 255, 3)]
        cv2.line(made, (x, y), end, colour, int(rng.integers(2, 5)), cv2.LINE_AA)
    return np.clip(made, 0, 255)


def reduced(truth: Any) -> Any:
    """The input that a truth (T, 4h, 4w, 3) makes: each pixel is the mean of sixteen."""
    count, height, width, _ = truth.shape
    cells = truth.reshape(count, height // SCALE, SCALE, width // SCALE, SCALE, 3)
    return np.rint(cells.mean(axis=(2, 4))).astype(np.uint8)


def pan(size: tuple[int, int], frames: int, step: tuple[int, int], seed: int = 0) -> Any:
    """Truth (T, 4h, 4w, 3) uint8 of a camera that moves `step` HR pixels (down, right) a frame."""
    height, width = SCALE * size[0], SCALE * size[1]
    down, right = step
    whole = picture(height + frames * abs(down), width + frames * abs(right), seed)
    views = []
    for index in range(frames):
        top = index * down if down >= 0 else (index - frames) * down
        left = index * right if right >= 0 else (index - frames) * right
        views.append(whole[top : top + height, left : left + width])
    return np.rint(np.stack(views)).astype(np.uint8)


def with_object(truth: Any, path: Sequence[tuple[int, int]], side: int = 64) -> Any:
    """The truth with a square in front of it, at one corner (top, left) for each frame."""
    front = np.rint(picture(side, side, 99)).astype(np.uint8)
    changed = truth.copy()
    for frame, (top, left) in zip(changed, path, strict=True):
        frame[top : top + side, left : left + side] = front
    return changed


def noisy(lr: Any, sigma: float, seed: int = 0) -> Any:
    """Frames with a sensor's noise of so many levels."""
    noise = np.random.default_rng(seed).normal(0, sigma, lr.shape)
    return np.clip(np.rint(lr + noise), 0, 255).astype(np.uint8)


class TruthEngine:
    """A tile engine that makes of every tile what the truth is there.

    Attributes:
        now: The truth of the frame whose tiles come next, (4h, 4w, 3).
        asked: The corners of all tiles so far.
    """

    tile, batch, latent_channels = TILE, 1, 4

    def __init__(self) -> None:
        self.now: Any = None
        self.asked: list[tuple[int, int]] = []

    def refine(self, tiles: Sequence[TileInput]) -> list[Any]:
        self.asked += [(tile.top, tile.left) for tile in tiles]
        side = SCALE * TILE
        return [
            self.now[SCALE * t.top : SCALE * t.top + side, SCALE * t.left : SCALE * t.left + side]
            .astype(np.float32)
            .copy()
            for t in tiles
        ]


def psnr(a: Any, b: Any) -> float:
    """PSNR in dB of two uint8 pictures, at most 100."""
    error = np.mean(np.square(a.astype(np.float32) - b.astype(np.float32)))
    return float(10 * np.log10(LEVELS**2 / max(error, 1e-5)))


def interpolated(lr: Any) -> Any:
    """The picture that the canvas falls back to."""
    height, width = lr.shape[:2]
    size = SCALE * width, SCALE * height
    up = cv2.resize(lr.astype(np.float32), size, interpolation=cv2.INTER_LANCZOS4)
    return np.clip(np.rint(up), 0, 255).astype(np.uint8)


def run(upscaler: Any, engine: TruthEngine, truth: Any, lr: Any, tiles: Sequence[int]) -> list[Any]:
    """The outputs of a clip with so many tiles in each frame."""
    state, outputs = upscaler.initial_state(), []
    for index, (frame, count) in enumerate(zip(lr, tiles, strict=True)):
        engine.now = truth[index]
        out, state = upscaler.step(frame, state, tiles=count)
        outputs.append(out)
    return outputs
