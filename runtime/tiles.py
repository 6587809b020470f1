"""Overlapping feathered tiles: one engine size serves frames that are larger than it.

Tiles are cut at LR coordinates; the same places at HR are 4 times them. Where tiles overlap, their
results are mixed by weights that rise linearly from each tile's inner edge, so no seam shows and a
constant stays constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spec import SCALE, TILE_OVERLAP, Size

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tile:
    """Top left corner of a tile at LR."""

    top: int
    left: int


class TileGrid:
    """Tiles of one size that cover a frame, spread evenly, and how to mix them."""

    def __init__(self, frame: Size, tile: Size) -> None:
        """`frame` and `tile` are LR sizes (h, w); a tile is no larger than the frame."""
        self.frame, self.tile = frame, tile
        tops, lefts = (_starts(f, t) for f, t in zip(frame, tile, strict=True))
        self.tiles = [Tile(top, left) for top in tops for left in lefts]
        self._weights = {1: self._tile_weights(1), SCALE: self._tile_weights(SCALE)}
        self._total = {scale: self._sum_weights(scale) for scale in (1, SCALE)}

    def cut(self, x: Array, tile: Tile, scale: int = 1) -> Array:
        """The tile's part of (1, C, scale h, scale w), as a dense copy."""
        return np.ascontiguousarray(x[self._window(tile, scale)])

    def mix(self, parts: Iterator[tuple[Tile, Array]], channels: int, scale: int = 1) -> Array:
        """Tiles' results -> (1, channels, scale h, scale w) in float32."""
        height, width = (side * scale for side in self.frame)
        out = np.zeros((1, channels, height, width), np.float32)
        weights = self._weights[scale]
        for tile, part in parts:
            out[self._window(tile, scale)] += part.astype(np.float32) * weights
        out /= self._total[scale]
        return out

    def _window(self, tile: Tile, scale: int) -> tuple[slice, slice, slice, slice]:
        top, left = tile.top * scale, tile.left * scale
        height, width = (side * scale for side in self.tile)
        every = slice(None)
        return every, every, slice(top, top + height), slice(left, left + width)

    def _tile_weights(self, scale: int) -> Array:
        rows, columns = (_feather(f, t, scale) for f, t in zip(self.frame, self.tile, strict=True))
        return rows[:, None] * columns

    def _sum_weights(self, scale: int) -> Array:
        total = np.zeros((1, 1, self.frame[0] * scale, self.frame[1] * scale), np.float32)
        for tile in self.tiles:
            total[self._window(tile, scale)] += self._weights[scale]
        return total


def _starts(frame: int, tile: int) -> list[int]:
    """Evenly spread starts that cover `frame` with overlap wherever more than one is needed."""
    if tile >= frame:
        return [0]
    overlap = min(TILE_OVERLAP, tile // 8)
    count = 1 + -(-(frame - tile) // (tile - overlap))
    return [round(i * (frame - tile) / (count - 1)) for i in range(count)]


def _feather(frame: int, tile: int, scale: int) -> Array:
    """Weights along one axis: 1 inside, falling towards both ends over the smallest overlap."""
    starts = _starts(frame, tile)
    weights = np.ones(tile * scale, np.float32)
    if len(starts) > 1:
        overlap = min(a + tile - b for a, b in pairwise(starts)) * scale
        ramp = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
        weights[:overlap] = ramp
        weights[-overlap:] = np.minimum(weights[-overlap:], ramp[::-1])
    return weights
