"""Carries a canvas from one frame to the next, along the motion between them.

Motion is dense inverse search (Kroeger et al., ECCV 2016) on LR, and none where no motion explains
a pixel as well. What motion does not explain loses its detail, so the picture falls back to the
interpolated frame there: it shows no ghost, and brightness and motion follow at once.

Where nothing moves, the frame's noise is averaged over time: a recursive filter whose gain is small
for differences that noise explains. The noise is estimated from the still part of the picture, and
its differences do not count as change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from ...graphs.arrays import Image
from ...graphs.spec import SCALE
from .canvas import Canvas, Floats, bands, enlarge, scaled

FLOW_PIXELS = 320 * 180 * 2  # above this, flow is computed at half the LR resolution
FLOW_MARGIN = 16  # LR pixels around what has changed, in which motion is searched for
LEAST_FLOW_SIDE = 16
CHANGED_NOISE = 1.5  # standard deviations of the noise that are no change
STILL_BIAS = 0.3  # levels by which motion must explain a pixel better than none
STILL_NOISE = 0.5  # further, in standard deviations of the noise
# Confidence is exp(-(excess / WIDTH)^2): of the error, in levels, that exceeds FLOOR and the noise.
FLOOR, FLOOR_NOISE, WIDTH = 4.0, 2.0, 14.0
MOTION_LOSS = 0.03  # of freshness in a frame whose motion is a pixel or more: resampling blurs
NOISE_PACE = 0.2  # of the noise estimate, per frame
# Differences below QUIET standard deviations are averaged with LEAST_GAIN, above LOUD followed.
LEAST_NOISE, QUIET, LOUD, LEAST_GAIN = 0.2, 1.0, 3.0, 0.12
COARSE = 4  # LR pixels a side of the cells in which contrast is compared
LEAST_CONTRAST = 3.0  # levels: standard deviation of a frame whose contrast means something
LEAST_GAIN_CHANGE, MOST_GAIN = 0.01, 1.25  # per frame
CELL = 16  # LR pixels: detail is resampled in cells of this width that move
STILL_SHARE, LEAST_CELLS = 0.9, 4  # of a cell, and of the frame, to take the noise from
MEAN = np.full((1, 3), 1 / 3, np.float32)
_NOISE_FILTER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """The way back from a frame to an earlier one.

    Attributes:
        flow: (h, w, 2) float32 LR pixels, x first: where each pixel was, minus where it is.
        confidence: (h, w) float32 in [0, 1]: 0 where the earlier frame does not show the pixel.
        gain: The contrast of the frame, divided by the earlier one's: below 1 in a fade to black.
    """

    flow: Floats
    confidence: Floats
    gain: float = 1.0

    def after(self, earlier: Motion) -> Motion:
        """Returns the motion from this one's frame to the frame before `earlier`."""
        there = grid(*self.confidence.shape) + self.flow
        both = cv2.merge([*cv2.split(earlier.flow), earlier.confidence])
        moved = cv2.remap(both, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        confidence = self.confidence * moved[..., 2]
        return Motion(self.flow + moved[..., :2], confidence, self.gain * earlier.gain)


@lru_cache(maxsize=8)
def grid(height: int, width: int) -> Floats:
    """Returns the coordinates (x, y) of every pixel, (height, width, 2)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pixels: Floats = np.dstack([x, y])
    pixels.flags.writeable = False
    return pixels


def carry(
    canvas: Canvas, frame: Image, seconds: float, spare: Floats | None = None
) -> tuple[Canvas, Motion]:
    """Returns the canvas in the next frame, and the motion from there back to the last one.

    Args:
        canvas: The canvas in the last frame; it is not changed, unless there is `spare`.
        frame: The next frame, (h, w, 3) uint8 RGB, of the canvas's size.
        seconds: The time between the two frames.
        spare: Memory like the canvas's detail. If given, nothing large is allocated: the new
            detail is in this memory or in the canvas's own, and the other one is free.
    """
    now = frame.astype(np.float32)
    if canvas.blank:
        return _first(canvas, frame, now), _no_motion(canvas)
    match = _match(canvas, now)
    noise = _noise(frame, canvas.lr, match.still, canvas.noise)
    confidence = _confidence(match, noise)
    motion = Motion(match.flow, confidence, _gain(now, match.moved, confidence))
    there = grid(*canvas.size) + match.flow
    fresh, age = (
        cv2.remap(x, there, None, how, borderMode=cv2.BORDER_REPLICATE)
        for x, how in ((canvas.fresh, cv2.INTER_LINEAR), (canvas.age, cv2.INTER_NEAREST))
    )
    distance = np.minimum(np.abs(match.flow[..., 0]) + np.abs(match.flow[..., 1]), 1)
    carried = Canvas(
        lr=frame,
        smooth=_smoothed(now, match, noise),
        detail=_carry_detail(canvas.detail, motion, spare),
        fresh=fresh * confidence * (1 - MOTION_LOSS * distance),
        age=age + np.float32(seconds),
        noise=noise,
        seed=canvas.seed,
        frame_index=canvas.frame_index + 1,
        blank=False,
    )
    return carried, motion


def _first(canvas: Canvas, frame: Image, now: Floats) -> Canvas:
    empty = Canvas.empty(canvas.size, canvas.seed)
    index = canvas.frame_index + 1
    return replace(empty, lr=frame, smooth=now, frame_index=index, blank=False)


def _no_motion(canvas: Canvas) -> Motion:
    h, w = canvas.size
    return Motion(np.zeros((h, w, 2), np.float32), np.zeros((h, w), np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class _Match:
    """How the last frame explains the next one, (h, w) each.

    Attributes:
        flow: (h, w, 2): as in `Motion`.
        moved: The last frame moved along the flow, (h, w, 3) levels.
        error: The mean absolute difference of the two around each pixel, in levels.
        still: Whether no motion explains the pixel as well as any.
    """

    flow: Floats
    moved: Floats
    error: Floats
    still: npt.NDArray[np.bool_]


def _match(canvas: Canvas, now: Floats) -> _Match:
    before, least = canvas.smooth, STILL_BIAS + STILL_NOISE * canvas.noise
    flow = np.zeros((*canvas.size, 2), np.float32)
    moved, unmoved_error = before.copy(), _error(now, before)
    error, still = unmoved_error.copy(), np.ones(canvas.size, np.bool_)
    part = _changed(unmoved_error > STILL_BIAS + CHANGED_NOISE * canvas.noise)
    if part is None:
        return _Match(flow, moved, error, still)
    found = _flow(now[part], before[part])
    there = grid(*canvas.size)[part] + found
    border = cv2.BORDER_REPLICATE
    along = cv2.remap(before, there, None, cv2.INTER_CUBIC, borderMode=border)
    moved_error = _error(now[part], along)
    moves = moved_error + least < unmoved_error[part]
    still[part] = ~moves
    mask = moves.view(np.uint8)
    for whole, found_there in ((flow, found), (moved, along), (error, moved_error)):
        cv2.copyTo(found_there, mask, whole[part])
    return _Match(flow, moved, error, still)


def _changed(changed: npt.NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Returns the part of the frame that contains every change, with a margin; None without any."""
    left, top, width, height = cv2.boundingRect(changed.view(np.uint8))
    if not width:
        return None
    rows, columns = (
        slice(max(start - FLOW_MARGIN, 0), min(start + length + FLOW_MARGIN, side))
        for start, length, side in zip((top, left), (height, width), changed.shape, strict=True)
    )
    return rows, columns


def _flow(now: Floats, before: Floats) -> Floats:
    """Returns the flow from `now` to `before`, (h, w, 2) LR pixels; none in a sliver."""
    if min(now.shape[:2]) < LEAST_FLOW_SIDE:
        return np.zeros((*now.shape[:2], 2), np.float32)
    grey, grey_before = (
        cv2.cvtColor(cv2.convertScaleAbs(x), cv2.COLOR_RGB2GRAY) for x in (now, before)
    )
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(0 if now.shape[0] * now.shape[1] <= FLOW_PIXELS else 1)
    search.setVariationalRefinementIterations(0)
    flow: Floats = search.calc(grey, grey_before, None)
    return flow


def _error(a: Floats, b: Floats) -> Floats:
    """Returns the absolute difference, mean over channels and 5 by 5 pixels."""
    error: Floats = cv2.blur(cv2.transform(cv2.absdiff(a, b), MEAN), (5, 5))
    return error


def _noise(frame: Image, last: Image, still: npt.NDArray[np.bool_], before: float) -> float:
    """Returns the standard deviation of the noise in levels, from cells of green that are still.

    The difference of two frames is filtered so that brightness and edges do not count (Immerkaer,
    "Fast noise variance estimation", 1996).
    """
    h, w = (max(1, side // CELL) for side in still.shape)
    green, last_green = (cv2.extractChannel(image, 1) for image in (frame, last))
    difference = cv2.subtract(green, last_green, dtype=cv2.CV_32F)
    filtered = np.abs(cv2.filter2D(difference, -1, _NOISE_FILTER))
    cells, share = (
        cv2.resize(x, (w, h), interpolation=cv2.INTER_AREA)
        for x in (filtered, still.astype(np.float32))
    )
    cells = cells[share >= STILL_SHARE]
    if cells.size < LEAST_CELLS:
        return before
    # The filter has a norm of 6, the mean of a normal value's size is sqrt(2 / pi) of its
    # deviation, and that of a difference sqrt(2) of one frame's.
    found = float(np.median(cells)) * math.sqrt(math.pi) / 12
    return before + NOISE_PACE * (found - before)


def _confidence(match: _Match, noise: float) -> Floats:
    excess = np.maximum(match.error - (FLOOR + FLOOR_NOISE * noise), 0)
    confidence: Floats = np.exp(-np.square(excess / WIDTH))
    h, w = confidence.shape
    there = grid(h, w) + match.flow
    x, y = there[..., 0], there[..., 1]
    confidence[(x < -0.5) | (x > w - 0.5) | (y < -0.5) | (y > h - 0.5)] = 0
    return confidence


def _gain(now: Floats, moved: Floats, confidence: Floats) -> float:
    """Returns the change of contrast over the whole frame, of what the motion explains.

    It is the slope of the least-squares line through the two frames' coarse brightness, which does
    not depend on sharpness. Small changes are none: errors would add up.
    """
    size = tuple(max(1, side // COARSE) for side in confidence.shape[::-1])
    x, y, weight = (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA).ravel()
        for image in (cv2.transform(moved, MEAN), cv2.transform(now, MEAN), confidence)
    )
    total = float(weight.sum())
    if total < 1:
        return 1.0
    x, y = (v - float(weight @ v) / total for v in (x, y))
    spread = float(weight @ (x * x))
    slope = float(weight @ (x * y)) / spread if spread > total * LEAST_CONTRAST**2 else 1.0
    return 1.0 if abs(slope - 1) < LEAST_GAIN_CHANGE else min(max(slope, 0.0), MOST_GAIN)


def _smoothed(now: Floats, match: _Match, noise: float) -> Floats:
    """Returns the frame with its noise averaged over time where nothing moves."""
    if noise < LEAST_NOISE:
        return now
    new = now - match.moved
    red, green, blue = cv2.split(np.abs(cv2.blur(new, (3, 3))))
    change = np.maximum(np.maximum(red, green), blue) / np.float32(noise)
    gain: Floats = np.clip((change - QUIET) / (LOUD - QUIET), LEAST_GAIN, 1)
    gain[~match.still] = 1
    gain = cv2.dilate(gain, np.ones((3, 3), np.uint8))
    smoothed: Floats = cv2.add(match.moved, cv2.multiply(cv2.merge([gain] * 3), new))
    return smoothed


def _carry_detail(detail: Floats, motion: Motion, spare: Floats | None) -> Floats:
    """Returns the detail, moved, and weighted by confidence and gain; what is still is not moved.

    With `spare`, it is in that or in `detail`, whichever needs less to be copied.
    """
    out = np.empty_like(detail) if spare is None else spare
    moves = (motion.flow[..., 0] != 0) | (motion.flow[..., 1] != 0)
    runs = [
        (rows, columns, moved)
        for rows in bands(moves.shape[0])
        for columns, moved in _runs(moves, rows)
    ]
    for rows, columns, moved in runs:
        if moved:
            part = scaled(rows), scaled(columns)
            there = _places(motion.flow, rows, columns)
            border = cv2.BORDER_REFLECT
            cv2.remap(detail, there, None, cv2.INTER_CUBIC, dst=out[part], borderMode=border)
    stay = spare is not None and 2 * moves.mean() < 1
    source, out = (out, detail) if stay else (detail, out)
    for rows, columns, moved in runs:
        if moved == stay:
            part = scaled(rows), scaled(columns)
            np.copyto(out[part], source[part])
    _weight(out, motion)
    return out


def _weight(detail: Floats, motion: Motion) -> None:
    """Multiplies detail in its place by the confidence and the gain of the motion."""
    share = motion.confidence if motion.gain == 1 else motion.confidence * np.float32(motion.gain)
    for rows in bands(share.shape[0]):
        for columns, changed in _runs(share != 1, rows):
            if changed:
                part = detail[scaled(rows), scaled(columns)]
                weight = enlarge(share, rows, cv2.INTER_LINEAR, columns)
                cv2.multiply(part, cv2.merge([weight] * 3), dst=part)


def _places(flow: Floats, rows: slice, columns: slice) -> Floats:
    """Returns the HR pixels (x, y) that the HR pixels of a part come from."""
    there = SCALE * enlarge(flow, rows, cv2.INTER_LINEAR, columns)
    pixels = grid(SCALE * flow.shape[0], SCALE * flow.shape[1])
    there += pixels[scaled(rows), scaled(columns)]
    return there


def _runs(mask: npt.NDArray[np.bool_], rows: slice) -> Iterator[tuple[slice, bool]]:
    """Yields all columns in runs of whole cells, and whether the mask has a pixel in the run.

    Pixels next to these rows and columns count, as interpolation to HR reaches into them.
    """
    width = mask.shape[1]
    near = mask[max(rows.start - 1, 0) : rows.stop + 1].any(axis=0)
    near = np.convolve(near, np.ones(3), "same") > 0
    cells = np.add.reduceat(near, np.arange(0, width, CELL)) > 0
    edges = [0, *(np.flatnonzero(np.diff(cells)) + 1), len(cells)]
    for start, stop in pairwise(edges):
        yield slice(int(start) * CELL, min(int(stop) * CELL, width)), bool(cells[start])
