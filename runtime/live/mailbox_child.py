"""Sends frames and messages out of the process that captures; the newest frame has a mailbox."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from io import RawIOBase
from typing import Any

from av.video.reformatter import VideoReformatter

from ..media.pixels import Mirrors, upright_rgb, upright_size
from ..processes import messages
from ..processes.shared_frames import SharedFrames

SLOTS = 3  # one being read, one announced, one being written
BEAT_S = 0.5
_ARRIVALS, _LEAST_ARRIVALS = 32, 4  # over which the rate is measured


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame as it left the decoder."""

    frame: Any
    seconds: float | None
    captured: float
    index: int
    damaged: bool


class Arrivals:
    """Measures how often a source sends something."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_ARRIVALS)

    def note(self, now: float) -> None:
        """Notes that something came, in seconds of ``time.monotonic``."""
        self._seen.append(now)

    def period_s(self) -> float | None:
        """Returns the mean time between two arrivals; None before it can be known."""
        seen = tuple(self._seen)  # another thread may add one
        if len(seen) < _LEAST_ARRIVALS:
            return None
        return (seen[-1] - seen[0]) / (len(seen) - 1)


class FrameMailbox:
    """Sends frames, and a sign of life every half second.

    Attributes:
        alive: When the source last sent anything, in seconds of ``time.monotonic``; None while
            its silence means nothing.
        arrivals: How often the source sends anything.
    """

    def __init__(self, pipe: RawIOBase) -> None:
        self._pipe, self._sending = pipe, threading.Lock()
        self._changed = threading.Condition()
        self._waiting: Decoded | None = None
        self._busy = False
        self._memory: SharedFrames | None = None
        self._generation = 0
        self._free: set[int] = set()
        self._reformatter = VideoReformatter()
        self._mirrors = Mirrors()
        self._error: BaseException | None = None
        self.alive: float | None = None
        self.arrivals = Arrivals()
        threading.Thread(target=self._run, name="outlet", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Sends one message; safe from any thread."""
        with self._sending:
            messages.send(self._pipe, header, payload)

    def offer(self, decoded: Decoded) -> None:
        """Takes a frame, in place of one that still waits."""
        with self._changed:
            if self._error:
                raise self._error
            self._waiting = decoded
            self._changed.notify_all()

    def give_back(self, generation: int, slot: int) -> None:
        """Frees a slot that the parent has read."""
        with self._changed:
            if generation == self._generation:
                self._free.add(slot)
                self._changed.notify_all()

    def finish(self, deadline_s: float) -> None:
        """Waits until the last frame is out, but no longer than the deadline."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not (self._waiting or self._busy), deadline_s
            )
            if self._error:
                raise self._error

    def _run(self) -> None:
        try:
            while True:
                self._send_frame(*self._next())
        except BaseException as error:  # the decoding thread raises it, at its next frame
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> tuple[Decoded, int]:
        """Waits for the newest frame and a free slot, and returns both."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            # Without memory there is no slot to wait for: it is made to the frame's size.
            self._changed.wait_for(lambda: self._waiting and (self._free or not self._memory))
            assert self._waiting is not None
            decoded, self._waiting, self._busy = self._waiting, None, True
            self._fit(decoded.frame.width * decoded.frame.height * 3)
            return decoded, self._free.pop()

    def _fit(self, frame_bytes: int) -> None:
        """Makes slots that hold the frame, and not much more, unless there are such."""
        held = self._memory.slot_bytes if self._memory else 0
        if frame_bytes <= held <= 4 * frame_bytes:
            return
        if self._memory:
            self._memory.close()
        self._memory = SharedFrames.create(SLOTS, frame_bytes)
        self._generation += 1
        self._free = set(range(SLOTS))
        self.send(
            {
                "kind": "memory",
                "name": self._memory.name,
                "slots": SLOTS,
                "slot_bytes": frame_bytes,
                "generation": self._generation,
            }
        )

    def _send_frame(self, decoded: Decoded, slot: int) -> None:
        assert self._memory is not None
        mirrored = self._mirrors.mirrored(decoded.frame)
        pixels = upright_rgb(self._reformatter, decoded.frame, mirrored=mirrored)
        self._memory.slot(slot)[: len(pixels)] = pixels
        height, width = upright_size(decoded.frame)
        self.send(
            {
                "kind": "frame",
                "slot": slot,
                "height": height,
                "width": width,
                "format": decoded.frame.format.name,
                "seconds": decoded.seconds,
                "captured": decoded.captured,
                "index": decoded.index,
                "damaged": decoded.damaged,
            }
        )

    def _beat(self) -> None:
        """Reports how long the source has been silent, without the time that this process could not
        run: on a machine that is too busy, frames may have come unseen."""
        silent_s, alive, before = 0.0, self.alive, time.monotonic()
        while True:
            now = time.monotonic()
            if self.alive == alive:
                silent_s += min(now - before, 2 * BEAT_S)
            else:
                alive = self.alive
                silent_s = 0.0 if alive is None else min(now - alive, 2 * BEAT_S)
            silence = {
                "silent_s": 0.0 if alive is None else silent_s,
                "period_s": self.arrivals.period_s(),
            }
            try:
                self.send({"kind": "beat", **silence})
            except OSError:
                return  # the parent is gone, which ends this process elsewhere
            before = now
            time.sleep(BEAT_S)
