"""Holds the sound that a sink has heard until the picture of its time has been written.

Also the messages about it to the sink's process, and what comes back.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .sound import Sound, SoundPacket, SoundStream, SoundStreams

HOLD_S = 5.0  # the longest that sound waits while no picture is written
_KEPT_S = 60.0  # an engine may take long for its first picture
_KEPT_BYTES = 16 << 20
_PACKETS = 500  # in a message


@dataclass(slots=True)
class SoundReport:
    """What a sink's process has made of the sound so far.

    Attributes:
        about: The `number`, `codec` and `how` ("copied" or "transcoded") of each stream.
        written: The number of packets in the output.
        dropped: The number of packets of the source that are not in it.
        lines: What a user should know, and has not been shown yet.
    """

    about: list[dict[str, Any]] = field(default_factory=list)
    written: int = 0
    dropped: int = 0
    lines: list[str] = field(default_factory=list)

    def take_lines(self) -> list[str]:
        """Returns what a user should know, once."""
        lines, self.lines = self.lines, []
        return lines

    def add(self, report: dict[str, Any] | None) -> None:
        """Adds what the process has reported."""
        if report is not None:
            self.written += report["written"]
            self.dropped += report["dropped"]
            self.lines += report["lost"]
            self.about = report["about"]


def described(streams: Sequence[SoundStream]) -> list[dict[str, Any]]:
    """Returns the streams in a form for JSON, templates included."""
    return [
        {"number": stream.number, "template": base64.b64encode(stream.template).decode()}
        for stream in streams
    ]


def in_messages(
    packets: Sequence[SoundPacket], origin: float
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yields messages that hold the packets, with times that begin at ``origin`` seconds."""
    for start in range(0, len(packets), _PACKETS):
        part = packets[start : start + _PACKETS]
        listed = [[p.stream.number, p.seconds - origin, p.duration, len(p.data)] for p in part]
        yield {"kind": "sound", "packets": listed}, b"".join(p.data for p in part)


class SoundQueue:
    """The sound that one sink has heard and not written yet. Safe from any thread.

    Attributes:
        dropped: The number of packets that no output was given: there was no room, or none open.
        report: What the sink's processes have made of the others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._known = SoundStreams((), 0)
        self._waiting: deque[SoundPacket] = deque()
        self._bytes = 0
        self._written_at = time.monotonic()  # a picture
        self.dropped = 0
        self.report = SoundReport()

    def put(self, sound: Sound) -> None:
        """Takes what the source says; drops the oldest packet if there are too many."""
        with self._changed:
            if isinstance(sound, SoundStreams):
                self._known = sound
                self._changed.notify_all()
                return
            self._waiting.append(sound)
            self._bytes += len(sound.data)
            while self._bytes > _KEPT_BYTES or sound.arrived - self._waiting[0].arrived > _KEPT_S:
                self._pop()
                self.dropped += 1

    def streams(self, patience_s: float) -> tuple[SoundStream, ...]:
        """Returns the streams, once all that the source has are known or the patience is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._known.streams) >= self._known.expected, patience_s
            )
            return self._known.streams

    def status(self) -> dict[str, Any]:
        """Returns what is written as sound, for JSON."""
        return {
            "sound": self.report.about,
            "sound_written": self.report.written,
            "sound_dropped": self.dropped + self.report.dropped,
        }

    def due(self, seconds: float) -> list[SoundPacket]:
        """Returns the packets to write after the picture shown at that time.

        The first packet of each stream after that time is one of them: a muxer passes a picture
        on when it knows of later sound.
        """
        with self._changed:
            self._written_at = time.monotonic()
            taken: list[SoundPacket] = []
            ahead: set[int] = set()
            while self._waiting:
                packet = self._waiting[0]
                if packet.seconds > seconds:
                    if packet.stream.number in ahead or packet.seconds > seconds + HOLD_S:
                        break
                    ahead.add(packet.stream.number)
                taken.append(self._pop())
            return taken

    def overdue(self) -> list[SoundPacket]:
        """Returns the packets that have waited too long for a picture."""
        with self._changed:
            if time.monotonic() - self._written_at < HOLD_S:
                return []
            latest = time.monotonic() - HOLD_S
            taken = []
            while self._waiting and self._waiting[0].arrived < latest:
                taken.append(self._pop())
            return taken

    def begin(self, seconds: float, *, again: bool) -> None:
        """Forgets what is heard before that time; it counts as dropped if this begins again."""
        with self._changed:
            while self._waiting and self._waiting[0].seconds < seconds:
                self._pop()
                self.dropped += again

    def _pop(self) -> SoundPacket:
        packet = self._waiting.popleft()
        self._bytes -= len(packet.data)
        return packet
