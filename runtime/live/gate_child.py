"""Guards where a source may lead: redirects, playlists and what their names stand for."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from .own_addresses import METADATA, plain

_CONNECT_S = 10.0
_MAX_HEAD = 1 << 16
_CHUNK = 1 << 16
_PORTS = {"http": 80, "https": 443}


class Denied(OSError):
    """Raised for a connection that is not allowed."""


class Bounds:
    """The addresses to which a source may lead, judged by the one that the user gave.

    Args:
        url: The address that the user gave; its host may always be opened.
    """

    def __init__(self, url: str) -> None:
        self._named = (urlsplit(url).hostname or "").lower()

    def names(self, host: str) -> bool:
        """Returns whether this is the host that the user gave."""
        return host.lower() == self._named

    def resolve(self, host: str, port: int) -> list[Any]:
        """Returns those addresses of a host that may be opened, as `socket.getaddrinfo` does.

        Raises:
            Denied: None of its addresses is allowed.
            OSError: There is no such host.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if not self.names(host):
            found = [entry for entry in found if not self._forbidden(str(entry[4][0]))]
        if not found:
            raise Denied(f"{host} may not be opened from there")
        return found

    def _forbidden(self, text: str) -> bool:
        address = plain(text)
        if str(address) in METADATA or address.is_unspecified or address.is_multicast:
            return True
        if address.is_loopback:  # a source on this machine may lead to others on it
            return not self._named_address_is("is_loopback")
        return address.is_link_local and not self._named_address_is("is_link_local")

    def _named_address_is(self, what: str) -> bool:
        with contextlib.suppress(OSError):
            found = socket.getaddrinfo(self._named, None)
            return any(getattr(plain(str(entry[4][0])), what) for entry in found)
        return False


class Gate:
    """A proxy on loopback for the connections of one source.

    Args:
        url: The address that the user gave.

    Attributes:
        address: The proxy's address, for libav.
        failure: Why the last connection could not be made, or None.
    """

    def __init__(self, url: str) -> None:
        self._bounds = Bounds(url)
        self.failure: OSError | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="gate", daemon=True).start()

    def connect(self, host: str, port: int) -> socket.socket:
        """Connects to a host, if that is allowed.

        Raises:
            Denied: None of its addresses is allowed.
            OSError: There is no such host, or it does not answer.
        """
        error: OSError = Denied(f"{host} may not be opened from there")
        for family, kind, protocol, _, address in self._bounds.resolve(host, port):
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(_CONNECT_S)
            try:
                connection.connect(address)
            except OSError as refused:
                connection.close()
                error = refused
                continue
            connection.settimeout(None)  # silence is judged elsewhere
            return connection
        raise error

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            head, rest = _head(client)
            method, target, version = head.split("\r\n", 1)[0].split(" ")
            tunnel = method == "CONNECT"
            parts = urlsplit(f"//{target}" if tunnel else target)
            port = parts.port or _PORTS.get(parts.scheme, 443)
            try:
                server = self.connect(parts.hostname or "", port)
            except OSError as error:
                self.failure = error
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            self.failure = None
            with server:
                if tunnel:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    path = parts._replace(scheme="", netloc="").geturl() or "/"
                    server.sendall(_passed_on(head, f"{method} {path} {version}"))
                server.sendall(rest)
                _join(client, server)


def use_gate(url: str, options: dict[str, str]) -> Gate | None:
    """Puts a gate into libav's options; returns None where another proxy is in use."""
    if options.get("http_proxy") or os.environ.get("http_proxy"):
        return None
    os.environ.pop("no_proxy", None)  # with it libav would bypass the gate
    gate = Gate(url)
    options["http_proxy"] = gate.address
    return gate


def _head(client: socket.socket) -> tuple[str, bytes]:
    """Returns the head of a request, and the bytes after it."""
    read = b""
    while b"\r\n\r\n" not in read:
        data = client.recv(_CHUNK)
        if not data or len(read) > _MAX_HEAD:
            raise ValueError("no request")
        read += data
    head, _, rest = read.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _passed_on(head: str, first: str) -> bytes:
    """Returns the request for the server, for one answer only: the next may be for another host."""
    own = ("proxy-", "connection:")
    lines = [line for line in head.split("\r\n")[1:] if not line.lower().startswith(own)]
    return "\r\n".join([first, *lines, "Connection: close", "", ""]).encode("latin-1")


def _join(client: socket.socket, server: socket.socket) -> None:
    """Passes data on both ways until either side ends."""
    back = threading.Thread(target=_pump, args=(client, server), daemon=True)
    back.start()
    _pump(server, client)
    for one in (client, server):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
