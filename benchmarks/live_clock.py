"""A clock drawn into the frames of a live source, from which a receiver reads their age."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UsageError
from ..graphs.spec import Size
from ..runtime.processes.child import Child

LINES = 16  # of luma, in two rows
_CELLS, _ROWS = 28, 2
_BLACK, _WHITE = 16, 235
_SPAN = 1 << 48  # microseconds until the clock starts again: nine years


def stamp(luma: bytearray, width: int, microseconds: int) -> None:
    """Write a time into the top lines of a luma plane without row padding."""
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
    """The time in an (h, w, 3) uint8 frame, in microseconds; None where no whole one is.

    Args:
        image: RGB, with the code in its top lines.
        scale: How much larger the frame is than the one that was stamped.
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
    """Milliseconds since the frame was stamped on this machine; None where no code is whole."""
    stamped = read(image, scale)
    return None if stamped is None else (time.time_ns() // 1000 - stamped) % _SPAN / 1000


def _check(value: int) -> int:
    return sum(value.to_bytes(6, "big")) & 255 ^ 0xA5


NAME = "clock"
FPS = 30
LEAST_WIDTH = 160  # a cell of the code is then wide enough
_FORM = re.compile(r"clock(?:=(\d{1,5})x(\d{1,5})(?:@(\d{1,3}))?)?")
_MAX_SIDE = 4096


def is_clock(source: str) -> bool:
    """Whether a source is the clock, rightly written or not."""
    return source == NAME or source.startswith(f"{NAME}=")


def parse_clock(source: str, usual: Size) -> tuple[Size, int]:
    """(h, w) and frames a second of ``clock``, ``clock=640x360`` or ``clock=640x360@30``.

    Args:
        usual: The size where none is written.

    Raises:
        UsageError: It is none of these, or the stamp has no room.
    """
    match = _FORM.fullmatch(source)
    if match is None:
        raise UsageError(f"no clock: {source!r:.60}", remedy="write it as clock=640x360@30")
    width, height = (int(match[1]), int(match[2])) if match[1] else (usual[1], usual[0])
    fps = int(match[3] or FPS)
    if width % 2 or height % 2 or not fps or max(width, height) > _MAX_SIDE:
        raise UsageError(
            f"no clock of {width}x{height} at {fps} fps",
            f"both sides are even and at most {_MAX_SIDE}",
            "write it as clock=640x360@30",
        )
    if width < LEAST_WIDTH or height < 2 * LINES:
        raise UsageError(
            f"no clock of {width}x{height}",
            "the time in its pixels could not be read",
            f"{LEAST_WIDTH}x{2 * LINES} is the least; use engines of such a size",
        )
    return (height, width), fps


@contextmanager
def clock_running(size: Size, fps: int) -> Iterator[str]:
    """A clock for as long as the block runs; its address.

    Raises:
        StreamDiffVSRError: Its process does not start.
    """
    child = Child(
        "benchmarks.live_clock_child",
        {"size": size, "fps": fps},
        failure="the clock did not start",
        blas_threads=True,
    )
    try:
        message, _ = child.receive()
        yield f"tcp://127.0.0.1:{message['port']}"
    finally:
        child.close()
