"""The routes of one camera's page: its files, pictures, status and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from PIL import Image as pillow

from ....errors import StreamDiffVSRError
from ....graphs.arrays import Image
from ....reading import parse_json
from ...media.redact import redact
from .connections import Handler
from .metrics import CONTENT_TYPE, Metrics
from .preview import Feed
from .regions import Prefer, parse_regions
from .viewers import Audience, Packet, Viewer


def png(image: Image) -> bytes:
    """Encodes (H, W, 3) uint8 RGB as a PNG file."""
    file = io.BytesIO()
    pillow.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def shown(value: Any) -> Any:
    """Returns a value without credentials, and with null for NaN and infinity."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json(value: Any) -> str:
    """Returns a value from :func:`shown` as JSON text; accepts numpy's numbers too."""
    return json.dumps(value, default=float, allow_nan=False)


def files_of(folder: Path) -> dict[str, Handler]:
    """Returns handlers that answer with the files of a page, by name."""

    def answering(body: bytes, kind: str) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(body=body, content_type=kind, charset="utf-8")

        return answer

    return {
        path.name: answering(path.read_bytes(), _TYPES[path.suffix])
        for path in folder.iterdir()
        if path.suffix in _TYPES
    }


_logger = logging.getLogger("streamdiffvsr.preview")
PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
STATUS_S = 0.5
ENDLESS = ("ws", "stream.mjpg")  # answers that have no head alone
_MAX_VIEWERS = 16
MAX_MESSAGE_BYTES = 4096
_HEARTBEAT_S = 10.0
_STUCK_S = 20.0  # a client that takes nothing for this long is gone
_GOODBYE_S = 0.2
_QUEUED_BYTES = 1 << 18
_BOUNDARY = "frame"
_BODY_S = 10.0


class Routes:
    """The routes of one preview.

    Args:
        audience: Holds the viewers while they are connected.
        feed: Has the newest frame.
        status: Returns the session's status, for JSON.
        metrics: The metrics that ``/metrics`` shows.
        prefer: Replaces the regions of interest, as `Preview` describes it; None if nothing does.

    Attributes:
        table: The handlers by method and by path, which is relative to the page's.
    """

    def __init__(
        self,
        audience: Audience,
        feed: Feed,
        status: Callable[[], Mapping[str, Any]],
        metrics: Metrics,
        prefer: Prefer | None = None,
    ) -> None:
        self._audience, self._feed, self._status, self._metrics = audience, feed, status, metrics
        self._prefer = prefer
        self._preferring = asyncio.Lock()  # the last request wins
        self.table = self._table(files_of(PAGE))

    def _table(self, files: Mapping[str, Handler]) -> dict[tuple[str, str], Handler]:
        handlers: dict[tuple[str, str], Handler] = {
            ("GET", "ws"): self._websocket,
            ("GET", "stream.mjpg"): self._motion_jpeg,
            ("GET", "snapshot.png"): self._snapshot,
            ("GET", "metrics"): self._prometheus,
            ("GET", "healthz"): self._health,
            ("GET", "status.json"): self._status_json,
        }
        if self._prefer is not None:
            handlers["POST", "regions"] = self._regions
        handlers |= {("GET", name): answer for name, answer in files.items()}
        return {**handlers, ("GET", ""): files["index.html"]}

    def add_to(self, application: web.Application) -> None:
        """Registers every route."""
        for (method, path), handler in self.table.items():
            if method == "GET" and path not in ENDLESS:
                application.router.add_get(f"/{path}", handler)
            else:
                application.router.add_route(method, f"/{path}", handler)

    async def send_status(self) -> None:
        """Sends every viewer the status twice a second; never returns."""
        while True:
            self.show_status()
            await asyncio.sleep(STATUS_S)

    def show_status(self) -> None:
        """Sends every viewer the status, if there are any."""
        try:
            if len(self._audience):
                self._audience.send_status(self._status_text())
        except Exception:  # of the session; its next status may be whole
            _logger.exception("no status")

    async def _status_json(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown_status(), dumps=as_json)

    async def _health(self, request: web.Request) -> web.Response:
        status = self._shown_status()
        if status.get("state") == "playing" and not status.get("stuck_s"):
            return web.Response(text="playing\n")
        source = status.get("source") or {}
        parts = (status.get("state"), source.get("error") or "", status.get("note") or "")
        reason = ": ".join(str(part) for part in parts if part)
        return web.Response(status=503, text=f"{reason or 'no status'}\n")

    async def _prometheus(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _snapshot(self, request: web.Request) -> web.Response:
        frame = self._feed.newest
        if frame is None:
            raise web.HTTPServiceUnavailable(text="There is no picture yet.")
        body = await asyncio.get_running_loop().run_in_executor(None, png, frame.image)
        name = f"streamdiffvsr-{frame.source.index:06d}.png"
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Frame-Index": str(frame.source.index),
        }
        return web.Response(body=body, content_type="image/png", headers=headers)

    async def _regions(self, request: web.Request) -> web.Response:
        """Replaces the regions of interest of all viewers, and answers with the new ones."""
        assert self._prefer is not None
        try:
            regions = parse_regions(await body_of(request, "the regions have"))
            async with self._preferring:
                await asyncio.get_running_loop().run_in_executor(None, self._prefer, regions)
        except Refused as refused:
            return complaint(refused.status, str(refused))
        except StreamDiffVSRError as error:
            return complaint(400, redact(str(error)))
        self.show_status()
        return web.json_response({"regions": regions})

    async def _motion_jpeg(self, request: web.Request) -> web.StreamResponse:
        picture = request.query.get("which", "hr")
        if picture not in ("hr", "lr"):
            raise web.HTTPBadRequest(text="which is hr or lr.")
        self._check_room()
        _keep_short(request)
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        viewer = Viewer("jpeg", frozenset({picture}))
        with self._watching(viewer), _gone(request):
            while (packet := await viewer.next()) is not None:
                if isinstance(packet, Packet):
                    part = _multipart(packet.jpegs[picture])
                    await asyncio.wait_for(response.write(part), _STUCK_S)
                    viewer.shown(packet.number)
        return response

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        self._check_room()
        connection = web.WebSocketResponse(
            heartbeat=_HEARTBEAT_S,
            compress=False,
            max_msg_size=MAX_MESSAGE_BYTES,
            timeout=_GOODBYE_S,
        )
        await connection.prepare(request)
        viewer = Viewer()
        viewer.send_status(self._status_text())
        with self._watching(viewer):
            reading = asyncio.ensure_future(self._listen(connection, viewer))
            try:
                with _gone(request):
                    await _send_all(connection, viewer)
            finally:
                reading.cancel()
                await _leave(connection, viewer.farewell)
        return connection

    async def _listen(self, connection: web.WebSocketResponse, viewer: Viewer) -> None:
        async for message in connection:
            if message.type is not WSMsgType.TEXT or not self._obey(viewer, message.data):
                break
        viewer.end()

    def _obey(self, viewer: Viewer, text: str) -> bool:
        """Carries out one message of a page; returns False if it is invalid."""
        try:
            order = parse_json(text)
            if not isinstance(order, dict):
                return False
            if "ping" in order:
                now = 1000 * time.monotonic()
                viewer.say(json.dumps({"kind": "pong", "ping": float(order["ping"]), "now": now}))
            if "shown" in order:
                viewer.shown(int(order["shown"]))
            if "key" in order:
                viewer.start_again()
            if "sound" in order:
                viewer.listen(order["sound"] is True)
            if "freshness" in order:
                viewer.freshness = order["freshness"] is True
                self._feed.again()
            if "watch" in order:
                if order["watch"] not in ("h264", "jpeg", ""):
                    return False
                viewer.choose(order["watch"])
                self._feed.again()
        except (ValueError, TypeError, ArithmeticError):
            return False
        return True

    def _check_room(self) -> None:
        if len(self._audience) >= _MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{_MAX_VIEWERS} viewers are connected already.")

    @contextlib.contextmanager
    def _watching(self, viewer: Viewer) -> Iterator[None]:
        self._audience.add(viewer)
        try:
            if viewer.watch:
                self._feed.again()
            yield
        finally:
            self._audience.remove(viewer)

    def _status_text(self) -> str:
        message = {
            "kind": "status",
            "status": self._shown_status(),
            "viewers": len(self._audience),
            "can_prefer": self._prefer is not None,
        }
        return as_json(message)

    def _shown_status(self) -> dict[str, Any]:
        status: dict[str, Any] = shown(self._status())
        return status


def complaint(status: int, why: str) -> web.Response:
    """Returns an answer that says why a request was refused, as JSON."""
    return web.json_response({"error": why}, status=status)


class Refused(Exception):
    """Raised for a request whose body is not taken; has the status of the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def body_of(request: web.Request, what: str = "the request has") -> bytes:
    """Returns the body of a request that changes something.

    Raises:
        Refused: It is no JSON by its type, too large, or does not come in time.
    """
    if request.content_type != "application/json":  # the type that no form of a page can send
        raise Refused(415, f"{what} to come as application/json")
    try:
        return await asyncio.wait_for(request.read(), _BODY_S)
    except web.HTTPRequestEntityTooLarge as error:
        raise Refused(413, f"a request has at most {MAX_MESSAGE_BYTES} bytes") from error
    except asyncio.TimeoutError as error:
        why = f"a request has to be complete within {_BODY_S:g} seconds"
        raise Refused(408, why) from error


async def _send_all(connection: web.WebSocketResponse, viewer: Viewer) -> None:
    while (item := await viewer.next()) is not None:
        if isinstance(item, str):
            await asyncio.wait_for(connection.send_str(item), _STUCK_S)
        elif isinstance(item, bytes):
            await asyncio.wait_for(connection.send_bytes(item), _STUCK_S)
        elif viewer.watch in item.messages:
            await asyncio.wait_for(connection.send_bytes(item.messages[viewer.watch]), _STUCK_S)


@contextlib.contextmanager
def _gone(request: web.Request) -> Iterator[None]:
    """Ignores that a client has left, and cuts off one that takes nothing."""
    try:
        yield
    except ConnectionError:
        pass
    except asyncio.TimeoutError:
        if request.transport is not None:
            request.transport.abort()


async def _leave(connection: web.WebSocketResponse, farewell: str) -> None:
    closing = connection.close(code=WSCloseCode.GOING_AWAY, message=farewell.encode())
    with contextlib.suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
        await asyncio.wait_for(closing, 2 * _GOODBYE_S)


def _keep_short(request: web.Request) -> None:
    """Makes the system queue little: a slow viewer is to see few pictures, and no old ones."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUED_BYTES)


def _multipart(jpeg: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"
