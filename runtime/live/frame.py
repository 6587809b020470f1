"""What goes through a live session: a frame as it came, and what was made of it.

Only data. Times named `captured` and `finished` are of `time.monotonic`, which the processes of one
machine share; `seconds` is the time of the stream itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...graphs.arrays import Image as Image


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """One LR frame of a live source.

    Attributes:
        image: (h, w, 3) uint8 RGB, upright, memory of its own.
        seconds: When it is shown, from 0 at the first frame of the session; never goes back, over
            reconnections and jumps of the source's own clock too.
        captured: When its decoder handed it over.
        epoch: Another number whenever the frames before say nothing about this one: after a
            reconnection, a change of size, a jump of the source's clock.
        index: Counts the frames that were decoded, dropped ones too.
        damaged: libav has seen damage in it, or in a frame that it depends on.
    """

    image: Image
    seconds: float
    captured: float
    epoch: int
    index: int
    damaged: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True)
class OutputFrame:
    """One HR frame, and the LR frame that it was made of.

    Attributes:
        image: (4h, 4w, 3) uint8 RGB; nobody writes to it.
        source: The LR frame.
        rung: What made it: "full", "flow 1/2", "flow 1/4", "2 steps", "bicubic".
        finished: When it was handed to the sinks.
        stage_ms: Milliseconds by stage, where they are known.
    """

    image: Image
    source: LiveFrame
    rung: str
    finished: float
    stage_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def latency_ms(self) -> float:
        """From the decoder's hand-over to that to the sinks."""
        return 1000 * (self.finished - self.source.captured)


class Sink(Protocol):
    """Where output frames go. None can slow down another, or the session."""

    name: str  # as it may be shown: without credentials

    def offer(self, frame: OutputFrame) -> None:
        """Take a frame, or drop one and count it; returns at once, and raises nothing."""

    def status(self) -> dict[str, Any]:
        """JSON: `name`, `state` ("waiting", "open", "retrying", "failed", "closed"), `written`,
        `dropped`, `reopened`, `error` (of the last failure, one line, or "")."""

    def close(self, deadline_s: float) -> None:
        """Finish what was written, within the deadline; then give up on it. Safe twice."""
