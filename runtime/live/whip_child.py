"""Stands between ffmpeg and a WHIP server for the few requests that open and close a stream.

ffmpeg gets an address of loopback, so its arguments, which every user of the machine can read, have
neither the server's address nor a token. Requests are made here: certificates are checked, what
refuses is known exactly, and a redirect leads nowhere that a source might not lead either.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import secrets
import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from .ending_child import Ended
from .gate_child import Bounds, Denied

_TIMEOUT_S = 8.0
_MAX_BYTES = 1 << 18  # of an offer or an answer
_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 307, 308)
_PORTS = {"http": 80, "https": 443}
_CREATED = 201
_LOOPBACK = "0100007F"  # as /proc/net/tcp writes it
_REFUSALS = {
    401: "its server does not accept the token, or wants one (401); write TOKEN@ before the host",
    403: "its server forbids this (403); check what that token may do",
    404: "there is no such WHIP endpoint on that server (404); check the path of the address",
    405: "what is at that address is no WHIP endpoint (405); check its path",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    url: str  # that answered
    location: str
    body: bytes


class Endpoint:
    """A WHIP server on loopback, which passes on what its one ffmpeg asks.

    Args:
        url: The address of the WHIP server.
        authorization: The header of that name, or "".

    Attributes:
        url: The address for ffmpeg.
        failure: Why the server has not accepted the stream, or None.
    """

    def __init__(self, url: str, authorization: str) -> None:
        self._target, self._authorization = url, authorization
        self._bounds = Bounds(url)
        self._resource = ""
        self._asked = threading.Lock()
        self.failure: Ended | None = None
        self._path = f"/{secrets.token_urlsafe(16)}"
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_POST(self) -> None:
                endpoint._open(self)

            def do_DELETE(self) -> None:
                endpoint._close(self)

            def log_message(self, *unused: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}{self._path}"
        threading.Thread(target=self._server.serve_forever, name="whip", daemon=True).start()

    def _open(self, asking: Any) -> None:
        """Passes on the offer, once."""
        length = int(asking.headers.get("Content-Length") or 0)
        ours = asking.path == self._path and 0 < length <= _MAX_BYTES and self._is_ours(asking)
        if not ours or not self._asked.acquire(blocking=False):
            _reply(asking, 403)
            return
        try:
            answer = self._ask("POST", self._target, asking.rfile.read(length))
            self._resource = urljoin(answer.url, answer.location) if answer.location else ""
        except Ended as ended:
            self.failure = ended
            _reply(asking, 502)
            return
        _reply(asking, _CREATED, answer.body, f"{self._path}/session")

    def _close(self, asking: Any) -> None:
        """Ends the stream at the server."""
        if asking.path.startswith(self._path) and self._resource and self._is_ours(asking):
            with contextlib.suppress(Ended):
                self._ask("DELETE", self._resource)
        _reply(asking, 200)

    def _is_ours(self, asking: Any) -> bool:
        """Returns whether a process of this user asks, where the system says who does."""
        if sys.platform != "linux":
            return True
        peer = f"{_LOOPBACK}:{asking.client_address[1]:04X}"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, _, _, _, _, user, *_ = line.split()
            if local == peer:
                return int(user) == os.geteuid()
        return False

    def _ask(self, method: str, url: str, offer: bytes = b"") -> _Answer:
        """Sends a request, and follows redirects within bounds.

        Raises:
            Ended: The server cannot be reached, or refuses.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                answer = self._request(method, url, offer)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _unreached(error) from error
            if answer.status not in _REDIRECTS or not answer.location:
                break
            url = urljoin(url, answer.location)
        if 200 <= answer.status < 300:
            return answer
        if why := _REFUSALS.get(answer.status):
            raise Ended("refused", why)
        if answer.status in _REDIRECTS:
            raise Ended("refused", "it redirects again and again")
        refused = 400 <= answer.status < 500
        raise Ended("refused" if refused else "lost", f"its server answers {answer.status}")

    def _request(self, method: str, url: str, offer: bytes) -> _Answer:
        parts = urlsplit(url)
        host, first = parts.hostname or "", urlsplit(self._target)
        safe = parts.scheme == "https" or parts.scheme == first.scheme == "http"
        if not safe:
            raise Denied(f"it leads to {parts.scheme}:// from https://")
        port = parts.port or _PORTS[parts.scheme]
        headers = {"Content-Type": "application/sdp"} if offer else {}
        # A token is for the host that it was given for.
        if self._authorization and self._bounds.names(host):
            headers["Authorization"] = self._authorization
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        connection.sock = self._connected(host, port, parts.scheme)
        with contextlib.closing(connection):
            path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            connection.request(method, path, offer or None, headers)
            answer = connection.getresponse()
            body = answer.read(_MAX_BYTES)
            return _Answer(answer.status, url, answer.headers.get("Location", ""), body)

    def _connected(self, host: str, port: int, scheme: str) -> socket.socket:
        """Returns a connection to an address of the host that was checked."""
        error: OSError = Denied(f"{host} may not be opened from there")
        for *_, address in self._bounds.resolve(host, port):
            try:
                plain = socket.create_connection(address[:2], _TIMEOUT_S)
            except OSError as refused:
                error = refused
                continue
            if scheme != "https":
                return plain
            return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        raise error


def _reply(asking: Any, status: int, body: bytes = b"", location: str = "") -> None:
    with contextlib.suppress(OSError):
        asking.send_response(status)
        if location:
            asking.send_header("Location", location)
            asking.send_header("Content-Type", "application/sdp")
        asking.send_header("Content-Length", str(len(body)))
        asking.send_header("Connection", "close")
        asking.end_headers()
        asking.wfile.write(body)


def _unreached(error: Exception) -> Ended:
    if isinstance(error, socket.gaierror):
        return Ended("lost", "there is no host of that name; check the address")
    if isinstance(error, ConnectionRefusedError):
        why = "the connection was refused; check that its server runs, and its port"
        return Ended("lost", why)
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted here ({error.verify_message})"
        return Ended("refused", f"{why}; name its authority in SSL_CERT_FILE")
    if isinstance(error, ssl.SSLError):
        return Ended("refused", "it does not speak TLS at that port; write whip:// for plain HTTP")
    if isinstance(error, TimeoutError):
        return Ended("lost", f"its server does not answer within {_TIMEOUT_S:g} s")
    if isinstance(error, Denied):
        return Ended("refused", "it leads to an address that a server may not lead to by itself")
    return Ended("lost", f"its server gives no answer ({error or type(error).__name__})")
