"""Stripes of known colour as planes of YUV, by the formulas of H.273, and how to find them again.

Nothing here uses libav or the code under test.
"""

from __future__ import annotations

import numpy as np

# Red, green, blue, grey, and colours off the corners of the cube.
PATCHES = [
    (200, 30, 40),
    (40, 180, 60),
    (30, 50, 190),
    (128, 128, 128),
    (220, 200, 90),
    (16, 90, 140),
]
KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def yuv_planes(matrix: int, full: bool, height: int, width: int, bits: int = 8) -> np.ndarray:
    """The patches as stripes of yuv420p of that depth, plane below plane."""
    kr, kb = KR_KB[matrix]
    planes = [np.zeros((height, width)), *(np.zeros((height // 2, width // 2)) for _ in "uv")]
    step, top = 1 << (bits - 8), (1 << bits) - 1
    for index, (r, g, b) in enumerate(np.array(PATCHES) / 255):
        luma = kr * r + (1 - kr - kb) * g + kb * b
        chroma = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
        scale = (top, 0, top) if full else (219 * step, 16 * step, 224 * step)
        values = [luma * scale[0] + scale[1], *(c * scale[2] + 128 * step for c in chroma)]
        for plane, value in zip(planes, values, strict=True):
            stripe = plane.shape[1] // len(PATCHES)
            plane[:, index * stripe :] = round(value)
    kind = np.uint8 if bits == 8 else np.uint16
    return np.concatenate([plane.astype(kind).ravel() for plane in planes]).reshape(-1, width)


def patch_colours(image: np.ndarray) -> np.ndarray:
    """The colour in the middle of each stripe."""
    height, width = image.shape[:2]
    step = width // len(PATCHES)
    return image[height // 2, step // 2 :: step][: len(PATCHES)].astype(int)
