"""Bounds what strangers can hold open: the preview's connections, and the time of each.

A connection is a guest's until a request on it is allowed, and a viewer's from then on. Each kind
has room of its own, so guests take no viewer's place. If there are too many guests, the oldest
silent one of the network with most of them is dropped for the next. If all of them wait for an
answer, the next waits in the system's queue. Without this, a thousand silent connections would take
every file that the process may open.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

FIRST_BYTE_S = 5.0
HEADER_S = 10.0  # from the connection to the end of the first request's header
IDLE_S = 15.0  # between two requests of a viewer
_GOODBYE_S = 2.0  # to take a refusal
_GRACE_S = 0.1  # before a silent one may be dropped for another: its request is on the way
_LOOK_S = 0.05
_PAUSE_S = 0.2  # when the system has no files left
_GUESTS, _VIEWERS = 48, 96
_FILES_SHARE = 5  # connections get one file in so many


@dataclass(frozen=True, slots=True)
class Room:
    """The largest numbers of guests' and of viewers' connections."""

    guests: int = _GUESTS
    viewers: int = _VIEWERS

    @classmethod
    def here(cls) -> Room:
        """Returns the room in a process with this one's limit of open files."""
        try:
            import resource
        except ImportError:  # Windows has no such limit
            return cls()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY or files >= _FILES_SHARE * (_GUESTS + _VIEWERS):
            return cls()
        guests = max(4, files // (3 * _FILES_SHARE))
        return cls(guests, 2 * guests)


def network_of(address: str | None) -> str:
    """Returns what one client can choose its address from: an IPv4 address, or an IPv6 /64."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), 64), strict=False))


class Connections:
    """All connections of one server.

    Its two middlewares belong around the one that decides on access: `arrive` before it, and
    `admit` after it.

    Args:
        room: How many there may be; None for what suits this process.
    """

    def __init__(self, room: Room | None = None) -> None:
        self._room = room or Room.here()
        self._all: dict[asyncio.BaseTransport, _Connection] = {}  # the oldest first
        self._changed = asyncio.Event()

    async def accept(
        self, listener: socket.socket, serve: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """Accepts connections until it is cancelled; survives a lack of files and memory.

        Args:
            listener: A socket that listens, without blocking.
            serve: Makes the protocol of one connection.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError:  # no file or memory is left
                self._drop_silent()
                await asyncio.sleep(_PAUSE_S)
                continue
            try:
                accepted.setblocking(False)
                await self._have_room()
                make = partial(self._made, serve, network_of(str(peer[0])))
                await loop.connect_accepted_socket(make, accepted)
            except OSError:  # it has left meanwhile
                accepted.close()
            except BaseException:
                accepted.close()
                raise

    @web.middleware
    async def arrive(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Notes that a request has come, and closes its connection if it is refused."""
        connection = self._of(request)
        if connection is None or connection.admitted:
            return await handler(request)
        connection.request = asyncio.current_task()
        try:
            answer = await handler(request)
        finally:
            connection.request = None
        if not connection.admitted:
            answer.force_close()
            connection.limit(_GOODBYE_S)
        return answer

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Makes the connection of an allowed request a viewer's, or refuses it without room."""
        connection = self._of(request)
        if connection is not None and not connection.admitted:
            viewers = sum(other.admitted for other in self._all.values())
            if viewers >= self._room.viewers:
                raise web.HTTPServiceUnavailable(text="Too many connections are open already.")
            connection.admit()
            self._changed.set()
        return await handler(request)

    def _made(self, serve: Callable[[], asyncio.BaseProtocol], network: str) -> _Connection:
        return _Connection(serve(), network, self._all, self._changed)

    def _of(self, request: web.Request) -> _Connection | None:
        return None if request.transport is None else self._all.get(request.transport)

    def _guests(self) -> list[_Connection]:
        return [one for one in self._all.values() if not one.admitted]

    async def _have_room(self) -> None:
        """Waits until there is room for another guest, which a silent one makes."""
        while len(self._guests()) >= self._room.guests and not self._drop_silent():
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_S)

    def _drop_silent(self) -> bool:
        """Drops the oldest silent guest of the network with most; returns False without one."""
        before = time.monotonic() - _GRACE_S
        silent = [one for one in self._guests() if one.request is None and one.since < before]
        if not silent:
            return False
        [(crowd, _)] = Counter(one.network for one in silent).most_common(1)
        next(one for one in silent if one.network == crowd).drop()
        return True


class _Connection(asyncio.Protocol):
    """One connection: passes everything on to the protocol that serves it.

    Attributes:
        admitted: Whether it is a viewer's.
        since: When it was accepted, in seconds of a steady clock.
        request: The task of a guest's request; cancelled if the guest leaves.
    """

    def __init__(
        self,
        inner: asyncio.BaseProtocol,
        network: str,
        members: dict[asyncio.BaseTransport, _Connection],
        changed: asyncio.Event,
    ) -> None:
        self.network, self.admitted, self.since = network, False, time.monotonic()
        self.request: asyncio.Task[Any] | None = None
        self._inner: Any = inner
        self._members, self._changed = members, changed
        self._spoke = False
        self._timers: list[asyncio.TimerHandle] = []

    def limit(self, seconds: float) -> None:
        """Drops the connection after that time, in place of earlier limits."""
        self._no_limits()
        self._timers = [asyncio.get_running_loop().call_later(seconds, self.drop)]

    def admit(self) -> None:
        """Makes it a viewer's, without a limit of time."""
        self.admitted = True
        self._no_limits()

    def drop(self) -> None:
        """Ends the connection at once, and forgets it."""
        self._members.pop(self._transport, None)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._members[transport] = self
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(FIRST_BYTE_S, self._expect_a_byte),
            loop.call_later(HEADER_S, self._expect_a_header),
        ]
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._spoke = True
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        kept: bool | None = self._inner.eof_received()
        return kept

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._members.pop(self._transport, None)
        self._no_limits()
        with contextlib.suppress(Exception):  # of what serves it: the place is free either way
            self._inner.connection_lost(error)
        if self.request is not None:
            self.request.cancel()
        self._changed.set()

    def _expect_a_byte(self) -> None:
        if not self._spoke:
            self.drop()

    def _expect_a_header(self) -> None:
        if self.request is None:
            self.drop()

    def _no_limits(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
