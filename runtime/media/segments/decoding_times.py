"""When packets are decoded: times that advance, and never later than their frame is shown.

It knows nothing of encoders or files.
"""

from __future__ import annotations

import heapq


class DecodingTimes:
    """Gives each packet, in decoding order, its decoding time.

    The k-th packet is decoded at the time the (k - r)-th frame is shown, r the frames a decoder
    holds back to show them in order; the first r a step apart before the first frame. So decoding
    times advance whatever the times of frames are, and a constant rate stays one.

    Args:
        first: When the first frame is shown, in ticks.
        reorder: r, at least.
        step: Ticks between the first ones.
    """

    def __init__(self, first: int, reorder: int, step: int) -> None:
        self._first, self._reorder, self._step = first, reorder, step
        self._shown: list[int] = []  # pts that no packet is decoded at yet
        self._count = 0

    def of(self, pts: int) -> int:
        """The decoding time of the next packet, whose frame is shown at ``pts``."""
        heapq.heappush(self._shown, pts)
        self._count += 1
        if self._count <= self._reorder:
            return self._first - (self._reorder - self._count + 1) * self._step
        return heapq.heappop(self._shown)
