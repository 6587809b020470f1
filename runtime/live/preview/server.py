"""The preview's web server: an aiohttp application in a thread of its own.

It listens before its constructor returns, so that a busy port is known at once, and it ends within
a deadline whatever its clients do. It knows nothing of routes' contents or of who may see them.
"""

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

_LEAVE_S = 0.3  # for a farewell to the clients
_logger = logging.getLogger("streamdiffvsr.preview")
_logger.addHandler(logging.NullHandler())  # port scanners send garbage: not the user's business


def listen(host: str, port: int, failure: str) -> socket.socket:
    """A socket that accepts connections.

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
        listener: What :func:`listen` gave; closed with the server.
        application: The application; built in the caller's thread, run in the server's.
        tick: Awaited once and cancelled at the end: what the server does by itself.
        leave: Called in the loop when the server is to end: lets long answers come to theirs.
    """

    def __init__(
        self,
        listener: socket.socket,
        application: web.Application,
        *,
        tick: Callable[[], Awaitable[None]],
        leave: Callable[[], None],
    ) -> None:
        self._listener, self._application = listener, application
        self._tick, self._leave = tick, leave
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="preview-server", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the loop soon; nothing happens where the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def close(self, deadline_s: float) -> None:
        """End connections and the thread. Safe twice."""
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
        )
        await runner.setup()
        await web.SockSite(runner, self._listener).start()
        ticking = asyncio.ensure_future(self._tick())
        await self._stop.wait()
        ticking.cancel()
        self._leave()
        server = runner.server
        transports = [client.transport for client in server.connections] if server else []
        await runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # else what its client never reads would be kept for it
        await asyncio.sleep(0)


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What a client did to its own connection is no news; it goes to the log only."""
    _logger.debug("%s", context.get("message"), exc_info=context.get("exception"))  # type: ignore[arg-type]
