"""The times of frames, made to go on where a file's clock jumps back.

Files that were joined, and streams whose clock has wrapped, have such jumps. All else is carried as
it is: gaps, variable rates and starts that are not zero.
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
    """

    offset: int = 0
    last: int | None = None
    step: int = 0

    def after(self, pts: int, duration: int | None) -> Times:
        """With the next frame, of the file's time and duration: `last` is when it is shown."""
        shown, offset = pts + self.offset, self.offset
        if self.last is not None and shown < self.last:
            offset += self.last + max(1, self.step) - shown
            shown = pts + offset
        step = duration or (0 if self.last is None else shown - self.last) or self.step
        return replace(self, offset=offset, last=shown, step=step)
