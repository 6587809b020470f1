"""The source `clock`: parses its name, and runs the process that sends it.

It is opened like any other source over TCP: a child process demultiplexes and decodes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UsageError
from ..graphs.spec import Size
from ..runtime.processes.child import Child
from .clock_code import LINES

NAME = "clock"
FPS = 30
LEAST_WIDTH = 160  # the cells of the code must be wide enough to read
_FORM = re.compile(r"clock(?:=(\d{1,5})x(\d{1,5})(?:@(\d{1,3}))?)?")
_MAX_SIDE = 4096


def is_clock(source: str) -> bool:
    """Returns whether a source means the clock, even if it is written wrongly."""
    return source == NAME or source.startswith(f"{NAME}=")


def parse_clock(source: str, usual: Size) -> tuple[Size, int]:
    """Returns (h, w) and fps of ``clock``, ``clock=640x360`` or ``clock=640x360@30``.

    Args:
        usual: The size (h, w) if none is given.

    Raises:
        UsageError: The source is none of these, or the size has no room for the stamp.
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
    """Runs a clock during the block, and gives the block its address.

    Raises:
        StreamDiffVSRError: The process does not start.
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
