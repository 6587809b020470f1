"""The HTTP server of the preview: its routes, pictures and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from PIL import Image as pillow

from ....errors import StreamDiffVSRError
from ....graphs.arrays import Image
from ...media.redact import redact
from .access import addresses
from .connections import IDLE_S, Connections
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


_logger = logging.getLogger("streamdiffvsr.preview")
_PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_STATUS_S = 0.5
_MAX_VIEWERS = 16
MAX_MESSAGE_BYTES = 4096
_HEARTBEAT_S = 10.0
_STUCK_S = 20.0  # a client that takes nothing for this long is gone
_GOODBYE_S = 0.2
_QUEUED_BYTES = 1 << 18
_BOUNDARY = "frame"


class Routes:
    """The routes of one preview.

    Args:
        audience: Holds the viewers while they are connected.
        feed: Has the newest frame.
        status: Returns the session's status, for JSON.
        metrics: The metrics that ``/metrics`` shows.
        prefer: Replaces the regions of interest, as `Preview` describes it; None if nothing does.
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
        self._files = {
            path.name: (path.read_bytes(), _TYPES[path.suffix])
            for path in _PAGE.iterdir()
            if path.suffix in _TYPES
        }

    def add_to(self, application: web.Application) -> None:
        """Registers every route."""
        router = application.router
        router.add_get("/", self._page)
        for name in self._files:
            router.add_get(f"/{name}", self._page)
        router.add_get("/ws", self._websocket)
        router.add_get("/stream.mjpg", self._motion_jpeg, allow_head=False)
        router.add_get("/snapshot.png", self._snapshot)
        router.add_get("/metrics", self._prometheus)
        router.add_get("/healthz", self._health)
        router.add_get("/status.json", self._status_json)
        if self._prefer is not None:
            router.add_post("/regions", self._regions)

    async def send_status(self) -> None:
        """Sends every viewer the status twice a second; never returns."""
        while True:
            if len(self._audience):
                self._send_one_status()
            await asyncio.sleep(_STATUS_S)

    def _send_one_status(self) -> None:
        try:
            self._audience.send_status(self._status_text())
        except Exception:  # of the session; its next status may be whole
            _logger.exception("no status")

    async def _page(self, request: web.Request) -> web.Response:
        body, kind = self._files[request.path.lstrip("/") or "index.html"]
        return web.Response(body=body, content_type=kind, charset="utf-8")

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
        if request.content_type != "application/json":  # the type that no form of a page can send
            return _complaint(415, "the regions have to come as application/json")
        try:
            regions = parse_regions(await asyncio.wait_for(request.read(), _BODY_S))
            async with self._preferring:
                await asyncio.get_running_loop().run_in_executor(None, self._prefer, regions)
        except web.HTTPRequestEntityTooLarge:
            return _complaint(413, f"a request has at most {MAX_MESSAGE_BYTES} bytes")
        except asyncio.TimeoutError:
            return _complaint(408, f"a request has to be complete within {_BODY_S:g} seconds")
        except StreamDiffVSRError as error:
            return _complaint(400, redact(str(error)))
        self._send_one_status()
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
                await _leave(connection)
        return connection

    async def _listen(self, connection: web.WebSocketResponse, viewer: Viewer) -> None:
        async for message in connection:
            if message.type is not WSMsgType.TEXT or not self._obey(viewer, message.data):
                break
        viewer.end()

    def _obey(self, viewer: Viewer, text: str) -> bool:
        """Carries out one message of a page; returns False if it is invalid."""
        try:
            order = json.loads(text)
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
        except (ValueError, TypeError, ArithmeticError, RecursionError):
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


def _complaint(status: int, why: str) -> web.Response:
    return web.json_response({"error": why}, status=status)


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


async def _leave(connection: web.WebSocketResponse) -> None:
    with contextlib.suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
        await asyncio.wait_for(connection.close(code=WSCloseCode.GOING_AWAY), 2 * _GOODBYE_S)


def _keep_short(request: web.Request) -> None:
    """Makes the system queue little: a slow viewer is to see few pictures, and no old ones."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUED_BYTES)


def _multipart(jpeg: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


_LEAVE_S = 0.3  # for a farewell to the clients
_LINGER_S = 1.0  # to take the rest of a request that is answered already
_BODY_S = 10.0

_logger.addHandler(logging.NullHandler())  # keeps garbage of port scanners off stderr


def listen(host: str, port: int, failure: str) -> socket.socket:
    """Opens a socket that accepts connections.

    Raises:
        StreamDiffVSRError: The port is busy, or the address is not one of this machine.
    """
    address = addresses(host, failure)[0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # there, SO_REUSEADDR would share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise StreamDiffVSRError(failure, why, "choose another port or address") from error
    return listener


class Server:
    """Serves an application until it is closed.

    Args:
        listener: A socket from :func:`listen`; closed with the server.
        application: The application; built in the caller's thread, run in the server's.
        connections: Accepts the connections; its middlewares are the application's.
        tick: The server's own work: awaited once, and cancelled at the end.
        leave: Called in the loop when the server is to end, to end long answers.
    """

    def __init__(
        self,
        listener: socket.socket,
        application: web.Application,
        connections: Connections,
        *,
        tick: Callable[[], Awaitable[None]],
        leave: Callable[[], None],
    ) -> None:
        self._listener, self._application = listener, application
        self._connections = connections
        self._tick, self._leave = tick, leave
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="preview-server", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Runs a function in the loop soon; does nothing if the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def close(self, deadline_s: float) -> None:
        """Ends the connections and the thread. Safe twice."""
        self.call(self._stop.set)
        self._thread.join(deadline_s)
        self._listener.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(_ignore)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        runner = web.AppRunner(
            self._application,
            access_log=None,
            logger=_logger,
            handle_signals=False,
            shutdown_timeout=_LEAVE_S,
            keepalive_timeout=IDLE_S,
            lingering_time=_LINGER_S,
        )
        await runner.setup()
        server = runner.server
        assert server is not None
        own = [
            asyncio.ensure_future(self._tick()),
            asyncio.ensure_future(self._connections.accept(self._listener, server)),
        ]
        await self._stop.wait()
        for task in own:
            task.cancel()
        self._leave()
        transports = [client.transport for client in server.connections]
        await runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # else data that its client never reads would be kept
        await asyncio.sleep(0)


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Logs what a client did to its own connection, at the debug level only."""
    _logger.debug("%s", context.get("message"), exc_info=context.get("exception"))  # type: ignore[arg-type]
