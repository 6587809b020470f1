"""Where a source over HTTP may lead: its redirects and playlists name addresses that no user chose.

Runs in the child. libav resolves and connects by itself, so it is made to ask a proxy of this
process for every connection; the proxy looks at the address that it is about to connect to, and so
at what a name stands for at that very moment. What it lets through it hands on as it is.

Denied are link-local addresses, the ones where clouds answer with credentials, and this machine
itself, unless the user has named that host. Cameras on the local network are not.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from urllib.parse import urlsplit

_CONNECT_S = 10.0
_MAX_HEAD = 1 << 16
_CHUNK = 1 << 16
# Of Alibaba, Azure, Oracle and AWS over IPv6; the others' are link-local.
_METADATA = frozenset({"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"})
_PORTS = {"http": 80, "https": 443}


class Denied(OSError):
    """A connection that is not allowed."""


class Gate:
    """A proxy on loopback for the connections of one source.

    Args:
        url: What the user has named.

    Attributes:
        address: Where libav finds it.
        failure: Why the last connection could not be made, or None.
    """

    def __init__(self, url: str) -> None:
        self._named = (urlsplit(url).hostname or "").lower()
        self.failure: OSError | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="gate", daemon=True).start()

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to a host, if it may be made.

        Raises:
            Denied: None of its addresses is allowed.
            OSError: There is no such host, or it does not answer.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        named = host.lower() == self._named
        allowed = [entry for entry in found if named or not self._forbidden(str(entry[4][0]))]
        error: OSError = Denied(f"{host} may not be opened from there")
        for family, kind, protocol, _, address in allowed:
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

    def _forbidden(self, text: str) -> bool:
        address = _plain(text)
        if address.is_loopback:  # a user who named this machine may be led around on it
            return not self._names_this_machine()
        never = address.is_link_local or address.is_unspecified or address.is_multicast
        return never or str(address) in _METADATA

    def _names_this_machine(self) -> bool:
        with contextlib.suppress(OSError):
            found = socket.getaddrinfo(self._named, None)
            return any(_plain(str(entry[4][0])).is_loopback for entry in found)
        return False

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
    """A gate in the options of libav; None where another proxy decides what is opened."""
    if options.get("http_proxy") or os.environ.get("http_proxy"):
        return None
    os.environ.pop("no_proxy", None)  # libav would go past the gate
    gate = Gate(url)
    options["http_proxy"] = gate.address
    return gate


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _head(client: socket.socket) -> tuple[str, bytes]:
    """The head of a request, and what came behind it."""
    read = b""
    while b"\r\n\r\n" not in read:
        data = client.recv(_CHUNK)
        if not data or len(read) > _MAX_HEAD:
            raise ValueError("no request")
        read += data
    head, _, rest = read.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _passed_on(head: str, first: str) -> bytes:
    """The request for the server itself, and for one answer: the next may be for another host."""
    own = ("proxy-", "connection:")
    lines = [line for line in head.split("\r\n")[1:] if not line.lower().startswith(own)]
    return "\r\n".join([first, *lines, "Connection: close", "", ""]).encode("latin-1")


def _join(client: socket.socket, server: socket.socket) -> None:
    """Hand on both ways until either side ends."""
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
