"""Tests where an HTTP source may lead: to the local network, but not to a cloud's own addresses."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamdiffvsr.benchmarks import clock_code
from streamdiffvsr.runtime.live.gate_child import Denied, Gate
from streamdiffvsr.tests.live.streams import playlist, transport_stream
from streamdiffvsr.tests.live.watching import ended, watch

CLOUD = "169.254.169.254"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; /to/URL is a redirect."""

    def do_GET(self) -> None:
        if not self.path.startswith("/to/"):
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", self.path.removeprefix("/to/"))
        self.end_headers()

    def log_message(self, *unused: object) -> None:
        """Quiet."""


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "a.ts").write_bytes(transport_stream(45))
    (tmp_path / "cloud.m3u8").write_text(playlist(f"http://{CLOUD}/latest/meta-data.ts"))
    (tmp_path / "far.m3u8").write_text(playlist(f"http://[fe80::1]:9/{CLOUD}.ts"))
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_stream_and_a_redirect_on_the_same_host_play(camera: str) -> None:
    for path in ("/a.ts", f"/to/{camera}/a.ts"):
        with watch(camera + path) as source:
            assert clock_code.read(source.frame().image) is not None


@pytest.mark.parametrize("path", ["/cloud.m3u8", "/far.m3u8", f"/to/http://{CLOUD}/latest/"])
def test_a_playlist_or_redirect_to_a_clouds_own_address_is_denied(camera: str, path: str) -> None:
    with watch(camera + path) as source:
        error = ended(source)
        assert source.status()["received"] == 0
    assert "an address of this machine or its cloud" in str(error)
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "address", "allowed"),
    [
        ("http://example.invalid/a.m3u8", CLOUD, False),
        ("http://example.invalid/a.m3u8", "::ffff:169.254.169.254", False),
        ("http://example.invalid/a.m3u8", "fe80::1%eth0", False),
        ("http://example.invalid/a.m3u8", "100.100.100.200", False),
        ("http://example.invalid/a.m3u8", "127.0.0.1", False),
        ("http://127.0.0.1/a.m3u8", "127.0.0.1", True),
        ("http://127.0.0.1/a.m3u8", CLOUD, False),
        ("http://example.invalid/a.m3u8", "192.168.1.20", True),
        ("http://example.invalid/a.m3u8", "10.0.0.7", True),
    ],
)
def test_what_a_name_stands_for_decides(
    monkeypatch: pytest.MonkeyPatch, url: str, address: str, allowed: bool
) -> None:
    """A name of a server that points somewhere else by the time it is connected to."""
    gate, look_up = Gate(url), socket.getaddrinfo

    def resolved(host: str, port: object, **more: object) -> list:
        if host == "elsewhere.invalid":
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))]
        return look_up(host, port, **more)  # type: ignore[arg-type]

    class Connected(Exception):
        """It came so far."""

    def connect(*unused: object) -> socket.socket:
        raise Connected

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket, "socket", connect)
    with pytest.raises(Connected if allowed else Denied):
        gate.connect("elsewhere.invalid", 80)


def test_what_the_user_has_named_is_opened_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that is plugged in directly has a link-local address."""
    gate = Gate(f"http://{CLOUD}:8000/stream.mjpg")

    class Connected(Exception):
        """It came so far."""

    def connect(*unused: object) -> socket.socket:
        raise Connected

    monkeypatch.setattr(socket, "socket", connect)
    with pytest.raises(Connected):
        gate.connect(CLOUD, 8000)
