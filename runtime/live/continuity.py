"""Which frames of a live source belong together, so that one may guide the next."""

from __future__ import annotations

from collections.abc import Callable

from ..scene_cuts import CutDetector
from .frame import LiveFrame

MAX_GAP_S = 1.0  # between two frames that may guide one another
MAX_GAP_FRAMES = 3.0  # but as many times what a frame takes, where that is longer


class Continuity:
    """Finds why the state of the last frame that was made must not guide the next one.

    Frames that are shown without being made count too: a cut among them is one.

    Args:
        reconnects: Asks the source how often it has reconnected so far.
    """

    def __init__(self, reconnects: Callable[[], int]) -> None:
        self._ask_reconnects = reconnects
        self._reconnects = 0  # at the last new epoch
        self._cuts = CutDetector()
        self._last: LiveFrame | None = None
        self._made_s: float | None = None  # when the frame was shown that the state is of
        self._own_pace_s = 0.0  # slow engines would never be guided by a limit of their own time
        self._broken: str | None = None

    def note(self, frame: LiveFrame) -> None:
        """Look at the next frame of the source."""
        last, self._last = self._last, frame
        if last is not None and frame.epoch != last.epoch:
            self._cuts.reset()  # there is nothing to compare with, maybe not even of its size
            self.end(self._why_new_epoch(frame, last))
        if self._cuts.is_cut(frame.image):
            self.end("cut")
        if frame.damaged:
            self.end("damage")

    def end(self, why: str) -> None:
        """Let no frame so far guide the next one; the first reason counts."""
        self._broken = self._broken or why

    def restart(self) -> None:
        """Begin with engines whose state is of no frame."""
        self._made_s = None

    def why_forget(self, frame: LiveFrame) -> str | None:
        """Why the state must not guide a frame, or None; the next state is of that frame."""
        before, self._made_s = self._made_s, frame.seconds
        if before is not None and frame.seconds - before > max(MAX_GAP_S, self._own_pace_s):
            self.end("gap")
        why, self._broken = self._broken, None
        return None if before is None else why

    def made_in(self, seconds: float) -> None:
        """Note how long the engines took for a frame."""
        self._own_pace_s = MAX_GAP_FRAMES * seconds

    def _why_new_epoch(self, frame: LiveFrame, last: LiveFrame) -> str:
        before, self._reconnects = self._reconnects, self._ask_reconnects()
        if frame.size != last.size:
            return "size"
        return "reconnect" if self._reconnects > before else "jump"
