"""Frames of more than eight bits: what the engines' eight-bit input and output would lose.

The raw output of the model is in floating point. What rounding took from the input is smooth where
it shows, in skies and fades; interpolated, it is added to the output.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...spec import SCALE

Image = npt.NDArray[np.uint8]
Image16 = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]


def restore_16bit(hr: npt.NDArray[np.floating], image: Image, deep: Image16) -> Image16:
    """The output frame, (H, W, 3) uint16 RGB [0, 65535].

    Args:
        hr: The raw output (1, 3, H, W), nominally in [-1, 1].
        image: The input that it was made of, (h, w, 3) uint8 RGB.
        deep: The same picture, (h, w, 3) uint16 RGB.
    """
    lost: Floats = (deep / np.float32(65535) - image / np.float32(255)).astype(np.float32)
    unit: Floats = hr[0].astype(np.float32).transpose(1, 2, 0) / 2 + np.float32(0.5)
    whole: Image16 = np.rint(np.clip(unit + enlarged(lost), 0, 1) * 65535).astype(np.uint16)
    return whole


def enlarged(values: Floats) -> Floats:
    """(h, w, 3) -> (4h, 4w, 3), linear between the centres of pixels, constant at the edges."""
    return _along(_along(values, 0), 1)


def _along(values: Floats, axis: int) -> Floats:
    low = np.moveaxis(values, axis, 0)
    before, after = np.concatenate([low[:1], low[:-1]]), np.concatenate([low[1:], low[-1:]])
    high = np.empty((SCALE * len(low), *low.shape[1:]), np.float32)
    for phase in range(SCALE):
        offset = np.float32((phase + 0.5) / SCALE - 0.5)
        other = after if offset > 0 else before
        high[phase::SCALE] = low + abs(offset) * (other - low)
    return np.moveaxis(high, 0, axis)
