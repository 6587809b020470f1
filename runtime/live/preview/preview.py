"""The browser preview as a sink: `offer` takes microseconds, other threads do the rest.

It connects the feed (encoding), the audience, the server with its routes, and access control. In
the feed, the newest frame waits in one slot. Nothing is encoded while no viewer can take a frame,
and after a while without viewers the child ends. A child that fails is started again, after growing
pauses.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from ....errors import StreamDiffVSRError, UsageError, option
from ...processes.child import Child
from ..frame import Image, OutputFrame
from ..sound import Sound
from .regions import Prefer
from .sound_feed import SoundFeed
from .viewers import Audience, Packet, Wanted

if TYPE_CHECKING:
    from .access import Access


_FAILURE = "could not encode the preview"
_DEADLINE_S = 10.0  # for one frame, and for the start
_LINGER_S = 10.0  # how long the child outlives the last viewer
_KEY_PAUSE_S = 0.25  # keys are large: slow viewers ask often
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


class Preview:
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
        host = host.strip("[]") or "0.0.0.0"
        failure = f"could not open the preview at {_netloc(host, port)}"
        _check_extra(failure)
        from .access import Access, is_loopback  # needs the extra "live", as does the next
        from .server import listen

        local = is_loopback(host, failure)
        if not local and not token:
            raise UsageError(
                failure,
                "others can reach it there, and it has no token",
                f"give one with {option('token_file')}, STREAMDIFFVSR_TOKEN or {option('token')}, "
                "or listen on 127.0.0.1",
            )
        listener = listen(host, port, failure)
        self.port: int = listener.getsockname()[1]
        self.name = f"preview http://{_netloc(_reachable(host), self.port)}/"
        self.url = self.name.removeprefix("preview ")
        if token:
            self.url += f"?token={quote(token, safe='')}"
        self._closed = threading.Event()
        self._audience = Audience()
        self._feed = Feed(self._audience, self._deliver, tell)
        self._sound = SoundFeed(self._audience, self._deliver_sound, tell)
        access = Access(host, token or None, local=local, names=names)
        self._serve(listener, access, status, prefer)

    def _serve(
        self,
        listener: socket.socket,
        access: Access,
        status: Callable[[], Mapping[str, Any]],
        prefer: Prefer | None,
    ) -> None:
        from aiohttp import web

        from .connections import Connections
        from .metrics import Metrics
        from .server import MAX_MESSAGE_BYTES, Routes, Server

        self._metrics = Metrics(status)
        routes = Routes(self._audience, self._feed, status, self._metrics, prefer)
        connections = Connections()
        application = web.Application(
            middlewares=[connections.arrive, access.middleware, connections.admit],
            client_max_size=MAX_MESSAGE_BYTES,
        )
        application.on_response_prepare.append(access.prepare)
        routes.add_to(application)
        self._server = Server(
            listener,
            application,
            connections,
            tick=routes.send_status,
            leave=self._audience.end,
        )

    def offer(self, frame: OutputFrame) -> None:
        """Shows a frame to the viewers; returns at once, and raises nothing."""
        if not self._closed.is_set():
            self._metrics.observe(frame)
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

    def close(self, deadline_s: float) -> None:
        """Disconnects the viewers and ends. Safe twice."""
        until = time.monotonic() + deadline_s
        self._closed.set()
        self._server.close(deadline_s)
        self._sound.close(max(0.1, until - time.monotonic()))
        self._feed.close(max(0.1, until - time.monotonic()))

    def _deliver(self, packet: Packet) -> None:
        self._server.call(lambda: self._audience.deliver(packet))

    def _deliver_sound(self, message: bytes) -> None:
        self._server.call(lambda: self._audience.hear(message))


def _check_extra(failure: str) -> None:
    for name in ("aiohttp", "prometheus_client"):
        if find_spec(name) is None:
            raise StreamDiffVSRError(
                failure, f"{name} is not installed", "pip install 'streamdiffvsr[live]'"
            )


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(host: str) -> str:
    """Returns a host to open in a browser, in place of "every network"."""
    if host not in ("0.0.0.0", "::"):
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:  # sends nothing: only asks which address would be used
            probe.connect(("2001:db8::1" if ":" in host else "192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
