"""The canvas: the detail that the model has made so far, as it lies in the newest frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ...graphs.arrays import Image
from ...graphs.spec import SCALE, Size, format_size
from ..state import read_tensors, write_tensors

Floats = npt.NDArray[np.float32]
FORMAT = "streamdiffvsr-canvas-1"
BAND = 64  # LR rows that are worked on at once: their HR pixels fit in a core's cache
_TAPS = 4  # rows on each side that Lanczos-4 looks at


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """The state of adaptive mode after a frame: the picture is its interpolation plus `detail`.

    Sizes are those of the frame, padded to a tile's where it is smaller.

    Attributes:
        lr: The frame, (h, w, 3) uint8 RGB.
        smooth: The frame with its noise averaged over time where nothing moves, (h, w, 3) float32
            levels.
        detail: What the model adds to the interpolation of `smooth`, (4h, 4w, 3) float32 levels.
        fresh: The share of the model's quality that each LR pixel still has, (h, w), in [0, 1]; 0
            where the picture is interpolated.
        age: Seconds since the model made each LR pixel, (h, w); where it never did, since the
            canvas was empty.
        noise: The standard deviation of the source's noise, in levels.
        seed: The seed of the model's noise.
        frame_index: The index of the next frame; seed and index determine its noise.
        blank: Whether there is no earlier frame, so that nothing can be carried.
    """

    lr: Image
    smooth: Floats
    detail: Floats
    fresh: Floats
    age: Floats
    noise: float = 0.0
    seed: int = 0
    frame_index: int = 0
    blank: bool = True

    @classmethod
    def empty(cls, size: Size, seed: int = 0) -> Canvas:
        """Returns the canvas before the first frame of an LR size (h, w)."""
        h, w = size
        return cls(
            lr=np.zeros((h, w, 3), np.uint8),
            smooth=np.zeros((h, w, 3), np.float32),
            detail=np.zeros((SCALE * h, SCALE * w, 3), np.float32),
            fresh=np.zeros((h, w), np.float32),
            age=np.zeros((h, w), np.float32),
            seed=seed,
        )

    @property
    def size(self) -> Size:
        """The LR size (h, w)."""
        return self.lr.shape[0], self.lr.shape[1]

    def reset(self) -> Canvas:
        """Returns an empty canvas with the same seed and frame index, for a new scene."""
        return replace(Canvas.empty(self.size, self.seed), frame_index=self.frame_index)

    def render(self) -> Image:
        """Returns the picture, (4h, 4w, 3) uint8 RGB."""
        out = np.empty(self.detail.shape, np.uint8)
        for rows in bands(self.size[0]):
            part = scaled(rows)
            base = enlarge(self.smooth, rows, cv2.INTER_LANCZOS4)
            cv2.add(base, self.detail[part], dst=out[part], dtype=cv2.CV_8U)
        return out

    def picture_at(self, top: int, left: int, side: int) -> tuple[Floats, Floats]:
        """Returns a square's part of the interpolated frame, and of the picture, in levels.

        Args:
            top, left, side: The square, in LR pixels.

        Returns:
            Two arrays (4 side, 4 side, 3), unclamped.
        """
        rows, columns = slice(top, top + side), slice(left, left + side)
        base = enlarge(self.smooth, rows, cv2.INTER_LANCZOS4, columns)
        return base, base + self.detail[scaled(rows), scaled(columns)]

    def save(self, path: str | Path) -> None:
        """Writes the canvas as safetensors, whole or not at all.

        Raises:
            StreamDiffVSRError: The file cannot be written.
        """
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        tensors = {name: getattr(self, name) for name in _ARRAYS}
        write_tensors(Path(path), tensors, {"format": FORMAT, "canvas": json.dumps(numbers)})

    @classmethod
    def load(cls, path: str | Path) -> Canvas:
        """Reads a canvas that `save` wrote.

        Raises:
            StreamDiffVSRError: The file is missing, damaged, or no canvas.
        """
        with read_tensors(Path(path), FORMAT) as (tensors, metadata):
            numbers = json.loads(metadata["canvas"])
            fields: dict[str, Any] = {name: tensors[name] for name in _ARRAYS}
            canvas = cls(**fields, **{name: numbers[name] for name in _NUMBERS})
            _check(canvas)
            return canvas


_ARRAYS = ("lr", "smooth", "detail", "fresh", "age")
_NUMBERS = ("noise", "seed", "frame_index", "blank")


def _check(canvas: Canvas) -> None:
    """Raises ValueError unless the arrays fit together."""
    wanted = Canvas.empty(canvas.size)
    for name in _ARRAYS:
        have, want = getattr(canvas, name), getattr(wanted, name)
        if have.shape != want.shape or have.dtype != want.dtype:
            raise ValueError(
                f"{name} is {have.dtype} {have.shape} in a canvas of {format_size(canvas.size)}"
            )


def bands(height: int) -> Iterator[slice]:
    """Yields the rows of an LR image, `BAND` at a time."""
    for start in range(0, height, BAND):
        yield slice(start, min(start + BAND, height))


def scaled(part: slice) -> slice:
    """Returns the HR pixels of a range of LR pixels."""
    return slice(SCALE * part.start, SCALE * part.stop)


def enlarge(x: Floats, rows: slice, how: int, columns: slice | None = None) -> Floats:
    """Returns a part of an LR array, interpolated to HR with half-pixel centres.

    Args:
        x: (h, w) or (h, w, C); beyond its borders it is replicated.
        rows, columns: The part, in LR pixels; without columns, all of them.
        how: OpenCV's interpolation.

    Returns:
        (4 rows, 4 columns) or (4 rows, 4 columns, C): equal to that part of all of `x` enlarged.
    """
    columns = columns or slice(0, x.shape[1])
    top, bottom = max(rows.start - _TAPS, 0), min(rows.stop + _TAPS, x.shape[0])
    left, right = max(columns.start - _TAPS, 0), min(columns.stop + _TAPS, x.shape[1])
    size = SCALE * (right - left), SCALE * (bottom - top)
    up = cv2.resize(x[top:bottom, left:right], size, interpolation=how)
    inner: Floats = up[
        SCALE * (rows.start - top) : SCALE * (rows.stop - top),
        SCALE * (columns.start - left) : SCALE * (columns.stop - left),
    ]
    return inner
