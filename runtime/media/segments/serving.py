"""The loop of the children that write segments: begin, frame, frame, begin, ..., end.

Every message is answered with ``done`` once it is, and with the segment that has become whole.
What a frame becomes, a subclass knows.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from io import RawIOBase
from typing import Any

from ...processes import wire
from .frame_times import FrameTimes
from .segment import Segment


class SegmentTask(ABC):
    """Segments made of what a parent sends.

    Args:
        arguments: As the parent sent them; ``time_base`` and ``after_pts`` are read here.
    """

    def __init__(self, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        self._arguments, self._outbox = arguments, outbox
        base = wire.unpack(arguments["time_base"]) or Fraction(1, 90000)
        self._times = FrameTimes(base, arguments["after_pts"])

    def serve(self, inbox: RawIOBase, memory: Callable[[int], memoryview]) -> None:
        """Send ``ready``, then answer each ``begin``, ``frame`` and ``end``.

        Args:
            memory: Where the pixels of a frame are received.
        """
        try:
            wire.send(self._outbox, {"kind": "ready"})
            while self._take(*wire.receive(inbox, memory)):
                pass
        except BaseException:
            self.discard()
            raise

    def _take(self, header: wire.Header, pixels: memoryview) -> bool:
        """Do what one message asks for; False after the last one."""
        started = time.perf_counter()
        whole: Segment | None = None
        busy: tuple[float, float] | None = None
        if header["kind"] == "frame":
            self.add(header, pixels)
            busy = (started, time.perf_counter())
        else:
            whole = self.end()
        if header["kind"] == "begin":
            self.begin(header["name"])
        told = {"retimed": self._times.retimed, "whole": whole and whole.to_json(), "busy": busy}
        wire.send(self._outbox, {"kind": "done", **told})
        return bool(header["kind"] != "end")

    @abstractmethod
    def begin(self, name: str) -> None:
        """Let the following frames go into a segment of that name."""

    @abstractmethod
    def add(self, header: wire.Header, pixels: memoryview) -> None:
        """One frame into the running segment."""

    @abstractmethod
    def end(self) -> Segment | None:
        """Bring the running segment to the disk; None if there is none, or nothing in it."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what is not whole."""
