"""Writes a machine-readable clock into frames: wall time in microseconds as black and white cells.

Two rows of 28 cells in the top 16 lines contain 48 bits and a check byte. From 160 pixels of width
they are large enough to survive lossy coding and an upscaler. The module imports only the standard
library, as the RTSP server of the tests runs in Debian's Python.
"""

from __future__ import annotations

import time
from typing import Any

LINES = 16  # lines of luma, for two rows
_CELLS, _ROWS = 28, 2
_BLACK, _WHITE = 16, 235
_SPAN = 1 << 48  # microseconds until the clock starts again: nine years


def stamp(luma: bytearray, width: int, microseconds: int) -> None:
    """Writes a time into the top lines of a luma plane without row padding."""
    value = microseconds % _SPAN << 8
    value |= _check(value >> 8)
    lines = LINES // _ROWS
    for row in range(_ROWS):
        line = bytearray(width)
        for cell in range(_CELLS):
            shift = _ROWS * _CELLS - 1 - row * _CELLS - cell
            level = _WHITE if value >> shift & 1 else _BLACK
            left, right = cell * width // _CELLS, (cell + 1) * width // _CELLS
            line[left:right] = bytes([level]) * (right - left)
        start = row * lines * width
        luma[start : start + lines * width] = line * lines


def read(image: Any, scale: int = 1) -> int | None:
    """Returns the time in an (h, w, 3) uint8 frame, in microseconds; None if it is unreadable.

    Args:
        image: An RGB frame with the code in its top lines.
        scale: The size of the frame relative to the one that was stamped.
    """
    lines, width = LINES * scale // _ROWS, image.shape[1]
    value = 0
    for row in range(_ROWS):
        middle = slice(row * lines + lines // 4, (row + 1) * lines - lines // 4)
        for cell in range(_CELLS):
            left, right = cell * width // _CELLS, (cell + 1) * width // _CELLS
            inset = (right - left) // 4
            level = image[middle, left + inset : right - inset].mean()
            value = value << 1 | int(level > 127)
    return value >> 8 if value & 255 == _check(value >> 8) else None


def age_ms(image: Any, scale: int = 1) -> float | None:
    """Returns the ms since the frame was stamped on this machine; None if it is unreadable."""
    stamped = read(image, scale)
    return None if stamped is None else (time.time_ns() // 1000 - stamped) % _SPAN / 1000


def _check(value: int) -> int:
    return sum(value.to_bytes(6, "big")) & 255 ^ 0xA5
