"""Opens a live address with libav, behind a proxy that guards redirects.

The last lines of libav's log are kept as the reason of a failure.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from ..media import libav
from ..media.redact import redact

_CONNECT_S = 10.0
_MAX_HEAD = 1 << 16
_CHUNK = 1 << 16
# Alibaba's, Azure's, Oracle's, and AWS's over IPv6; those of other clouds are link-local.
_METADATA = frozenset({"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"})
_PORTS = {"http": 80, "https": 443}


class Denied(OSError):
    """Raised for a connection that is not allowed."""


class Gate:
    """A proxy on loopback for the connections of one source.

    Args:
        url: The address that the user gave.

    Attributes:
        address: The proxy's address, for libav.
        failure: Why the last connection could not be made, or None.
    """

    def __init__(self, url: str) -> None:
        self._named = (urlsplit(url).hostname or "").lower()
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
        if address.is_loopback:  # a source on this machine may lead to others on it
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
    """Puts a gate into libav's options; returns None where another proxy is in use."""
    if options.get("http_proxy") or os.environ.get("http_proxy"):
        return None
    os.environ.pop("no_proxy", None)  # with it libav would bypass the gate
    gate = Gate(url)
    options["http_proxy"] = gate.address
    return gate


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


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


# Warnings that mean missing pixels. Errors of a demuxer or decoder always mean that.
_DAMAGE = re.compile(
    r"RTP: missed|corrupt|EOI missing|error while decoding|concealing|size mismatch|truncated",
    re.IGNORECASE,
)
# Lines about something that a playlist may not open, by our bounds or by hls's own.
_DENIED = re.compile(r"not on whitelist|loading first segment '(?!https?://)")
# Errors of these are about the connection, not about pictures.
_TRANSPORTS = frozenset(
    f"libav.{name}" for name in ("tcp", "udp", "tls", "http", "https", "httpproxy", "hls", "rtmp")
)


class LiveLog(logging.Handler):
    """Receives libav's log lines from now on.

    Attributes:
        damage: The number of lines that mean damage.
        denied: Whether the source tried to open something that is not allowed.
        last_error: The last line of an error, or "".
    """

    def __init__(self) -> None:
        super().__init__()
        self.damage = 0
        self.denied = False
        self.last_error = ""
        logger = logging.getLogger("libav")
        logger.addHandler(self)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Counts one line; called by ``logging``, on any of libav's threads."""
        text = record.getMessage().strip()
        self.denied = self.denied or bool(_DENIED.search(text))
        error = record.levelno >= logging.ERROR
        if error and text:
            self.last_error = text
        if (error and record.name not in _TRANSPORTS) or _DAMAGE.search(text):
            self.damage += 1


# What an end means for the next attempt: "lost" may come back at any time, "refused" not soon,
# "hopeless" never by itself.
Cause = Literal["ended", "lost", "refused", "hopeless"]


class Ended(Exception):
    """Raised when a source has no more frames; says why."""

    def __init__(self, cause: Cause, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.cause, self.why, self.remedy = cause, redact(why), remedy


def open_live(arguments: dict[str, Any], log: LiveLog) -> tuple[InputContainer, Any]:
    """Opens a source and returns it with its video stream.

    Raises:
        Ended: It cannot be opened, or has no video.
        StreamDiffVSRError: A file is not a video.
    """
    if arguments["kind"] == "file":
        failure = f"could not read {arguments['shown']!r}"
        container = libav.open_video(Path(arguments["url"]), failure)
    else:
        gate, options = None, dict(arguments["options"])
        if arguments["kind"] in ("http", "hls"):
            gate = use_gate(arguments["url"], options)
        if gate and arguments["kind"] == "hls":
            options.setdefault("http_persistent", "0")  # so that each request is checked
        try:
            container = av.open(
                _device(arguments) if arguments["kind"] == "webcam" else arguments["url"],
                format=arguments["format"],
                container_options=options,
                metadata_errors="replace",
            )
        except Exception as error:
            behind = gate.failure if gate else None  # which libav reports as an error of a proxy
            raise _not_opened(behind or error, arguments, log) from error
    stream = libav.moving_picture(container)
    if stream is None:
        held = ", only sound" if container.streams.audio else ""
        raise Ended("refused", f"it has no video stream{held}")
    if stream.codec_context is None:
        raise Ended("refused", "its video codec is unknown here")
    stream.thread_type = "SLICE"  # threads by frames would delay by one frame each
    stream.codec_context.thread_count = arguments["decoder_threads"]
    return container, stream


def read_failure(error: Exception, log: LiveLog) -> Ended:
    """Returns what an error between two packets means."""
    if log.denied:
        return _denied()
    if isinstance(error, av.error.FFmpegError | OSError):
        return Ended("lost", _words(error, log))
    return Ended("lost", f"{type(error).__name__}: {error}")


def _not_opened(error: Exception, arguments: dict[str, Any], log: LiveLog) -> Ended:
    if log.denied or isinstance(error, Denied):
        return _denied()
    if isinstance(error, Ended):
        return error
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return Ended("refused", "it wants another user name or password (401 or 403)")
    if isinstance(error, av.error.HTTPNotFoundError):
        return Ended("refused", "there is no such stream on that server (404)")
    if isinstance(error, socket.gaierror) or "resolve hostname" in _words(error, log):
        return Ended("lost", "there is no host of that name: check the address and the network")
    if isinstance(error, ConnectionRefusedError):
        return Ended("lost", "the connection was refused: is the server running?")
    if isinstance(error, av.error.ProtocolNotFoundError):
        return Ended("hopeless", "this build of libav does not have its protocol")
    if arguments["kind"] == "webcam":
        return _no_webcam(error, arguments)
    if isinstance(error, av.error.InvalidDataError):
        return Ended("lost", f"what came is no video known here ({_words(error, log)})")
    if arguments["kind"] == "screen":
        return Ended("hopeless", f"the screen cannot be read ({_words(error, log)})")
    return Ended("lost", _words(error, log))


def _words(error: Exception, log: LiveLog) -> str:
    """Describes an error with libav's log, as most of its network errors are just "I/O error"."""
    text = libav.describe(error)
    return f"{text}: {log.last_error}" if log.last_error and log.last_error not in text else text


def _denied() -> Ended:
    return Ended(
        "hopeless",
        "it points at something that a source of this kind may not open, such as a local file or "
        "an address of this machine or its cloud",
    )


def _no_webcam(error: Exception, arguments: dict[str, Any]) -> Ended:
    busy = isinstance(error, PermissionError | BlockingIOError) or "busy" in str(error).lower()
    if busy:
        return Ended("lost", f"the camera is in use, or may not be used ({libav.describe(error)})")
    return Ended("hopeless", f"there is no such camera; {_listed(_devices(arguments['format']))}")


def _device(arguments: dict[str, Any]) -> str:
    """Returns the name by which libav opens a webcam."""
    way, _, wanted = arguments["url"].partition(":")
    if way not in ("name", "number"):
        return str(arguments["url"])
    found = _devices(arguments["format"])
    if way == "number":
        chosen = found[int(wanted) : int(wanted) + 1]
    else:
        chosen = [pair for pair in found if wanted.lower() in " ".join(pair).lower()]
    if not chosen:
        raise Ended("hopeless", f"there is no such camera; {_listed(found)}")
    name = chosen[0][0]
    return {"dshow": f"video={name}", "avfoundation": f"{name}:none"}.get(arguments["format"], name)


def _devices(form: str) -> list[tuple[str, str]]:
    """Returns name and description of each camera; empty where libav cannot list them."""
    try:
        listed = av.enumerate_input_devices(form)
    except Exception:  # the format is missing, or the platform lists none
        return []
    kinds = [(device, getattr(device, "media_types", None)) for device in listed]
    return [
        (device.name, device.description)
        for device, media in kinds
        if not media or any("video" in str(medium).lower() for medium in media)
    ]


def _listed(found: list[tuple[str, str]]) -> str:
    if found:
        return "here are " + ", ".join(f"{name} ({described})" for name, described in found)
    hint = " (are /dev/video* passed into this container?)" if sys.platform == "linux" else ""
    return f"no camera was found here{hint}"
