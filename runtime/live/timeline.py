"""One time that only goes forward, over reconnections and jumps of the source's own clock.

Pure arithmetic on the two times of each frame: what the source says, and when it was captured. It
does not know what a frame is.
"""

from __future__ import annotations

_TICK_S = 1e-3  # the least from one frame to the next
_MAX_DRIFT_S = 5.0  # how far the two clocks may differ over one step


class Timeline:
    """Places frames; the first is at 0."""

    def __init__(self) -> None:
        self._placed: float | None = None
        self._own: float | None = None
        self._captured = 0.0

    def restart(self) -> None:
        """The source's own times say nothing about the last frame any more."""
        self._own = None

    def place(self, own: float | None, captured: float) -> tuple[float, bool]:
        """Seconds of the next frame, and whether the source's clock has jumped before it.

        Args:
            own: The source's time of it in seconds, if it has one.
            captured: When it left the decoder, in seconds of a steady clock.
        """
        waited, jumped = captured - self._captured, False
        step = waited
        if own is not None and self._own is not None:
            step = own - self._own
            jumped = step < 0 or step > waited + _MAX_DRIFT_S
            if jumped:
                step = waited
        self._own, self._captured = own, captured
        self._placed = 0.0 if self._placed is None else self._placed + max(step, _TICK_S)
        return self._placed, jumped
