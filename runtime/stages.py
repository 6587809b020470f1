"""Runs the stages of a frame on host arrays, whole or in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engines.interface import Engine
from ..graphs.spec import SCALE, TILE_OVERLAP, Size, TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tile:
    """The top left corner of a tile, in LR pixels."""

    top: int
    left: int


class TileGrid:
    """Tiles of one size that cover a frame evenly, and the weights that blend them."""

    def __init__(self, frame: Size, tile: Size) -> None:
        """`frame` and `tile` are LR sizes (h, w); a tile is no larger than the frame."""
        self.frame, self.tile = frame, tile
        tops, lefts = (_starts(f, t) for f, t in zip(frame, tile, strict=True))
        self.tiles = [Tile(top, left) for top in tops for left in lefts]
        self._weights = {1: self._tile_weights(1), SCALE: self._tile_weights(SCALE)}
        self._total = {scale: self._sum_weights(scale) for scale in (1, SCALE)}

    def cut(self, x: Array, tile: Tile, scale: int = 1) -> Array:
        """Returns the tile's part of an array (1, C, scale h, scale w), as a dense copy."""
        return np.ascontiguousarray(x[self._window(tile, scale)])

    def mix(self, parts: Iterator[tuple[Tile, Array]], channels: int, scale: int = 1) -> Array:
        """Blends the results of tiles into one float32 array (1, channels, scale h, scale w)."""
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


def tile_starts(frame: int, tile: int, overlap: int) -> list[int]:
    """Returns evenly spread starts of tiles that cover `frame`; several overlap at least so far."""
    if tile >= frame:
        return [0]
    count = 1 + -(-(frame - tile) // (tile - overlap))
    return [round(i * (frame - tile) / (count - 1)) for i in range(count)]


def _starts(frame: int, tile: int) -> list[int]:
    return tile_starts(frame, tile, min(TILE_OVERLAP, tile // 8))


def _feather(frame: int, tile: int, scale: int) -> Array:
    """Returns weights along one axis: 1 inside, falling off at both ends over the least overlap."""
    starts = _starts(frame, tile)
    weights = np.ones(tile * scale, np.float32)
    if len(starts) > 1:
        overlap = min(a + tile - b for a, b in pairwise(starts)) * scale
        ramp = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
        weights[:overlap] = ramp
        weights[-overlap:] = np.minimum(weights[-overlap:], ramp[::-1])
    return weights


Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Guidance:
    """The guidance by the previous frame. Without one, all of it is zero, `gate` too."""

    warped: Array  # (1, 3, H, W) in the model's range
    hint: Array  # (1, C, h, w)
    gate: Array  # (1,)


class Stages:
    """Runs engines on host arrays, one after another.

    Attributes:
        dtype: The type of the engines' images and latents.
        no_guidance: The guidance of a frame without a previous one.
    """

    def __init__(self, engines: Mapping[str, Engine], steps: int) -> None:
        self._engines = engines
        self._specs = {name: engine.describe() for name, engine in engines.items()}
        self._steps = [np.array([i], np.int32) for i in range(steps)]
        self.dtype = np.dtype(self._tensor("denoise", "gate").dtype)
        self._off, self._on = np.zeros(1, self.dtype), np.ones(1, self.dtype)
        self.no_guidance = Guidance(
            self._zeros("guide", "warped"), self._zeros("guide", "hint"), self._off
        )
        self._matches_colour = any(t.name == "lr" for t in self._specs["decode"].inputs)
        self._no_temporal = {t.name: self._zeros("temporal", t.name) for t in self._temporal()}

    def extract_features(self, frame: Image) -> tuple[Array, Array, Array]:
        """Returns a frame (h, w, 3) as LR (1, 3, h', w'), and RAFT's features and context of it."""
        lr, up = self._run("prepare", frame=np.ascontiguousarray(frame)[None])
        fmap, context = self._run("features", up=up)
        return lr, fmap, context

    def guide(
        self, fmap: Array, previous_fmap: Array, context: Array, previous_hr: Array, scale: float
    ) -> Guidance:
        """Finds the flow to the previous frame; returns its output, warped, and the hint."""
        (flow,) = self._run("flow", fmap=fmap, previous_fmap=previous_fmap, context=context)
        return self.guide_along(flow, previous_hr, scale)

    def guide_along(self, flow: Array, previous_hr: Array, scale: float = 1.0) -> Guidance:
        """Warps a raw output (1, 3, H, W) along a flow that is known; computes the hint.

        Args:
            flow: (1, 2, H, W) float32, in HR pixels, x first.
        """
        previous_hr = previous_hr.astype(self.dtype, copy=False)
        warped, hint = self._run("guide", previous_hr=previous_hr, flow=flow)
        return Guidance(warped, hint, self._on * self.dtype.type(scale))

    def whole_frame(self, latent: Array, lr: Array, guidance: Guidance) -> tuple[Array, Image]:
        """Runs the steps and the decoder; returns raw HR (1, 3, 4h, 4w), and the frame."""
        for step in self._steps:
            latent = self._denoise(latent, lr, guidance.hint, step, guidance.gate)
        hr, out = self._decode(latent, lr, guidance.warped, guidance.gate)
        return hr, out[0]

    def tiled(
        self, latent: Array, lr: Array, guidance: Guidance, grid: TileGrid, size: Size
    ) -> tuple[Array, Image]:
        """Does the same on tiles. Latents are blended after each step, so that tiles agree."""

        def denoised(step: Array) -> Iterator[tuple[Tile, Array]]:
            for tile in grid.tiles:
                part, part_lr, hint = (grid.cut(x, tile) for x in (latent, lr, guidance.hint))
                yield tile, self._denoise(part, part_lr, hint, step, guidance.gate)

        def decoded() -> Iterator[tuple[Tile, Array]]:
            for tile in grid.tiles:
                part, part_lr = grid.cut(latent, tile), grid.cut(lr, tile)
                warped = grid.cut(guidance.warped, tile, SCALE)
                yield tile, self._decode(part, part_lr, warped, guidance.gate)[0]

        for step in self._steps:
            latent = grid.mix(denoised(step), latent.shape[1]).astype(latent.dtype)
        height, width = (SCALE * side for side in size)
        hr = grid.mix(decoded(), 3, SCALE)[:, :, :height, :width].astype(latent.dtype)
        return np.ascontiguousarray(hr), to_uint8(hr)

    def _denoise(self, latent: Array, lr: Array, hint: Array, step: Array, gate: Array) -> Array:
        return self._run("denoise", latent=latent, lr=lr, hint=hint, step=step, gate=gate)[0]

    def _decode(self, latent: Array, lr: Array, warped: Array, gate: Array) -> tuple[Array, ...]:
        """Runs the decoder; its temporal processors are on or off, never scaled."""
        temporal, switch = self._no_temporal, self._off
        if gate.any():
            results = self._run("temporal", warped=warped)
            names = (t.name for t in self._temporal())
            temporal, switch = dict(zip(names, results, strict=True)), self._on
        matched = {"lr": lr} if self._matches_colour else {}
        return self._run("decode", latent=latent, gate=switch, **matched, **temporal)

    def _run(self, name: str, **inputs: Array) -> tuple[Array, ...]:
        engine = self._engines[name]
        outputs = {t.name: np.empty(t.shape, t.dtype) for t in self._specs[name].outputs}
        engine.bind(inputs | outputs).enqueue()
        return tuple(outputs.values())

    def _temporal(self) -> tuple[TensorSpec, ...]:
        return self._specs["temporal"].outputs

    def _tensor(self, graph: str, name: str) -> TensorSpec:
        spec = self._specs[graph]
        return next(t for t in (*spec.inputs, *spec.outputs) if t.name == name)

    def _zeros(self, graph: str, name: str) -> Array:
        tensor = self._tensor(graph, name)
        return np.zeros(tensor.shape, tensor.dtype)


def to_uint8(hr: Array) -> Image:
    """Returns raw HR (1, 3, H, W) as (H, W, 3) uint8 RGB, rounded half to even as in `decode`."""
    unit = np.clip(hr[0].astype(np.float32) / 2 + 0.5, 0, 1) * 255
    return np.ascontiguousarray(np.rint(unit).astype(np.uint8).transpose(1, 2, 0))
