"""The place where a page is served: the socket, and who may connect to it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote

from ....errors import StreamDiffVSRError, UsageError, option

if TYPE_CHECKING:  # they need the extra "live"
    from aiohttp import web

    from .access import Access
    from .serving import Server


@dataclass(frozen=True, slots=True)
class Door:
    """A socket that listens, and the rules of who may use it.

    Attributes:
        port: The port.
        url: The address for a browser.
        url_with_token: The same with the token, if there is one.
    """

    port: int
    url: str
    url_with_token: str = field(repr=False)
    _listener: socket.socket
    _access: Access

    @classmethod
    def open(cls, host: str, port: int, token: str | None, names: Iterable[str] = ()) -> Door:
        """Listens at a host and port; see `Preview` for the arguments and errors."""
        host = host.strip("[]") or "0.0.0.0"
        failure = f"could not open the preview at {_netloc(host, port)}"
        _check_extra(failure)
        from .access import Access, is_loopback
        from .serving import listen

        local = is_loopback(host, failure)
        if not local and not token:
            raise UsageError(
                failure,
                "others can reach it there, and it has no token",
                f"give one with {option('token_file')}, STREAMDIFFVSR_TOKEN or {option('token')}, "
                "or listen on 127.0.0.1",
            )
        listener = listen(host, port, failure)
        own_port: int = listener.getsockname()[1]
        url = f"http://{_netloc(_reachable(host), own_port)}/"
        with_token = f"{url}?token={quote(token, safe='')}" if token else url
        access = Access(host, token or None, local=local, names=names)
        return cls(own_port, url, with_token, listener, access)

    def serve(
        self,
        add_routes: Callable[[web.Application], None],
        tick: Callable[[], Awaitable[None]],
        leave: Callable[[], None],
    ) -> Server:
        """Serves an application; see `Server` for `tick` and `leave`."""
        from aiohttp import web

        from .connections import Connections
        from .server import MAX_MESSAGE_BYTES
        from .serving import Server

        connections = Connections()
        application = web.Application(
            middlewares=[connections.arrive, self._access.middleware, connections.admit],
            client_max_size=MAX_MESSAGE_BYTES,
        )
        application.on_response_prepare.append(self._access.prepare)
        add_routes(application)
        return Server(self._listener, application, connections, tick=tick, leave=leave)


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
