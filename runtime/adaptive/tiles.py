"""Chooses the tiles that the model refines next, and blends what it has made into the canvas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ...graphs.spec import SCALE, Size
from ..stages import tile_starts
from .canvas import Canvas, Floats, enlarge, scaled
from .carry import MEAN, Motion, grid

LEARNED = 0.9  # of what a place lacks, in one pass: the next is guided by the first
MODEL_ERROR = 0.8  # levels: standard deviation
PART = 17  # HR pixels a side of the part whose detail is compared with it
OVERLAP = 8  # LR pixels over which neighbouring tiles are feathered
POWER = 1.5  # of texture, in the need: how much an edge goes before a flat part
PLAIN = 0.3  # levels of texture that are added everywhere, so that flat parts have their turn
PREFERRED = 8.0  # times the need of other parts: a region of interest
REFRESHED = 0.25  # the least weight that counts: no tile has more where four meet
AGE = 0.02  # levels: what a pixel that is due for refresh needs at least


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """What the model has made of a tile.

    Attributes:
        top, left: The tile's corner, in LR pixels.
        detail: What it adds to the interpolated frame, (4t, 4t, 3) float32 levels.
        weight: Its weight in the canvas, (4t, 4t): 1 inside, feathered at borders inside the frame.
    """

    top: int
    left: int
    detail: Floats
    weight: Floats


def trusted(detail: Floats) -> Floats:
    """Returns a tile's detail without what is no larger than the model's own error.

    A Wiener filter: where detail is weak, as in flat and in dark parts, it is mostly error.
    """
    power = cv2.blur(cv2.transform(cv2.multiply(detail, detail), MEAN), (PART, PART))
    share: Floats = power / (power + np.float32(MODEL_ERROR**2))
    kept: Floats = cv2.multiply(detail, cv2.merge([share] * 3))
    return kept


def starts(frame: int, tile: int) -> list[int]:
    """Returns evenly spread starts of tiles that cover `frame` with at least `OVERLAP`."""
    return tile_starts(frame, tile, OVERLAP)


def all_tiles(size: Size, tile: int) -> list[tuple[int, int]]:
    """Returns the corners (top, left) of the tiles that cover a frame."""
    return [(top, left) for top in starts(size[0], tile) for left in starts(size[1], tile)]


@lru_cache(maxsize=32)
def feather(tile: int, inner: tuple[bool, bool, bool, bool], scale: int) -> Floats:
    """Returns a tile's weights, (scale tile, scale tile).

    Args:
        inner: Whether its top, left, bottom and right borders are inside the frame.
    """
    ramp = (np.arange(OVERLAP * scale, dtype=np.float32) + 0.5) / (OVERLAP * scale)

    def along(before: bool, after: bool) -> Floats:
        weights = np.ones(tile * scale, np.float32)
        if before:
            weights[: len(ramp)] = ramp
        if after:
            weights[-len(ramp) :] *= ramp[::-1]
        return weights

    top, left, bottom, right = inner
    weights: Floats = np.outer(along(top, bottom), along(left, right)).astype(np.float32)
    weights.flags.writeable = False
    return weights


def weight_of(corner: tuple[int, int], size: Size, tile: int, scale: int) -> Floats:
    """Returns the `feather` of the tile at a corner of a frame."""
    (top, left), (h, w) = corner, size
    inner = (top > 0, left > 0, top + tile < h, left + tile < w)
    return feather(tile, inner, scale)


def choose(
    canvas: Canvas,
    count: int,
    tile: int,
    refresh_s: float,
    preferred: Floats | None = None,
) -> list[tuple[int, int]]:
    """Returns the corners of the tiles, at most `count`, that need the model most.

    A tile of the grid whose interval is over goes first. Others lie anywhere in the frame, so what
    has moved needs no more of them than before.

    Args:
        refresh_s: The interval in seconds after which each part is made again.
        preferred: (h, w), 1 in regions of interest, else 0.
    """
    need, age = _need(canvas, refresh_s, preferred), canvas.age.copy()
    chosen: list[tuple[int, int]] = []
    for _ in range(count):
        corner = _overdue(age, refresh_s, tile) or _neediest(need, tile)
        if corner is None:
            break
        chosen.append(corner)
        there = slice(corner[0], corner[0] + tile), slice(corner[1], corner[1] + tile)
        weight = weight_of(corner, canvas.size, tile, 1)
        need[there] *= 1 - weight
        age[there][weight >= REFRESHED] = 0
    return chosen


def _need(canvas: Canvas, refresh_s: float, preferred: Floats | None) -> Floats:
    """Returns how much each LR pixel needs the model, (h, w): staleness, weighted by texture."""
    grey = cv2.cvtColor(canvas.smooth, cv2.COLOR_RGB2GRAY)
    texture = cv2.blur(cv2.absdiff(grey, cv2.GaussianBlur(grey, (5, 5), 1.0)), (5, 5))
    need: Floats = (1 - canvas.fresh) * (texture + PLAIN) ** POWER
    need += AGE * np.minimum(canvas.age / refresh_s, 1)
    if preferred is not None:
        need *= 1 + (PREFERRED - 1) * preferred
    return need


def _neediest(need: Floats, tile: int) -> tuple[int, int] | None:
    sums = cv2.integral(need)
    sums = sums[tile:, tile:] - sums[:-tile, tile:] - sums[tile:, :-tile] + sums[:-tile, :-tile]
    top, left = (int(i) for i in np.unravel_index(np.argmax(sums), sums.shape))
    return (top, left) if sums[top, left] > 0 else None


def _overdue(age: Floats, refresh_s: float, tile: int) -> tuple[int, int] | None:
    """Returns the tile of the grid that is nearest to the oldest pixel, if that is too old."""
    y, x = np.unravel_index(np.argmax(age), age.shape)
    if age[y, x] <= refresh_s:
        return None
    top, left = (
        min(starts(side, tile), key=lambda start: abs(start + tile / 2 - place))
        for place, side in ((int(y), age.shape[0]), (int(x), age.shape[1]))
    )
    return top, left


def blend(canvas: Canvas, patch: Patch, motion: Motion | None = None, age: float = 0.0) -> None:
    """Blends a patch into a canvas, whose arrays it changes.

    Args:
        motion: The way from the canvas's frame back to the patch's; None if it is the same frame.
        age: Seconds since the patch's frame.
    """
    side = patch.weight.shape[0] // SCALE
    if motion is None:
        rows, columns = slice(patch.top, patch.top + side), slice(patch.left, patch.left + side)
        detail, reach = patch.detail, patch.weight
        weight = reach
    else:
        found = _moved(patch, side, motion)
        if found is None:
            return
        rows, columns, detail, reach = found
        weight = reach * enlarge(motion.confidence, rows, cv2.INTER_LINEAR, columns)
    there = canvas.detail[scaled(rows), scaled(columns)]
    there += weight[..., None] * (detail - there)
    fresh, ages = canvas.fresh[rows, columns], canvas.age[rows, columns]
    fresh += LEARNED * _reduced(weight) * (1 - fresh)
    # Also where the content has gone meanwhile: else such a place would be overdue for ever.
    ages[_reduced(reach) >= REFRESHED] = age


def _reduced(weight: Floats) -> Floats:
    """Returns the mean weight of each LR pixel."""
    reduced: Floats = cv2.resize(
        weight, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA
    )
    return reduced


def _moved(patch: Patch, side: int, motion: Motion) -> tuple[slice, slice, Floats, Floats] | None:
    """Returns where a patch has moved to, its detail and its weight there; None if nowhere."""
    corner = np.array([patch.left, patch.top], np.float32)
    there = grid(*motion.confidence.shape) + motion.flow - corner
    inside = (there[..., 0] > -1) & (there[..., 0] < side)
    inside &= (there[..., 1] > -1) & (there[..., 1] < side)
    left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
    if not width:
        return None
    rows, columns = slice(top, top + height), slice(left, left + width)
    hr = SCALE * (np.array([left, top], np.float32) - corner)
    hr = grid(SCALE * height, SCALE * width) + hr
    hr += SCALE * enlarge(motion.flow, rows, cv2.INTER_LINEAR, columns)
    detail = cv2.remap(patch.detail, hr, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.remap(patch.weight, hr, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return rows, columns, detail * np.float32(motion.gain), weight


def blend_all(canvas: Canvas, patches: list[Patch]) -> None:
    """Replaces the canvas's detail by that of patches which cover the whole frame."""
    total = np.zeros(canvas.detail.shape[:2], np.float32)
    canvas.detail[:] = 0
    for patch in patches:
        side = patch.weight.shape[0] // SCALE
        rows = scaled(slice(patch.top, patch.top + side))
        columns = scaled(slice(patch.left, patch.left + side))
        canvas.detail[rows, columns] += patch.weight[..., None] * patch.detail
        total[rows, columns] += patch.weight
    canvas.detail[:] /= total[..., None]
    canvas.fresh[:], canvas.age[:] = 1, 0
