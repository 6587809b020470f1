"""Listens, and runs the preview's application in a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Awaitable, Callable

from aiohttp import web

from ....errors import StreamDiffVSRError
from .access import addresses
from .connections import IDLE_S, Connections

_logger = logging.getLogger("streamdiffvsr.preview")
_LEAVE_S = 0.3  # for a farewell to the clients
_LINGER_S = 1.0  # to take the rest of a request that is answered already

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
