"""Keeps the viewers of the preview, and sends each as many frames as it can take.

A viewer gets a frame only while it keeps up. It reports the frames that it has shown, and while one
sent `BEHIND_S` ago is still not shown it gets no more, even if the network would buffer them. So a
slow viewer drops frames and stays up to date, and one that never reads costs nothing.

A viewer is changed only in the server's loop; other threads read single attributes of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

RING = 2
BEHIND_S = 0.4
_SOUNDS = 100  # messages of sound that wait to be read: a few seconds
_TEXTS = 32  # answers that wait to be read; a viewer that never reads gets no more


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded frame.

    Attributes:
        number: The number of the packet, counted from 1.
        key: Whether its H.264 can be decoded without earlier packets.
        messages: The messages for the WebSocket, by format ("h264", "jpeg").
        jpegs: The JPEG alone, by picture ("hr", "lr"), where there is one.
    """

    number: int
    key: bool
    messages: Mapping[str, bytes]
    jpegs: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The pictures and formats that viewers who can take a frame want, and whether one of them
    wants its freshness too."""

    pictures: frozenset[str]
    formats: frozenset[str]
    freshness: bool = False


class Viewer:
    """One connection: a ring of packets, and the newest status.

    Args:
        watch: The format that it wants, "" for none yet.
        pictures: The pictures of a frame that it wants.

    Attributes:
        freshness: Whether it wants to know how fresh the parts of a frame are.
        sound: Whether it listens.
        farewell: Why it was ended, for the viewer to read; "" if there is nothing to say.
    """

    def __init__(self, watch: str = "", pictures: frozenset[str] = frozenset({"hr", "lr"})) -> None:
        self.pictures = pictures
        self.freshness = self.sound = False
        self.dropped = 0
        self.ended = False
        self.farewell = ""
        self._changed = asyncio.Event()
        self._texts: list[str] = []
        self._status: str | None = None
        self._sounds: deque[bytes] = deque(maxlen=_SOUNDS)
        self._ring: deque[Packet] = deque()
        self._unshown: deque[tuple[int, float]] = deque()
        self._oldest_sent: float | None = None
        self.needs_key = True
        self.watch = watch

    @property
    def ready(self) -> bool:
        """Returns whether another frame would reach the viewer in time; from any thread."""
        sent, watching = self._oldest_sent, bool(self.watch) and not self.ended
        behind = sent is not None and time.monotonic() - sent > BEHIND_S
        return watching and not behind and len(self._ring) < RING

    def choose(self, watch: str) -> None:
        """Sets the format to watch from now on ("" stops)."""
        self.watch = watch
        self.start_again()

    def start_again(self) -> None:
        """Begins again with a key: what was sent is lost, and will not be reported as shown."""
        self.needs_key = True
        self._ring.clear()
        self._unshown.clear()
        self._oldest_sent = None

    def put(self, packet: Packet) -> None:
        """Queues a packet, or drops what the viewer cannot take."""
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
        else:  # the packets in the ring lead up to a frame that will not come
            self.dropped += 1 + len(self._ring)
            self._ring.clear()
            self.needs_key = True

    def say(self, text: str) -> None:
        """Queues an answer to the viewer."""
        if len(self._texts) < _TEXTS:
            self._texts.append(text)
            self._changed.set()

    def listen(self, wanted: bool) -> None:
        """Sets whether it gets sound from now on."""
        self.sound = wanted
        self._sounds.clear()

    def hear(self, message: bytes) -> None:
        """Queues sound; the oldest makes room for it."""
        self._sounds.append(message)
        self._changed.set()

    def send_status(self, text: str) -> None:
        """Queues a status, in place of one that still waits."""
        self._status = text
        self._changed.set()

    def shown(self, number: int) -> None:
        """Notes that the viewer has shown this packet, and so is done with all before it."""
        while self._unshown and self._unshown[0][0] <= number:
            self._unshown.popleft()
        self._oldest_sent = self._unshown[0][1] if self._unshown else None

    def end(self, farewell: str = "") -> None:
        """Makes :meth:`next` return None."""
        self.ended, self.farewell = True, farewell
        self._changed.set()

    async def next(self) -> str | bytes | Packet | None:
        """Waits for what to send next and returns it; None when the viewer has ended."""
        while not self.ended:
            if self._texts:
                return self._texts.pop(0)
            if self._status is not None:
                status, self._status = self._status, None
                return status
            if self._sounds:
                return self._sounds.popleft()
            if self._ring:
                packet = self._ring.popleft()
                self._unshown.append((packet.number, time.monotonic()))
                self._oldest_sent = self._unshown[0][1]
                return packet
            self._changed.clear()
            await self._changed.wait()
        return None


class Audience:
    """All viewers of a preview."""

    def __init__(self) -> None:
        self._viewers: tuple[Viewer, ...] = ()
        self._dropped_by_gone = 0

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def watching(self) -> bool:
        """Returns whether anyone watches, slow viewers included; from any thread."""
        return any(viewer.watch for viewer in self._viewers)

    @property
    def listening(self) -> bool:
        """Returns whether anyone listens; from any thread."""
        return any(viewer.sound for viewer in self._viewers)

    @property
    def dropped(self) -> int:
        """The number of encoded frames that viewers could not take; from any thread."""
        return self._dropped_by_gone + sum(viewer.dropped for viewer in self._viewers)

    def add(self, viewer: Viewer) -> None:
        self._viewers = (*self._viewers, viewer)

    def remove(self, viewer: Viewer) -> None:
        self._viewers = tuple(other for other in self._viewers if other is not viewer)
        self._dropped_by_gone += viewer.dropped

    def wanted(self) -> Wanted | None:
        """Returns how to encode the next frame, None if no viewer can take it; from any thread."""
        ready = [viewer for viewer in self._viewers if viewer.ready]
        if not ready:
            return None
        return Wanted(
            frozenset().union(*(viewer.pictures for viewer in ready)),
            frozenset(viewer.watch for viewer in ready),
            any(viewer.freshness for viewer in ready),
        )

    def needs_key(self) -> bool:
        """Returns whether a viewer waits for a key; from any thread."""
        return any(v.needs_key and v.watch == "h264" and v.ready for v in self._viewers)

    def deliver(self, packet: Packet) -> None:
        """Queues a packet for every viewer; returns at once."""
        for viewer in self._viewers:
            if viewer.watch == "jpeg" and not viewer.pictures <= packet.jpegs.keys():
                continue  # encoded before it came
            if viewer.watch in packet.messages:
                viewer.put(packet)

    def hear(self, message: bytes) -> None:
        """Queues sound for every viewer that listens; returns at once."""
        for viewer in self._viewers:
            if viewer.sound:
                viewer.hear(message)

    def send_status(self, text: str) -> None:
        """Queues a status for every viewer."""
        for viewer in self._viewers:
            viewer.send_status(text)

    def end(self, farewell: str = "") -> None:
        """Ends every viewer, and says why."""
        for viewer in self._viewers:
            viewer.end(farewell)
