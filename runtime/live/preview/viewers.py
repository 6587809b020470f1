"""Who watches the preview, and how much of it each of them can take.

A viewer gets a frame only while it keeps up: it says which frames it has shown, and while one of
them is `BEHIND_S` old and still not shown it gets no more, whatever the network has buffered. So a
slow viewer drops frames and stays up to date, and one that never reads costs nothing. It knows
nothing of HTTP or encoders.

A viewer is changed only in the server's loop; what other threads read of it is one attribute each.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

RING = 2
BEHIND_S = 0.4
_TEXTS = 32  # answers that wait to be read; one who asks and never reads gets no more


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded frame.

    Attributes:
        number: Counts packets.
        key: Its H.264 needs none before it.
        messages: By format ("h264", "jpeg"): what goes over the WebSocket.
        jpegs: By picture ("hr", "lr"): the JPEG alone, where there is one.
    """

    number: int
    key: bool
    messages: Mapping[str, bytes]
    jpegs: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the viewers that can take a frame want it as."""

    pictures: frozenset[str]
    formats: frozenset[str]


class Viewer:
    """One connection: a ring of packets, and the newest text.

    Args:
        watch: The format it wants, "" for none yet.
        pictures: Which pictures of a frame it wants.
    """

    def __init__(self, watch: str = "", pictures: frozenset[str] = frozenset({"hr", "lr"})) -> None:
        self.pictures = pictures
        self.dropped = 0
        self.ended = False
        self._changed = asyncio.Event()
        self._texts: list[str] = []
        self._status: str | None = None
        self._ring: deque[Packet] = deque()
        self._unshown: deque[tuple[int, float]] = deque()
        self._oldest_sent: float | None = None
        self.needs_key = True
        self.watch = watch

    @property
    def ready(self) -> bool:
        """Whether another frame would reach it in time; from any thread."""
        sent, watching = self._oldest_sent, bool(self.watch) and not self.ended
        behind = sent is not None and time.monotonic() - sent > BEHIND_S
        return watching and not behind and len(self._ring) < RING

    def choose(self, watch: str) -> None:
        """Watch in this format from now on ("" stops)."""
        self.watch = watch
        self.start_again()

    def start_again(self) -> None:
        """Begin with a key: what was sent is lost on it, and will never be said to be shown."""
        self.needs_key = True
        self._ring.clear()
        self._unshown.clear()
        self._oldest_sent = None

    def put(self, packet: Packet) -> None:
        """Take a packet, or drop what it cannot take."""
        if not self.watch or self.ended:
            return
        whole = self.watch != "h264"  # a JPEG needs nothing before it
        if not whole and self.needs_key and not packet.key:
            self.dropped += 1
        elif self.ready:
            self.needs_key = False
            self._ring.append(packet)
            self._changed.set()
        elif whole and self._ring:
            self.dropped += 1
            self._ring.popleft()
            self._ring.append(packet)
        else:  # what is in the ring leads up to a frame that will not come
            self.dropped += 1 + len(self._ring)
            self._ring.clear()
            self.needs_key = True

    def say(self, text: str) -> None:
        """Answer it."""
        if len(self._texts) < _TEXTS:
            self._texts.append(text)
            self._changed.set()

    def tell_status(self, text: str) -> None:
        """Send a status, unless a newer one comes before it is its turn."""
        self._status = text
        self._changed.set()

    def shown(self, number: int) -> None:
        """It has shown this packet, and so is done with all before it."""
        while self._unshown and self._unshown[0][0] <= number:
            self._unshown.popleft()
        self._oldest_sent = self._unshown[0][1] if self._unshown else None

    def end(self) -> None:
        """Let :meth:`next` return None."""
        self.ended = True
        self._changed.set()

    async def next(self) -> str | Packet | None:
        """What to send next; None when it has ended."""
        while not self.ended:
            if self._texts:
                return self._texts.pop(0)
            if self._status is not None:
                status, self._status = self._status, None
                return status
            if self._ring:
                packet = self._ring.popleft()
                self._unshown.append((packet.number, time.monotonic()))
                self._oldest_sent = self._unshown[0][1]
                return packet
            self._changed.clear()
            await self._changed.wait()
        return None


class Audience:
    """All viewers."""

    def __init__(self) -> None:
        self._viewers: tuple[Viewer, ...] = ()
        self._dropped_by_gone = 0

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def watching(self) -> bool:
        """Whether anybody watches, kept up with or not; from any thread."""
        return any(viewer.watch for viewer in self._viewers)

    @property
    def dropped(self) -> int:
        """Encoded frames that viewers could not take; from any thread."""
        return self._dropped_by_gone + sum(viewer.dropped for viewer in self._viewers)

    def add(self, viewer: Viewer) -> None:
        self._viewers = (*self._viewers, viewer)

    def remove(self, viewer: Viewer) -> None:
        self._viewers = tuple(other for other in self._viewers if other is not viewer)
        self._dropped_by_gone += viewer.dropped

    def wanted(self) -> Wanted | None:
        """What to encode the next frame as; None if nobody could take it. From any thread."""
        ready = [viewer for viewer in self._viewers if viewer.ready]
        if not ready:
            return None
        return Wanted(
            frozenset().union(*(viewer.pictures for viewer in ready)),
            frozenset(viewer.watch for viewer in ready),
        )

    def needs_key(self) -> bool:
        """Whether a viewer waits for a key; from any thread."""
        return any(v.needs_key and v.watch == "h264" and v.ready for v in self._viewers)

    def deliver(self, packet: Packet) -> None:
        """Give a packet to every viewer; returns at once."""
        for viewer in self._viewers:
            if viewer.watch == "jpeg" and not viewer.pictures <= packet.jpegs.keys():
                continue  # encoded before it came
            if viewer.watch in packet.messages:
                viewer.put(packet)

    def tell_status(self, text: str) -> None:
        """Give a status to every viewer."""
        for viewer in self._viewers:
            viewer.tell_status(text)

    def end(self) -> None:
        """End every viewer."""
        for viewer in self._viewers:
            viewer.end()
