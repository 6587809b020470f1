"""The data of a live session: frames as they arrive, frames as they leave, and sinks.

Times named `captured` and `finished` are of `time.monotonic`, which the processes of one machine
share; `seconds` is the stream's own time.
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
        image: (h, w, 3) uint8 RGB, upright, in memory of its own.
        seconds: When it is shown, from 0 at the first frame of the session. Never goes back, not
            even at reconnections and jumps of the source's own clock.
        captured: When its decoder handed it over.
        epoch: A number that changes when earlier frames say nothing about this one: after a
            reconnection, a change of size, or a jump of the source's clock.
        index: The number of frames decoded before it, dropped ones included.
        damaged: Whether libav found damage in it, or in a frame that it depends on.
    """

    image: Image
    seconds: float
    captured: float
    epoch: int
    index: int
    damaged: bool = False

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
        rung: How it was made: "full", "flow 1/2", "flow 1/4", "2 steps" or "bicubic".
        finished: When it was handed to the sinks.
        stage_ms: Milliseconds by stage, where known.
    """

    image: Image
    source: LiveFrame
    rung: str
    finished: float
    stage_ms: Mapping[str, float] = field(default_factory=dict)

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
