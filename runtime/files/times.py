"""The times of frames, made to go on where a file's clock jumps back.

Files that were joined, and streams whose clock has wrapped, have such jumps. A frame that is a
little early is moved alone, and those behind it keep their times. All else is carried as it is:
gaps, variable rates and starts that are not zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Times:
    """Where a stream of frames is in time, in ticks; immutable, so that it can be written down.

    Attributes:
        offset: What is added to the file's times since the last jump.
        last: Of the last frame, as written; None before the first.
        step: From the frame before it to the last one.
        late: How much later than by its time and the offset the last frame is shown.
        before: The offset before the last jump, which may have been of one frame only.
        retimed: Frames so far that were moved, those of a jump counted once.
    """

    offset: int = 0
    last: int | None = None
    step: int = 0
    late: int = 0
    before: int = 0
    retimed: int = 0

    def after(self, pts: int, duration: int | None) -> Times:
        """With the next frame, of the file's time and duration: `last` is when it is shown."""
        offset = self.before if self._is_back(pts) else self.offset
        own = pts + offset
        if self.last is None or own >= self.last:
            step = duration or (0 if self.last is None else own - self.last) or self.step
            return replace(self, offset=offset, last=own, step=step, late=0)
        step = max(1, self.step)
        moved = replace(self, step=duration or self.step, retimed=self.retimed + 1)
        if self.last - self.late - own < step:  # no jump: early by less than a frame
            shown = self.last + (1 if self.late else step)
            return replace(moved, last=shown, late=shown - own)
        shown = self.last + step
        return replace(moved, offset=offset + shown - own, last=shown, late=0, before=offset)

    def _is_back(self, pts: int) -> bool:
        """Whether the clock is where it would be without its last jump."""
        if self.last is None or self.before == self.offset or pts + self.before < self.last:
            return False
        expected = self.last + max(1, self.step)
        return abs(pts + self.before - expected) < abs(pts + self.offset - expected)
