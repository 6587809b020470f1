"""Decides before the first frame how a size will be run: how flow is computed, and in which tiles.

RAFT's all-pairs volume has (H/8 W/8)^2 values, 198 GiB for a 720p input, so above a budget the
exact lookup is computed on demand, and above a second one at half resolution. Denoise and decode
run on the whole frame up to a size and on equal overlapping tiles beyond it. The limits are fixed
numbers and do not depend on the memory that is free: one size gives one plan, and so one engine
set, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError, option, without
from .spec import (
    FLOW_SCALES,
    MIN_SIDE,
    SCALE,
    TILE_OVERLAP,
    Geometry,
    Size,
    format_size,
    padded_size,
)

ALL_PAIRS_BYTES = 3 * 2**29  # 1.5 GiB: a 320x180 input needs 1.03, a 480x270 one 5.3
ON_DEMAND_POSITIONS = 130_000  # a 960x540 input (4K output); beyond, the flow runs at half size
WHOLE_FRAME_PIXELS = 640 * 360  # denoise and decode see the whole frame up to 1440p output
TILE_SIDE = (256, 448)  # largest tile (h, w) beyond that
CHUNK_BYTES = 64 * 2**20  # size of the features that the on-demand lookup gathers at once
# An exported graph repeats every chunk in every update: the 1413 of a 720p input would be 34,000
# nodes. With this limit a chunk takes no more memory than the positions of all windows, which are
# there anyway.
MAX_CHUNKS = 256
BATCHED_SIZE = (48, 48)  # LR pixels: a good size of tiles that are refined in batches


@dataclass(frozen=True, slots=True)
class Plan:
    """A geometry, the form of RAFT's correlation, and the line that reports them to the user."""

    geometry: Geometry
    correlation: str

    def describe(self) -> str:
        """Returns one line for the user."""
        geometry = self.geometry
        scale = (
            ""
            if geometry.flow_scale == 1
            else f", found at 1/{geometry.flow_scale} of the output's resolution"
        )
        where = "whole frame" if geometry.tile is None else f"tiles of {format_size(geometry.tile)}"
        volume = correlation_bytes(geometry.size, geometry.flow_scale) / 2**30
        shown = f"{volume:.2f} GiB" if volume >= 1 else f"{volume * 2**10:.1f} MiB"
        stored = f"{self.correlation}, volume {shown}"
        if self.correlation == "on-demand":
            stored = f"on-demand (the all-pairs volume would be {shown})"
        return f"flow: {stored}{scale}; denoise and decode: {where}"


def correlation_bytes(size: Size, flow_scale: int = 1) -> int:
    """Returns the bytes of RAFT's all-pairs pyramid in float32, for an LR size."""
    return 4 * 4 * _positions(size, flow_scale) ** 2 // 3


def _positions(size: Size, flow_scale: int) -> int:
    height, width = (-(-side * SCALE // flow_scale // 8) for side in padded_size(size))
    return height * width


def chunk_length(positions: int, channels: int, window: int) -> int:
    """Returns how many positions an on-demand lookup gathers at once, each with its window."""
    fitting = CHUNK_BYTES // (4 * channels * window)
    return max(1, fitting, -(-positions // MAX_CHUNKS))


def make_plan(
    size: Size,
    *,
    flow_scale: int | None = None,
    correlation: str | None = None,
    tile: Size | str | None = "auto",
    preferred: int = 1,
    batch: int = 1,
) -> Plan:
    """Chooses the plan for an LR size (h, w); every choice can be overridden.

    Args:
        flow_scale: 1, 2 or 4: the flow is computed at HR divided by this. None chooses.
        correlation: "all-pairs" or "on-demand". None chooses.
        tile: LR size of the tiles, None for the whole frame; "auto" chooses.
        preferred: The flow scale that the model was trained at, used where the frame allows it.
        batch: How many frames every graph takes at once: more than one are tiles, so `size` is
            square and not divided again.

    Raises:
        UsageError: A value is unknown, or does not fit the size.
    """
    if isinstance(tile, str) and tile != "auto":
        raise UsageError(f"tile {tile!r} is not known", remedy="use auto, off or WxH")
    if correlation not in (None, "all-pairs", "on-demand"):
        raise UsageError(
            f"correlation {correlation!r} is not known", remedy="use all-pairs or on-demand"
        )
    if flow_scale is not None and flow_scale not in FLOW_SCALES:
        raise UsageError(f"flow scale {flow_scale} is not known", remedy="use 1, 2 or 4")
    Geometry(size)  # a bad size is reported before anything is derived from it
    if flow_scale is None:
        flow_scale = preferred
        if preferred == 1 and _positions(size, 1) > ON_DEMAND_POSITIONS:
            flow_scale = 2
        if min(padded_size(size)) < flow_scale * MIN_SIDE:  # too thin to be scaled down
            flow_scale = 1
    if correlation is None:
        fits = correlation_bytes(size, flow_scale) <= ALL_PAIRS_BYTES
        correlation = "all-pairs" if fits else "on-demand"
    chosen = choose_tile(size) if isinstance(tile, str) else tile
    plan = Plan(Geometry(size, flow_scale, chosen, batch), correlation)
    if batch > 1:
        _check_batched(plan)
    return plan


def _check_batched(plan: Plan) -> None:
    """Raises `UsageError` unless frames are tiles: square, not padded and not divided again."""
    geometry = plan.geometry
    height, width = geometry.size
    whole = geometry.tile is None and geometry.padded == geometry.size
    if height != width or not whole or plan.correlation == "on-demand":
        raise UsageError(
            f"engines of {format_size(geometry.size)} cannot take {geometry.batch} tiles at once",
            f"such tiles are square, with sides of a multiple of {SCALE} and at least {MIN_SIDE} "
            "pixels, and small enough to be run whole",
            f"use {option('size', BATCHED_SIZE)}, or {without('batch')}",
        )


def choose_tile(size: Size) -> Size | None:
    """Returns the LR size of equal tiles, as few as `TILE_SIDE` allows; None: the whole frame."""
    height, width = padded_size(size)
    if height * width <= WHOLE_FRAME_PIXELS:
        return None
    return _tile_side(height, TILE_SIDE[0]), _tile_side(width, TILE_SIDE[1])


def _tile_side(side: int, largest: int) -> int:
    if side <= largest:
        return side
    count = -(-(side - TILE_OVERLAP) // (largest - TILE_OVERLAP))
    even = -(-(side + (count - 1) * TILE_OVERLAP) // count)
    return -(-even // SCALE) * SCALE
