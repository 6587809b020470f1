"""Clips with scenes, and what a player sees of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamdiffvsr.tests.media.clips import Clip, see


def scenes(cuts: Sequence[int]) -> Any:
    """A picture of (index, height, width): blots that drift, others behind each cut."""

    def image(index: int, height: int, width: int) -> np.ndarray:
        scene = int(np.searchsorted(cuts, index, side="right"))
        blots = np.random.default_rng(scene).integers(0, 256, (8, 12, 3))
        large = np.kron(blots, np.ones((12, 12, 1))).astype(np.uint8)
        return np.roll(large, index // 3, 1)[:height, :width]

    return image


def film(path: Path, frames: int, cuts: Sequence[int], **keywords: Any) -> Path:
    """A file of 64x48 frames with sound, and no steady rate."""
    steps = np.where(np.arange(frames) % 5 == 4, 2002, 1001)
    pts = [0, *np.cumsum(steps)[:-1].tolist()]
    return Clip(pts=pts, image=scenes(cuts), sounds=[("aac", 48000)], **keywords).write(path)


def pictures(path: Path) -> tuple[list[Any], list[bytes]]:
    """Times and pixels of every frame, as a decoder gives them."""
    seen = see(path)
    return seen.times, [frame.to_ndarray().tobytes() for frame in seen.images]
