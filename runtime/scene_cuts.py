"""Scene cuts in a stream, found on LR frames as they come, with nothing but what came before.

Two frames belong together if one, shifted a little, looks like the other: thumbnails are compared
by their normalised cross-correlation (Lewis, 1995), so a flash or a fade, which change brightness
and contrast alone, are no cut. Where that leaves doubt, each quarter is looked for by itself, in
colour: what no motion explains then is another scene. It knows nothing of the model, nor of its
flow; a state that is reset once too often costs one frame's guidance, one that is not costs ghosts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..graphs.arrays import Image

Thumbnail = npt.NDArray[np.float32]  # (rows, columns, channels)

ROWS, COLUMNS = 27, 48
REACH = 5  # of the search: a fifth of the frame each way
UNLIKE, ALIKE = 0.5, 0.75  # correlations that leave no doubt: another scene below, the same above
EXPLAINED = 0.52  # between them: of the quarters, each moved by itself, there and back
FLAT = 3.0  # levels of standard deviation: less is the noise of a frame that shows no scene
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


class CutDetector:
    """Says of each frame whether it begins another scene than the frames before it."""

    def __init__(self) -> None:
        self._last: Thumbnail | None = None  # of the last frame that shows anything

    def is_cut(self, image: Image) -> bool:
        """Whether (h, w, 3) uint8 RGB shows another scene than the last frame; it is the last then.

        A frame with a flat middle (a flash, black between scenes) is never one: the frame behind it
        is compared with the one before it.
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
        """All that it knows of the frames so far; never changed, only replaced."""
        return self._last

    @memory.setter
    def memory(self, thumbnail: Thumbnail | None) -> None:
        self._last = thumbnail

    def reset(self) -> None:
        """Forget the last frame, at the start of an epoch."""
        self._last = None


def thumbnail_of(image: Image) -> Thumbnail:
    """The mean colour of each of ROWS x COLUMNS cells, or of each pixel where there are fewer."""
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
    """The largest correlation, in [-1, 1], of the middle of `last` with `now` at any shift."""
    return _found(_middle_of(last), now)


def explained(last: Thumbnail, now: Thumbnail) -> float:
    """The same of the quarters of the middle, each with a shift of its own: their mean by contrast.

    One minus its square is about the share of `now` that is left when `last` is moved block by
    block, and its brightness and contrast fitted: a residual of motion, without the flow.
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
    """The largest correlation of a part with any window of its size, each channel less its mean."""
    windows = np.lib.stride_tricks.sliding_window_view(where, part.shape[:2], axis=(0, 1))
    windows = windows.reshape(-1, part.shape[2], part[..., 0].size)  # (shifts, channels, cells)
    centred = np.moveaxis(part - part.mean(axis=(0, 1)), 2, 0).reshape(-1)
    spread = np.sqrt(windows.var(axis=2).sum(axis=1) * windows.shape[2])
    products = windows.reshape(len(windows), -1) @ centred
    return float((products / np.maximum(spread * np.linalg.norm(centred), 1e-6)).max())
