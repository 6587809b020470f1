"""The browser preview as a sink: `offer` takes microseconds, other threads do the rest.

It connects the feed (encoding), the audience, the server with its routes, and access control. In
the feed, the newest frame waits in one slot. Nothing is encoded while no viewer can take a frame,
and after a while without viewers the child ends. A child that fails is started again, after growing
pauses.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ....errors import StreamDiffVSRError
from ...processes.child import Child
from ..frame import Image, OutputFrame
from ..sound import Sound
from .door import Door
from .regions import Prefer
from .sound_feed import SoundFeed
from .viewers import Audience, Packet, Wanted

_FAILURE = "could not encode the preview"
_DEADLINE_S = 10.0  # for one frame, and for the start
_LINGER_S = 10.0  # how long the child outlives the last viewer
_KEY_PAUSE_S = 0.25  # keys are large: slow viewers ask often
ENDED = "ended"  # the reason with which a WebSocket is closed; the page knows it
_RETRY_S = (1.0, 30.0)
_BASE_MEMORY_BYTES = 2 << 30
_MEMORY_FRAMES = 40


class Feed:
    """Encodes the newest frame for the viewers.

    Args:
        audience: The viewers.
        deliver: Receives each packet, in the feed's thread.
        tell: Receives one line when the encoder fails, and when it works again.
    """

    def __init__(
        self, audience: Audience, deliver: Callable[[Packet], None], tell: Callable[[str], None]
    ) -> None:
        self.written = self.dropped = self.restarts = 0
        self.error = ""
        self.retrying = False
        self.newest: OutputFrame | None = None
        self._audience, self._deliver, self._tell = audience, deliver, tell
        self._changed = threading.Condition()
        self._slot: tuple[OutputFrame, bool] | None = None
        self._closed = False
        self._child: Child | None = None
        self._number = 0
        self._key_at = 0.0
        self._sizes: tuple[Any, ...] = ()
        self._thread = threading.Thread(target=self._run, name="preview-feed", daemon=True)
        self._thread.start()

    def offer(self, frame: OutputFrame) -> None:
        """Takes the newest frame and drops one that still waits. Never blocks."""
        self.newest = frame
        if not self._audience.watching:
            return
        if self.retrying or self._audience.wanted() is None:
            self.dropped += 1
            return
        self._fill(frame, again=False)

    def again(self) -> None:
        """Encodes the newest frame once more unless one waits: for a viewer that has just come."""
        if self.newest is not None and self._slot is None:
            self._fill(self.newest, again=True)

    def close(self, deadline_s: float) -> None:
        """Ends the child and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        child = self._child
        if child is not None:
            child.close()
        self._thread.join(deadline_s)

    def _fill(self, frame: OutputFrame, *, again: bool) -> None:
        with self._changed:
            self.dropped += self._slot is not None
            self._slot = (frame, again)
            self._changed.notify()

    def _run(self) -> None:
        pause = _RETRY_S[0]
        while (order := self._next()) is not None:
            wanted = self._audience.wanted()
            if wanted is None:
                continue
            try:
                packet = self._encoded(*order, wanted)
            except StreamDiffVSRError as error:
                if self._closed:
                    break
                self._failed(error, pause)
                pause = min(2 * pause, _RETRY_S[1])
                continue
            if self.error:
                self._tell("the preview goes on")
                self.error, pause = "", _RETRY_S[0]
            self.written += 1
            self._deliver(packet)
        self._end_child()

    def _next(self) -> tuple[OutputFrame, bool] | None:
        """Waits for the newest frame; None when closed. Ends the child if it is long unwatched."""
        while True:
            with self._changed:
                if self._slot is None and not self._closed:
                    self._changed.wait(_LINGER_S)
                if self._closed:
                    return None
                order, self._slot = self._slot, None
            if order is not None:
                return order
            if not self._audience.watching:
                self._end_child()

    def _encoded(self, frame: OutputFrame, again: bool, wanted: Wanted) -> Packet:
        images = {"hr": frame.image, "lr": frame.source.image}
        pictures = {name: images[name] for name in sorted(wanted.pictures)}
        sizes = tuple((name, image.shape) for name, image in pictures.items())
        child = self._child_for(frame.image)
        now = time.monotonic()
        key = sizes != self._sizes
        if self._audience.needs_key() and now - self._key_at >= _KEY_PAUSE_S:
            key = True
        if key:
            self._key_at, self._sizes = now, sizes
        shapes = {name: image.shape[:2] for name, image in pictures.items()}
        formats = sorted(wanted.formats)
        child.send({"kind": "frame", "formats": formats, "key": key, "pictures": shapes})
        for image in pictures.values():
            child.send({"kind": "picture"}, np.ascontiguousarray(image).data)
        header, payload = child.receive()
        self._number += 1
        about = {"again": again, "freshness": _cells(frame) if wanted.freshness else None}
        return _packet(self._number, frame, about, header["parts"], bytes(payload))

    def _child_for(self, image: Image) -> Child:
        if self._child is None:
            memory = _BASE_MEMORY_BYTES + _MEMORY_FRAMES * image.nbytes
            child = Child(
                "runtime.live.preview.feed_child",
                {},
                failure=_FAILURE,
                deadline_s=_DEADLINE_S,
                memory_bytes=memory,
            )
            self._child, self._sizes = child, ()
            if self._closed:  # close() may have run before the child existed
                child.close()
        return self._child

    def _failed(self, error: StreamDiffVSRError, pause: float) -> None:
        self._end_child()
        self.restarts += 1
        if not self.error:
            self._tell(f"{error}; trying again")
        self.error, self.retrying = str(error), True
        with self._changed:
            self._changed.wait_for(lambda: self._closed, pause)
        self.retrying = False

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


def _cells(frame: OutputFrame) -> dict[str, Any] | None:
    """Returns how fresh the cells of a frame are, for JSON: row by row, a byte for each."""
    if frame.freshness is None:
        return None
    rows, columns = frame.freshness.shape
    cells = base64.b64encode(frame.freshness.tobytes()).decode()
    return {"rows": rows, "columns": columns, "cells": cells}


def _packet(
    number: int,
    frame: OutputFrame,
    about: Mapping[str, Any],
    parts: list[dict[str, Any]],
    data: bytes,
) -> Packet:
    """Packs the child's parts into messages: a length, a JSON header, the parts."""
    about = {
        **about,
        "number": number,
        "index": frame.source.index,
        "seconds": frame.source.seconds,
        "captured_ms": 1000 * frame.source.captured,
        "finished_ms": 1000 * frame.finished,
        "encoded_ms": 1000 * time.monotonic(),
        "rung": frame.rung,
        "hr_size": [frame.image.shape[1], frame.image.shape[0]],
        "lr_size": [frame.source.image.shape[1], frame.source.image.shape[0]],
    }
    messages: dict[str, bytes] = {}
    jpegs: dict[str, bytes] = {}
    by_format: dict[str, list[tuple[dict[str, Any], bytes]]] = {}
    for part in parts:
        body, data = data[: part["bytes"]], data[part["bytes"] :]
        by_format.setdefault(part["format"], []).append((part, body))
        if part["format"] == "jpeg":
            jpegs[part["picture"]] = body
    for name, found in by_format.items():
        key = all(part["key"] for part, _ in found)
        header = {**about, "format": name, "key": key, "parts": [part for part, _ in found]}
        text = json.dumps(header).encode()
        messages[name] = b"".join(
            (len(text).to_bytes(4, "little"), text, *(body for _, body in found))
        )
    h264 = by_format.get("h264", [])
    return Packet(number, all(part["key"] for part, _ in h264), messages, jpegs)


class View:
    """What viewers see of one camera, as a sink; a server shows it.

    Args:
        name: Its name among the sinks.
        status: The camera's status; called from the server's thread.
        tell: Receives one line when something breaks, or works again.
        prefer: See `Preview`.

    Attributes:
        metrics: The metrics of the frames and of the status.
        routes: The routes of its page.
    """

    def __init__(
        self,
        name: str,
        *,
        status: Callable[[], Mapping[str, Any]],
        tell: Callable[[str], None] = lambda line: None,
        prefer: Prefer | None = None,
    ) -> None:
        from .metrics import Metrics  # needs the extra "live", as does the next
        from .server import Routes

        self.name = name
        self._closed = threading.Event()
        self._in_loop: Callable[[Callable[[], None]], None] = lambda call: None
        self._audience = Audience()
        self._feed = Feed(self._audience, self._deliver, tell)
        self._sound = SoundFeed(self._audience, self._deliver_sound, tell)
        self.metrics = Metrics(status)
        self.routes = Routes(self._audience, self._feed, status, self.metrics, prefer)

    def attach(self, in_loop: Callable[[Callable[[], None]], None]) -> None:
        """Sets what runs a function in the loop of the server."""
        self._in_loop = in_loop

    @property
    def newest(self) -> OutputFrame | None:
        """The newest frame."""
        return self._feed.newest

    def offer(self, frame: OutputFrame) -> None:
        """Shows a frame to the viewers; returns at once, and raises nothing."""
        if not self._closed.is_set():
            self.metrics.observe(frame)
            self._feed.offer(frame)

    def hear(self, sound: Sound) -> None:
        """Plays sound to the viewers that listen; returns at once, and raises nothing."""
        if not self._closed.is_set():
            self._sound.hear(sound)

    def status(self) -> dict[str, Any]:
        """See :class:`Sink`; also has the number of `viewers` that are connected.

        ``written`` counts encoded frames, ``dropped`` those that a viewer missed.
        """
        feed = self._feed
        state = "retrying" if feed.error else "open" if self._audience.watching else "waiting"
        return {
            "name": self.name,
            "state": "closed" if self._closed.is_set() else state,
            "written": feed.written,
            "dropped": feed.dropped + self._audience.dropped,
            "reopened": feed.restarts,
            "error": feed.error,
            "viewers": len(self._audience),
        }

    def leave(self) -> None:
        """Disconnects the viewers; in the server's loop."""
        self._audience.end()

    def close(self, deadline_s: float) -> None:
        """Disconnects the viewers and ends. Safe twice."""
        self._closed.set()
        self._in_loop(self.leave)
        self._sound.close(deadline_s)
        self._feed.close(max(0.1, deadline_s))

    def _deliver(self, packet: Packet) -> None:
        self._in_loop(lambda: self._audience.deliver(packet))

    def _deliver_sound(self, message: bytes) -> None:
        self._in_loop(lambda: self._audience.hear(message))


class Preview(View):
    """A page that shows the newest frames, and how the session is doing.

    Args:
        host: The address or name of this machine to listen on; "0.0.0.0" for every network.
        port: The port to listen on; 0 for a free one.
        token: The token that viewers need; it may be None only on loopback.
        status: The session's status (see ``live/status.py``); called from the server's thread.
        tell: Receives one line when something breaks, or works again.
        names: Further host names by which the page is reached, behind a proxy for example.
        prefer: Replaces the regions of interest, which are (x, y, width, height) in LR pixels of
            the source; called in a thread. It raises UsageError if one lies outside the frame.
            None if a viewer cannot set any.

    Raises:
        UsageError: Others can reach the host, and there is no token.
        StreamDiffVSRError: The port is busy, there is no such host, or aiohttp is missing.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str | None,
        status: Callable[[], Mapping[str, Any]],
        tell: Callable[[str], None] = lambda line: None,
        names: Iterable[str] = (),
        prefer: Prefer | None = None,
    ) -> None:
        door = Door.open(host, port, token, names)
        super().__init__(f"preview {door.url}", status=status, tell=tell, prefer=prefer)
        self.port, self.url = door.port, door.url_with_token
        self._server = door.serve(self.routes.add_to, self.routes.send_status, self.leave)
        self.attach(self._server.call)

    def leave(self) -> None:
        """Disconnects the viewers, and tells them that the session has ended."""
        self._audience.end(ENDED)

    def close(self, deadline_s: float) -> None:
        """Disconnects the viewers and ends. Safe twice."""
        until = time.monotonic() + deadline_s
        self._closed.set()
        self._server.close(deadline_s)
        self._sound.close(max(0.1, until - time.monotonic()))
        self._feed.close(max(0.1, until - time.monotonic()))
