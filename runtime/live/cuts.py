"""Scene cuts in a stream, found on LR frames as they come, with nothing but what came before.

Two frames belong together if one, shifted a little, looks like the other: thumbnails are compared
by their normalised cross-correlation (Lewis, 1995), so a flash or a fade, which change brightness
and contrast alone, are no cut. It knows nothing of the model; a state that is reset once too often
costs one frame's guidance, one that is not costs ghosts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Thumbnail = npt.NDArray[np.float32]

ROWS, COLUMNS = 27, 48
REACH = 5  # of the search: a fifth of the frame each way
ALIKE = 0.65  # the correlation below which two frames are of two scenes
MARGIN = 0.2  # below what is usual in this scene: in a fast pan few frames are much alike
FLAT = 4.0  # levels of standard deviation: a black or white frame shows no scene at all
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class CutDetector:
    """Says of each frame whether it begins another scene than the frames before it."""

    def __init__(self) -> None:
        self._last: Thumbnail | None = None  # of the last frame that shows anything
        self._usual = 1.0  # likeness of neighbours in this scene

    def is_cut(self, image: Image) -> bool:
        """Whether (h, w, 3) uint8 RGB shows another scene than the last frame; it is the last then.

        A flat frame (a flash, black between scenes) is never one: the frame behind it is compared
        with the one before it.
        """
        thumbnail = _thumbnail(image)
        if thumbnail.std() < FLAT:
            return False
        last, self._last = self._last, thumbnail
        if last is None:
            return False
        alike = likeness(last, thumbnail)
        cut = alike < min(ALIKE, self._usual - MARGIN)
        self._usual = 1.0 if cut else (self._usual + alike) / 2
        return cut

    def reset(self) -> None:
        """Forget the last frame, at the start of an epoch."""
        self._last, self._usual = None, 1.0


def likeness(last: Thumbnail, now: Thumbnail) -> float:
    """The largest correlation, in [-1, 1], of the middle of `last` with `now` at any shift."""
    down, across = last.shape[0] // REACH, last.shape[1] // REACH
    middle = last[down : last.shape[0] - down, across : last.shape[1] - across]
    windows = np.lib.stride_tricks.sliding_window_view(now, middle.shape)
    windows = windows.reshape(-1, middle.size)
    centred = middle.ravel() - middle.mean()
    norms = windows.std(axis=1) * np.sqrt(middle.size) * np.linalg.norm(centred)
    return float((windows @ centred / np.maximum(norms, 1e-6)).max())


def _thumbnail(image: Image) -> Thumbnail:
    """The mean luma of each of ROWS x COLUMNS cells, or of each pixel where there are fewer."""
    # Every second pixel of a large frame: enough for a mean, and a quarter of the work.
    step = 2 if min(image.shape[0] // ROWS, image.shape[1] // COLUMNS) >= 4 else 1
    luma = image[::step, ::step] @ _LUMA
    rows, columns = (
        np.linspace(0, side, min(cells, side) + 1).astype(int)
        for side, cells in zip(luma.shape, (ROWS, COLUMNS), strict=True)
    )
    sums = np.add.reduceat(luma, rows[:-1], axis=0)
    sums = np.add.reduceat(sums, columns[:-1], axis=1)
    cells: Thumbnail = (sums / np.outer(np.diff(rows), np.diff(columns))).astype(np.float32)
    return cells
