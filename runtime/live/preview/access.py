"""Decides who may see the preview, by the token, the Host and the Origin of each request.

Any web page can make a browser send requests to this machine. Three rules stop that: the Host must
be a name that no stranger can point here (against DNS rebinding), a request that the browser marks
as another site's is refused, and a WebSocket must come from the page itself. If there is a token,
every route requires it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from aiohttp import web

from ....errors import StreamDiffVSRError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_COOKIE_S = 30 * 24 * 3600
_WRONG_TOKEN_S = 0.5  # a guess costs this much
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def addresses(host: str, failure: str) -> list[str]:
    """Returns the IP addresses of a host to listen on.

    Raises:
        StreamDiffVSRError: There is no such host.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StreamDiffVSRError(
            failure, f"{host!r} is no address of this machine", "try 127.0.0.1 or 0.0.0.0"
        ) from error
    return [str(entry[4][0]) for entry in found]


def is_loopback(host: str, failure: str) -> bool:
    """Returns whether only this machine can reach a server that listens on the host."""
    return all(_address(text).is_loopback for text in addresses(host, failure))


class Access:
    """Guards every route; use :meth:`middleware`.

    Args:
        host: The host that the server listens on.
        token: The token that viewers need; None if they need none.
        local: Whether the server listens on loopback only.
        names: Further host names by which it is reached, behind a proxy for example.
    """

    def __init__(
        self, host: str, token: str | None, *, local: bool, names: Iterable[str] = ()
    ) -> None:
        self._token = None if token is None else token.encode()
        self._local = local
        own = {"localhost"} if local else {"localhost", *_own_names()}
        self._names = {name.lower() for name in (*own, *names, host) if name}
        self._trusted_origins = {name.lower() for name in names}
        # Not the token itself, but the same after a restart, so that an open page works again.
        self._pass = hashlib.sha256(b"streamdiffvsr preview:" + (self._token or b"")).hexdigest()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses a request with 403 or 401, or answers it and marks the answer as private."""
        refusal = self._refusal(request)
        if refusal:
            return self._refuse(403, refusal)
        by_token = False
        if self._token is not None:
            by_token = self._has_token(request)
            if not by_token and not self._has_pass(request):
                if self._offers_token(request):
                    await asyncio.sleep(_WRONG_TOKEN_S)
                return self._refuse(
                    401, "A token is needed: open the address that the program has printed."
                )
        try:
            answer = await handler(request)
        except web.HTTPException as refusal_of_route:
            answer = self._refuse(refusal_of_route.status, refusal_of_route.text or "")
        if by_token and not answer.prepared:
            self._give_pass(request, answer)
        return answer

    @staticmethod
    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        """Sets the headers of every answer; a signal handler of aiohttp."""
        response.headers.update(_HEADERS)

    def _give_pass(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Sets a cookie, so that neither the page's requests nor its address need the token."""
        name = self._cookie(request)
        answer.set_cookie(name, self._pass, max_age=_COOKIE_S, httponly=True, samesite="Lax")

    def _refusal(self, request: web.Request) -> str:
        host = _host(request.headers.get("Host", ""))
        if not self._own(host):
            return "This Host name is not one of this server."
        origin = request.headers.get("Origin")
        websocket = request.headers.get("Upgrade", "").lower() == "websocket"
        if origin is None and websocket:
            return "A WebSocket needs an Origin header."
        if origin is not None and not self._same(origin, request.headers["Host"]):
            return "Requests of other sites are refused."
        navigates = request.method in ("GET", "HEAD") and (
            request.headers.get("Sec-Fetch-Mode") == "navigate"
        )
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not navigates:
            return "Requests of other sites are refused."
        return ""

    def _own(self, host: str) -> bool:
        """Returns whether no stranger can point the host here: an address, or this machine's."""
        if host in self._names:
            return True
        try:
            address = _address(host)
        except ValueError:
            return False
        return address.is_loopback or not self._local

    def _same(self, origin: str, host: str) -> bool:
        split = urlsplit(origin)
        if split.scheme not in ("http", "https"):
            return False
        return split.netloc.lower() == host.lower() or _host(split.netloc) in self._trusted_origins

    def _has_token(self, request: web.Request) -> bool:
        assert self._token is not None
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        offered = [*request.query.getall("token", ()), *([bearer] * (scheme.lower() == "bearer"))]
        return any(_equal(text.strip(), self._token) for text in offered)

    def _has_pass(self, request: web.Request) -> bool:
        return _equal(request.cookies.get(self._cookie(request), ""), self._pass.encode())

    def _offers_token(self, request: web.Request) -> bool:
        return "token" in request.query or "Authorization" in request.headers

    @staticmethod
    def _cookie(request: web.Request) -> str:
        """Returns the cookie's name, which has the port, as cookies of all ports are shared."""
        port = request.transport and request.transport.get_extra_info("sockname")[1]
        return f"streamdiffvsr-{port}"

    @staticmethod
    def _refuse(status: int, text: str) -> web.Response:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        return web.Response(status=status, text=text + "\n", headers=headers)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text.partition("%")[0])


def _host(netloc: str) -> str:
    """Returns the host of HOST, HOST:PORT or [ADDRESS]:PORT; "" for anything else."""
    if any(sign in netloc for sign in "@/?#\\ "):
        return ""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _own_names() -> set[str]:
    name = socket.gethostname()
    short = name.partition(".")[0]
    return {name, short, f"{short}.local"}


def _equal(text: str, secret: bytes) -> bool:
    return hmac.compare_digest(text.encode(errors="replace"), secret)
