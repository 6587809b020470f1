"""How a stored picture is made upright, by the matrix that a file has for its display.

Runs in the child. Such a matrix may turn, mirror, scale and slant. Here it is a mirror and quarter
turns: scaling is the pixel aspect's, and what is not about one of the eight upright orientations is
left as it is stored. libav gives the angle of a frame, but not that it is mirrored.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from .side_data import DISPLAY_MATRIX, SideData

_MATRIX = struct.Struct("=9i")  # rows of x, y and a third that perspective would need
_SKEW = 10  # degrees: a picture that leans more than that cannot be meant to be upright


def quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that make the frame upright; 0 of one that is skewed."""
    return 0 if is_skewed(frame) else round(_angle(frame) / 90) % 4


def is_skewed(frame: Any) -> bool:
    """Whether its display lies between two quarter turns."""
    angle = _angle(frame)
    return abs(angle - 90 * round(angle / 90)) > _SKEW


def _angle(frame: Any) -> int:
    """Degrees; of a matrix without an angle libav gives no number, which PyAV makes a huge one."""
    angle: int = frame.rotation
    return angle if abs(angle) <= 180 else 0


class Mirrors:
    """Tells which frames of one stream are stored mirrored; remembers it between key frames."""

    def __init__(self) -> None:
        self._side_data = SideData([DISPLAY_MATRIX])
        self._known: tuple[Any, ...] = ()
        self._mirrored = False

    def mirrored(self, frame: Any) -> bool:
        """Whether it has to be turned upside down in a mirror before its quarter turns."""
        seen = (frame.rotation, frame.width, frame.height)
        if seen != self._known or frame.key_frame:
            matrix = self._side_data.read(frame).get(DISPLAY_MATRIX, b"")
            self._known, self._mirrored = seen, _is_mirror(matrix) and not is_skewed(frame)
        return self._mirrored


def _is_mirror(matrix: bytes) -> bool:
    """Whether right and down become a left-handed pair, and about at a right angle."""
    if len(matrix) < _MATRIX.size:
        return False
    right_x, right_y, _, down_x, down_y, *_ = _MATRIX.unpack_from(matrix)
    area = math.hypot(right_x, right_y) * math.hypot(down_x, down_y)
    return bool(right_x * down_y - right_y * down_x < -math.cos(math.radians(_SKEW)) * area)
