"""Strangers cannot take the preview's files, its time or its token by opening many connections."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from streamdiffvsr.runtime.live.preview import connections as module
from streamdiffvsr.runtime.live.preview import guesses, serving
from streamdiffvsr.runtime.live.preview.connections import Room, network_of
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.clients import connections, joined, packets
from streamdiffvsr.tests.live.preview.rig import get, output, playing, preview, wait_until

TOKEN = "correct horse"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


def silent(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


@contextmanager
def crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """That many connections on which nothing is sent."""
    with ExitStack() as held:
        yield [held.enter_context(silent(port)) for _ in range(count)]


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0.01)
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_silent_connections_are_bounded_and_viewers_get_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_BYTE_S", 120.0)
    monkeypatch.setattr(module, "HEADER_S", 120.0)
    with preview(token=TOKEN) as (opened, _), crowd(opened.port, 200) as clients:
        for _ in range(5):
            started = time.monotonic()
            assert get(opened.port, "/status.json", RIGHT)[0] == 200
            assert time.monotonic() - started < 2
        wait_until(lambda: len(connections(opened)) <= Room().guests)
        assert is_closed(clients[0]) and not is_closed(clients[-1])  # the oldest had to go


def test_a_crowd_takes_no_viewers_place() -> None:
    async def watch(opened: Preview) -> None:
        async with joined(opened, "jpeg") as connection:
            seen = 0
            async for header, _ in packets(connection):
                seen = max(seen, header["number"])
                if header["index"] >= 20:
                    break
            assert seen >= 3

    with preview() as (opened, told), playing(opened, told):
        kept = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=10)
        with contextlib.closing(kept):
            kept.request("GET", "/healthz")
            assert kept.getresponse().read() == b"playing\n"
            before = kept.sock
            assert before is not None
            with crowd(opened.port, 100):
                asyncio.run(watch(opened))
                kept.request("GET", "/healthz")
                assert kept.getresponse().read() == b"playing\n"
                assert kept.sock is before


def test_a_silent_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BYTE_S", 0.3)
    with preview() as (opened, _), contextlib.closing(silent(opened.port)) as client:
        started = time.monotonic()
        assert client.recv(1) == b""
        assert 0.2 < time.monotonic() - started < 3


def test_a_slow_header_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes soon after the one before, but the header is never complete."""
    monkeypatch.setattr(module, "FIRST_BYTE_S", 0.3)
    monkeypatch.setattr(module, "HEADER_S", 1.0)
    with preview() as (opened, _), contextlib.closing(silent(opened.port)) as client:
        started = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 10:
                client.sendall(b"x-more: 1\r\n")
                time.sleep(0.1)
        assert 0.8 < time.monotonic() - started < 4


def test_a_slow_second_header_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "IDLE_S", 0.5)
    with preview() as (opened, _), contextlib.closing(silent(opened.port)) as client:
        client.sendall(f"GET /page.css HTTP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            while client.recv(65536):
                pass
        assert time.monotonic() - started < 5


def test_a_viewers_connection_has_no_such_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BYTE_S", 0.3)
    monkeypatch.setattr(module, "HEADER_S", 0.4)
    with preview() as (opened, _):
        kept = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=10)
        with contextlib.closing(kept):
            kept.request("GET", "/page.css")
            kept.getresponse().read()
            before = kept.sock
            assert before is not None
            time.sleep(1)
            kept.request("GET", "/page.css")
            assert kept.getresponse().status == 200
            assert kept.sock is before


@pytest.mark.parametrize("request_line", ["GET /", "POST /regions"])
def test_a_refused_connection_ends(request_line: str) -> None:
    with preview(token=TOKEN) as (opened, _), contextlib.closing(silent(opened.port)) as client:
        head = f"{request_line} HTTP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n"
        body = "Content-Length: 9999\r\n" if request_line.startswith("POST") else ""
        client.sendall(f"{head}{body}\r\n".encode())
        started, answer = time.monotonic(), b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(4096):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 401")
        assert time.monotonic() - started < 5


class Guessing:
    """Threads that guess tokens in parallel until they are stopped."""

    def __init__(self, opened: Preview, threads: int) -> None:
        self.answered, self.port = 0, opened.port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Guessing:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                status = get(self.port, f"/status.json?token=guess{number}")[0]
            except (OSError, http.client.HTTPException):
                continue
            assert status == 401
            self.answered += 1


def asked_from(source: str, port: int) -> float:
    """Returns after how many seconds the right token got its answer, from that address."""
    started = time.monotonic()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(source, 0))
    with contextlib.closing(client):
        client.request("GET", "/status.json", headers=RIGHT)
        assert client.getresponse().status == 200
    return time.monotonic() - started


@pytest.mark.slow
def test_parallel_guesses_are_bounded_and_lock_nobody_out() -> None:
    with preview(token=TOKEN) as (opened, _), Guessing(opened, 40) as guessing:
        wait_until(lambda: guessing.answered)
        started, before = time.monotonic(), guessing.answered
        assert asked_from("127.0.0.1", opened.port) < 15  # in the guesser's own queue
        time.sleep(2)
        rate = (guessing.answered - before) / (time.monotonic() - started)
        assert rate <= 1.5 / guesses.NETWORK_S


@pytest.mark.slow
def test_more_guesses_than_connections_lock_nobody_out() -> None:
    """Whoever has just come is not dropped for the next one before the request is read."""
    with preview(token=TOKEN) as (opened, _), Guessing(opened, 120) as guessing:
        wait_until(lambda: guessing.answered > 5)
        assert asked_from("127.0.0.1", opened.port) < 40


@pytest.mark.slow
def test_guesses_from_elsewhere_hardly_delay_a_viewer() -> None:
    if not hasattr(socket, "AF_PACKET"):
        pytest.skip("only Linux has all of 127.0.0.0/8 on its loopback")
    with preview(token=TOKEN) as (opened, _), Guessing(opened, 30) as guessing:
        wait_until(lambda: guessing.answered)
        assert asked_from("127.0.0.2", opened.port) < 3


@pytest.mark.slow
def test_a_viewer_with_a_pass_needs_no_turn() -> None:
    with preview(token=TOKEN) as (opened, _):
        cookie = get(opened.port, "/", RIGHT)[2]["Set-Cookie"].partition(";")[0]
        with Guessing(opened, 30) as guessing:
            wait_until(lambda: guessing.answered)
            started = time.monotonic()
            assert get(opened.port, "/status.json", {"Cookie": cookie})[0] == 200
            assert time.monotonic() - started < 3


def test_a_pass_is_good_after_a_restart_and_no_other_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with preview(token=TOKEN) as (opened, _):
        port = opened.port
        name, value = get(port, "/", RIGHT)[2]["Set-Cookie"].partition(";")[0].split("=")
    with preview(port, token=TOKEN):
        assert get(port, "/status.json", {"Cookie": f"{name}={value}"})[0] == 200
        for wrong in (value[:-1], value[1:], value[:-1] + "é", f"{value}.", "", "."):
            header = {"Cookie": f"{name}={wrong}".encode().decode("latin-1")}
            assert get(port, "/status.json", header)[0] == 401, wrong
    with preview(port, token="another"):
        assert get(port, "/status.json", {"Cookie": f"{name}={value}"})[0] == 401


@pytest.mark.parametrize("cookie", [False, True])
def test_many_guesses_in_one_request_take_as_long_as_alone(cookie: bool) -> None:
    with preview(token=TOKEN) as (opened, _):
        query = "&".join(["token=wrong"] * 10)
        headers = {"Cookie": f"streamdiffvsr-{opened.port}=a.b"} if cookie else {}
        path = "/status.json" if cookie else f"/status.json?{query}"
        started = time.monotonic()
        assert get(opened.port, path, headers)[0] == 401
        assert time.monotonic() - started > 0.9 * guesses.NETWORK_S * (1 if cookie else 10)


def test_a_guess_whose_sender_has_left_keeps_no_turn() -> None:
    with preview(token=TOKEN) as (opened, _):
        head = f"GET /?token=x HTTP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n\r\n".encode()
        for _ in range(150):
            with contextlib.closing(silent(opened.port)) as client:
                client.sendall(head)
        assert asked_from("127.0.0.1", opened.port) < 5


def test_the_room_follows_the_limit_of_files() -> None:
    resource = pytest.importorskip("resource", reason="there is no such limit")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert Room.here() == Room()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        room = Room.here()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert 4 <= room.guests < room.viewers and room.guests + room.viewers <= 256 // 4


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
    ],
)
def test_guesses_count_for_what_one_client_can_choose_from(address: str, network: str) -> None:
    assert network_of(address) == network


def test_no_file_left_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener fails for a while, as it does without a free file, and then goes on."""
    accept = asyncio.SelectorEventLoop.sock_accept
    failures = iter([OSError(24, "Too many open files")] * 3)

    async def failing(loop: asyncio.SelectorEventLoop, listener: socket.socket) -> object:
        if error := next(failures, None):
            raise error
        return await accept(loop, listener)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_accept", failing)
    with preview() as (opened, _):
        opened.offer(output(0, (8, 8)))
        assert get(opened.port, "/status.json")[0] == 200
