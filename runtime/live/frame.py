"""One frame of a live session, and which frames may guide one another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...graphs.arrays import Image as Image


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """One LR frame of a live source.

    Attributes:
        image: (h, w, 3) uint8 RGB, upright, in memory of its own.
        seconds: When it is shown, from 0 at the first frame of the session. Never goes back, not
            even at reconnections and jumps of the source's own clock.
        captured: When its decoder handed it over.
        epoch: A number that changes when earlier frames say nothing about this one: after a
            reconnection, a change of size, or a jump of the source's clock.
        index: The number of frames decoded before it, dropped ones included.
        damaged: Whether libav found damage in it, or in a frame that it depends on.
        cuts: The number of scene cuts up to it, each found between two frames that the source
            sent one after the other, dropped ones included.
    """

    image: Image
    seconds: float
    captured: float
    epoch: int
    index: int
    damaged: bool = False
    cuts: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """The size (h, w) in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True)
class OutputFrame:
    """One HR frame, and the LR frame that it was made from.

    Attributes:
        image: (4h, 4w, 3) uint8 RGB; never written to.
        source: The LR frame.
        rung: How it was made: "full", "flow 1/2", "flow 1/4", "2 steps", "adaptive" or "bicubic".
        finished: When it was handed to the sinks.
        stage_ms: Milliseconds by stage, where known.
        freshness: At most 27 rows x 48 columns of cells of the frame, 0 where it is only
            interpolated, 255 where the model has just made it; None if it was made whole.
    """

    image: Image
    source: LiveFrame
    rung: str
    finished: float
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    freshness: npt.NDArray[np.uint8] | None = None

    @property
    def latency_ms(self) -> float:
        """Milliseconds from the decoder's hand-over to the hand-over to the sinks."""
        return 1000 * (self.finished - self.source.captured)


class Sink(Protocol):
    """A place for output frames. It cannot slow down another sink or the session."""

    name: str  # to show: without credentials

    def offer(self, frame: OutputFrame) -> None:
        """Takes a frame, or drops one and counts it; returns at once, and raises nothing."""

    def status(self) -> dict[str, Any]:
        """Returns `name`, `state` ("waiting", "open", "retrying", "failed", "closed"), `written`,
        `dropped`, `reopened` and `error` (the last failure in one line, or ""), for JSON."""

    def close(self, deadline_s: float) -> None:
        """Finishes what was written within the deadline, else gives up on it. Safe twice."""


class NullSink:
    """A `Sink` that discards every frame: for measuring, and for running only the preview."""

    def __init__(self) -> None:
        self.name = "null"
        self._state = "waiting"
        self._written = self._dropped = 0

    def offer(self, frame: OutputFrame) -> None:
        """See `Sink`."""
        if self._state == "closed":
            self._dropped += 1
            return
        self._state = "open"
        self._written += 1

    def status(self) -> dict[str, Any]:
        """See `Sink`."""
        return {
            "name": self.name,
            "state": self._state,
            "written": self._written,
            "dropped": self._dropped,
            "reopened": 0,
            "error": "",
        }

    def close(self, deadline_s: float) -> None:
        """See `Sink`."""
        self._state = "closed"


MAX_GAP_S = 1.0  # between two frames that may guide one another
MAX_GAP_FRAMES = 3.0  # but as many times what a frame takes, where that is longer
_STEPS = 5  # over which the source's own period is taken


class Continuity:
    """Finds why the state of the last frame that was made must not guide the next one.

    Cuts among frames that were dropped, or shown without being made, count too. A slow engine takes
    few frames, and two that are far apart differ without a cut between them.

    Args:
        reconnects: Asks the source how often it has reconnected so far.
    """

    def __init__(self, reconnects: Callable[[], int]) -> None:
        self._ask_reconnects = reconnects
        self._reconnects = 0  # at the last new epoch
        self._last: LiveFrame | None = None
        self._made_s: float | None = None  # when the frame was shown that the state is of
        self._own_pace_s = 0.0  # slow engines would never be guided by a limit of their own time
        self._steps: deque[float] = deque(maxlen=_STEPS)  # seconds from frame to frame
        self._broken: str | None = None

    def note(self, frame: LiveFrame) -> None:
        """Notes the next frame of the source."""
        last, self._last = self._last, frame
        if last is not None and frame.epoch != last.epoch:
            self.end(self._why_new_epoch(frame, last))
        elif last is not None:
            self._steps.append((frame.seconds - last.seconds) / max(frame.index - last.index, 1))
            if frame.cuts != last.cuts:
                self.end("cut")
        if frame.damaged:
            self.end("damage")

    def end(self, why: str) -> None:
        """Lets no frame so far guide the next one; the first reason counts."""
        self._broken = self._broken or why

    def restart(self) -> None:
        """Begins with engines whose state is of no frame."""
        self._made_s = None

    def why_forget(self, frame: LiveFrame) -> str | None:
        """Returns why the state must not guide a frame, or None, and counts the frame as made."""
        before, self._made_s = self._made_s, frame.seconds
        longest_s = max(MAX_GAP_S, self._own_pace_s, MAX_GAP_FRAMES * self._period_s())
        if before is not None and frame.seconds - before > longest_s:
            self.end("gap")
        why, self._broken = self._broken, None
        return None if before is None else why

    def made_in(self, seconds: float) -> None:
        """Notes how long the engines took for a frame."""
        self._own_pace_s = MAX_GAP_FRAMES * seconds

    def _period_s(self) -> float:
        """Returns the source's usual period: one of a second or more is no gap."""
        return sorted(self._steps)[len(self._steps) // 2] if len(self._steps) > 2 else 0.0

    def _why_new_epoch(self, frame: LiveFrame, last: LiveFrame) -> str:
        before, self._reconnects = self._reconnects, self._ask_reconnects()
        if frame.size != last.size:
            return "size"
        return "reconnect" if self._reconnects > before else "jump"
