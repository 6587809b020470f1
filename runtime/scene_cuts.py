"""Finds scene cuts on LR frames as they arrive, from earlier frames alone.

Two frames belong together if one, shifted a little, looks like the other. Thumbnails are compared
by their normalised cross-correlation (Lewis, 1995), so a flash or a fade, which changes only
brightness and contrast, is not a cut. Where that leaves doubt, each quarter is searched for by
itself, in colour: what no motion explains is another scene. A reset too many costs the guidance of
one frame; a reset too few leaves ghosts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..graphs.arrays import Image

Thumbnail = npt.NDArray[np.float32]  # (rows, columns, channels)

ROWS, COLUMNS = 27, 48
REACH = 5  # the search goes a fifth of the frame each way
UNLIKE, ALIKE = 0.5, 0.75  # correlations beyond doubt: another scene below, the same above
EXPLAINED = 0.52  # between them: the least correlation of the quarters, in both directions
FLAT = 3.0  # standard deviation in levels: below it a frame shows noise and no scene
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


class CutDetector:
    """Decides for each frame whether it begins a new scene."""

    def __init__(self) -> None:
        self._last: Thumbnail | None = None  # of the last frame that shows anything

    def is_cut(self, image: Image) -> bool:
        """Returns whether a frame, (h, w, 3) uint8 RGB, shows another scene than the last one.

        A frame with a flat middle (a flash, black between scenes) is never a cut: the frame after
        it is compared with the one before it.
        """
        now = thumbnail_of(image)
        if (_middle_of(now) @ _LUMA).std() < FLAT:
            return False
        last, self._last = self._last, now
        if last is None:
            return False
        alike = likeness(last @ _LUMA, now @ _LUMA)
        if not UNLIKE <= alike < ALIKE:
            return alike < UNLIKE
        return min(explained(last, now), explained(now, last)) < EXPLAINED

    @property
    def memory(self) -> Thumbnail | None:
        """The thumbnail of the last frame that shows anything; never changed, only replaced."""
        return self._last

    @memory.setter
    def memory(self, thumbnail: Thumbnail | None) -> None:
        self._last = thumbnail

    def reset(self) -> None:
        """Forgets the last frame, at the start of an epoch."""
        self._last = None


def thumbnail_of(image: Image) -> Thumbnail:
    """Returns the mean colour of each of ROWS x COLUMNS cells, or each pixel of a smaller image."""
    # Every second pixel of a large frame: enough for a mean, and a quarter of the work.
    step = 2 if min(image.shape[0] // ROWS, image.shape[1] // COLUMNS) >= 4 else 1
    pixels = image[::step, ::step]
    rows, columns = (
        np.linspace(0, side, min(cells, side) + 1).astype(int)
        for side, cells in zip(pixels.shape[:2], (ROWS, COLUMNS), strict=True)
    )
    sums = np.add.reduceat(pixels, rows[:-1], axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns[:-1], axis=1)
    counts = np.outer(np.diff(rows), np.diff(columns))[:, :, None]
    cells: Thumbnail = (sums / counts).astype(np.float32)
    return cells


def likeness(last: Thumbnail, now: Thumbnail) -> float:
    """Returns the largest correlation, in [-1, 1], of `now` with the middle of `last`, shifted."""
    return _found(_middle_of(last), now)


def explained(last: Thumbnail, now: Thumbnail) -> float:
    """Returns the same for the quarters of the middle, each shifted by itself: a mean by contrast.

    One minus its square is about the share of `now` that remains after `last` is moved block by
    block and its brightness and contrast are fitted: a residual of motion, without the flow.
    """
    down, across = last.shape[0] // REACH, last.shape[1] // REACH
    weights, found = [], []
    for rows in _halves(_middle(last.shape[0])):
        for columns in _halves(_middle(last.shape[1])):
            quarter = last[rows, columns]
            weights.append(float(quarter.std()) + 1e-3)
            found.append(_found(quarter, now[_wider(rows, down), _wider(columns, across)]))
    return float(np.average(found, weights=weights))


def _middle_of(thumbnail: Thumbnail) -> Thumbnail:
    return thumbnail[_middle(thumbnail.shape[0]), _middle(thumbnail.shape[1])]


def _middle(side: int) -> slice:
    return slice(side // REACH, side - side // REACH)


def _halves(whole: slice) -> tuple[slice, slice]:
    half = (whole.start + whole.stop) // 2
    return slice(whole.start, half), slice(half, whole.stop)


def _wider(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop + by)


def _found(part: Thumbnail, where: Thumbnail) -> float:
    """Returns the largest correlation of a part with any window of its size, means removed."""
    windows = np.lib.stride_tricks.sliding_window_view(where, part.shape[:2], axis=(0, 1))
    windows = windows.reshape(-1, part.shape[2], part[..., 0].size)  # (shifts, channels, cells)
    centred = np.moveaxis(part - part.mean(axis=(0, 1)), 2, 0).reshape(-1)
    spread = np.sqrt(windows.var(axis=2).sum(axis=1) * windows.shape[2])
    products = windows.reshape(len(windows), -1) @ centred
    return float((products / np.maximum(spread * np.linalg.norm(centred), 1e-6)).max())
