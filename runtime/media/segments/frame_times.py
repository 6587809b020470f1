"""When each frame of an output is shown, in whole ticks, each later than the one before.

It knows nothing of pixels, encoders or containers.
"""

from __future__ import annotations

from fractions import Fraction

from ...processes.wire import Header, unpack


class FrameTimes:
    """Places frames on the output's time line.

    Args:
        time_base: Seconds per tick.
        after: No frame is placed at or before this tick; None if any will do.

    Attributes:
        last: Where the last frame was placed.
        retimed: How many were moved behind the one before them.
    """

    def __init__(self, time_base: Fraction, after: int | None = None) -> None:
        self.time_base, self.last, self.retimed = time_base, after, 0

    def place(self, header: Header) -> tuple[int, int]:
        """(pts, duration) in ticks of the frame a message announces."""
        scale = (unpack(header["time_base"]) or self.time_base) / self.time_base
        pts = round(header["pts"] * scale)
        last = self.last
        if last is not None and pts <= last:  # no container can show two frames at one time
            pts, self.retimed = last + 1, self.retimed + 1
        duration = round((header["duration"] or 0) * scale) or (1 if last is None else pts - last)
        self.last = pts
        return pts, duration
