"""Decides who may see the preview, by the token, the Host and the Origin of each request.

Any web page can make a browser send requests to this machine. Three rules stop that: the Host must
be a name that no stranger can point here (against DNS rebinding), a request that the browser marks
as another site's is refused, and a WebSocket must come from the page itself. If there is a token,
every route requires it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web

from ....errors import StreamDiffVSRError
from .connections import Handler, network_of
from .guesses import Turns

_COOKIE_S = 30 * 24 * 3600
_PASSES = 1024  # so many are known to be right without a comparison
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
        self._turns = Turns()
        self._key = hashlib.sha256(b"streamdiffvsr preview:" + (self._token or b"")).digest()
        self._passes: OrderedDict[str, None] = OrderedDict()  # those of this run

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses a request with 403 or 401, or answers it and marks the answer as private."""
        refusal = self._refusal(request)
        if refusal:
            return self._refuse(403, refusal)
        by_token = False
        if self._token is not None:
            by_token = not self._has_known_pass(request)
            if by_token and not await self._offers_the_token(request):
                return self._refuse(
                    401, "A token is needed: add ?token=... to the address of the page."
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
        """Sets a cookie, so that neither the page's requests nor its address need the token.

        It follows from the token, so that an open page works again after a restart.
        """
        number = secrets.token_hex(16)
        self._know(value := f"{number}.{self._signature(number)}")
        name = self._cookie(request)
        answer.set_cookie(name, value, max_age=_COOKIE_S, httponly=True, samesite="Lax")

    def _signature(self, number: str) -> str:
        return hmac.digest(self._key, number.encode(errors="replace"), "sha256").hex()

    def _know(self, value: str) -> None:
        self._passes[value] = None
        if len(self._passes) > _PASSES:
            self._passes.popitem(last=False)

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

    def _has_known_pass(self, request: web.Request) -> bool:
        """Returns whether its cookie is of this run, with a number that cannot be guessed."""
        return request.cookies.get(self._cookie(request), "") in self._passes

    async def _offers_the_token(self, request: web.Request) -> bool:
        """Waits its turn; returns whether it has the token or a cookie made of it."""
        assert self._token is not None
        token, value = self._token, request.cookies.get(self._cookie(request), "")
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        offered = request.query.getall("token", [])
        if scheme.lower() == "bearer":
            offered = [*offered, bearer]
        number, _, signature = value.partition(".")
        guesses = len(offered) + bool(signature)
        if not guesses:
            return False

        def right() -> bool:
            found = [_equal(text.strip(), token) for text in offered]
            if signature and _equal(signature, self._signature(number).encode()):
                self._know(value)
                found.append(True)
            return any(found)

        return await self._turns.compare(network_of(request.remote), guesses, right)

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
