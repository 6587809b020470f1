"""The browser preview as a sink: `offer` takes microseconds, other threads do the rest.

It connects the feed (encoding), the audience, the server with its routes, and access control.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ....errors import StreamDiffVSRError, UsageError, option
from ..frame import OutputFrame
from .feed import Feed
from .viewers import Audience, Packet

if TYPE_CHECKING:
    from .access import Access


class Preview:
    """A page that shows the newest frames, and how the session is doing.

    Args:
        host: The address or name of this machine to listen on; "0.0.0.0" for every network.
        port: The port to listen on; 0 for a free one.
        token: The token that viewers need; it may be None only on loopback.
        status: The session's status (see ``live/status.py``); called from the server's thread.
        tell: Receives one line when something breaks, or works again.
        names: Further host names by which the page is reached, behind a proxy for example.

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
                f"give one with {option('token')} or STREAMDIFFVSR_TOKEN, or listen on 127.0.0.1",
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
        self._serve(listener, Access(host, token or None, local=local, names=names), status)

    def _serve(
        self, listener: socket.socket, access: Access, status: Callable[[], Mapping[str, Any]]
    ) -> None:
        from aiohttp import web

        from .metrics import Metrics
        from .server import Routes, Server

        self._metrics = Metrics(status)
        routes = Routes(self._audience, self._feed, status, self._metrics)
        application = web.Application(middlewares=[access.middleware])
        application.on_response_prepare.append(access.prepare)
        routes.add_to(application)
        self._server = Server(
            listener, application, tick=routes.send_status, leave=self._audience.end
        )

    def offer(self, frame: OutputFrame) -> None:
        """Shows a frame to the viewers; returns at once, and raises nothing."""
        if not self._closed.is_set():
            self._metrics.observe(frame)
            self._feed.offer(frame)

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
        self._feed.close(max(0.1, until - time.monotonic()))

    def _deliver(self, packet: Packet) -> None:
        self._server.call(lambda: self._audience.deliver(packet))


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
