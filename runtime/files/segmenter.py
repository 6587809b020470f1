"""Where a video is cut into segments: at scene cuts, and before they grow long.

A function of the frames alone, not of time or of where a run began: a run that was interrupted, one
in chunks and a plain one cut at the same frames, so their encoders make the same pictures.
"""

from __future__ import annotations

SHORTEST = 24  # frames: a flicker that looks like cuts must not start an encoder each time
LONGEST = 120  # frames: what a crash may cost


class Segmenter:
    """Counts the frames of the running segment."""

    def __init__(self) -> None:
        self._length = 0

    def starts_segment(self, cut: bool) -> bool:
        """Whether the next frame, a cut or not, is the first of a segment; it is counted."""
        first = self._length == 0 or self.full or (cut and self._length >= SHORTEST)
        self._length = 1 if first else self._length + 1
        return first

    @property
    def full(self) -> bool:
        """Whether the running segment takes no more frames."""
        return self._length >= LONGEST
