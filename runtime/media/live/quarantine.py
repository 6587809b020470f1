"""Which decoded frames of a damaged or half-joined stream can be trusted.

A frame is whole if libav saw no damage in it, nor in anything decoded since the key frame that it
depends on. It knows nothing of libav: it is told what was seen, in the order of decoding.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["whole", "damaged", "drop"]


class Quarantine:
    """Follows one stream from the moment it is joined."""

    def __init__(self) -> None:
        self._joined = False
        self._dirty = False
        self._begin: int | None = None  # pts of the first key frame
        self._clean_from: int | None = None  # pts of the key frame that ended the last damage

    @property
    def joined(self) -> bool:
        """Whether the first key frame has come."""
        return self._joined

    def packet(self, *, key: bool, pts: int | None) -> bool:
        """Note that a packet comes; whether it is of any use to decode it."""
        if key:
            if not self._joined:
                self._joined, self._begin = True, pts
            elif self._dirty:
                self._clean_from = pts
            self._dirty = False
        return self._joined

    def join_anyhow(self) -> None:
        """Go on without a key frame, as some streams never have one; nothing is whole then."""
        self._joined = self._dirty = True

    def trouble(self) -> None:
        """Note damage at the packet that came last, or behind it."""
        self._dirty = True

    def judge(self, pts: int | None, *, corrupt: bool) -> Verdict:
        """What to think of the next decoded frame."""
        if corrupt:
            self._dirty = True
        if _before(pts, self._begin):
            return "drop"
        return "damaged" if self._dirty or _before(pts, self._clean_from) else "whole"


def _before(pts: int | None, limit: int | None) -> bool:
    """Whether a frame is shown before a key frame but comes out of the decoder behind it."""
    return pts is not None and limit is not None and pts < limit
