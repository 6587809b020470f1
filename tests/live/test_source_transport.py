"""RTSP servers that take one transport only, or redirect: what is followed, and what is said."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.gate_child import Bounds, Denied
from streamdiffvsr.runtime.live.sinks import open_sink
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.live.receivers import feed, free_port, output, wait_until
from streamdiffvsr.tests.live.rtsp import RtspServer, needs_rtsp_server
from streamdiffvsr.tests.live.streams import tcp, transport_stream
from streamdiffvsr.tests.live.watching import ended, watch

SMALL = {"size": "160x96", "fps": 15, "gop": 15}
NOBODY = 65534


@pytest.mark.slow
@needs_rtsp_server
def test_a_server_of_udp_only_plays_and_the_transport_is_kept_until_it_is_refused():
    with RtspServer(protocols="udp", **SMALL) as server, watch(server.url) as source:
        first = source.frame()
        assert source.told[-1].endswith("h264 over UDP, as its server refuses TCP")
        assert source.status()["transport"] == "udp"
        server.kill()
        server.start()
        second = source.frame(lambda frame: frame.epoch > first.epoch)
        assert source.told[-1].endswith("h264 over UDP")  # tried at once
        server.kill()
        server.options["protocols"] = "tcp"
        server.start()
        source.frame(lambda frame: frame.epoch > second.epoch)
        assert source.told[-1].endswith("h264 over TCP, as its server refuses UDP")
        assert source.status()["transport"] == "tcp"


@needs_rtsp_server
@pytest.mark.parametrize(("asked", "taken"), [("tcp", "udp"), ("udp", "tcp")])
def test_a_transport_that_is_asked_for_is_the_only_one_tried(asked, taken):
    with (
        RtspServer(protocols=taken, **SMALL) as server,
        watch(server.url, rtsp_transport=asked, backoff=Backoff()) as source,
    ):
        status = source.until(lambda status: status["state"] == "waiting")
        assert f"its server does not send over {asked.upper()} (461)" in status["error"]
        assert status["retry_in_s"] > 50 and "auto" in status["remedy"]


@pytest.mark.slow
@needs_rtsp_server
def test_a_transport_over_which_nothing_comes_is_changed():
    with (
        RtspServer(loss=1.0, **SMALL) as server,
        watch(server.url, open_timeout_s=1.5) as source,
    ):
        source.until(lambda status: status["attempts"] == 3)
        source.until(lambda status: len(source.told) >= 2)
    assert "answers, but no picture came over TCP within 1.5 s" in source.told[0]
    assert "answers, but no picture came over UDP within 1.5 s" in source.told[1]


@needs_rtsp_server
@pytest.mark.skipif(not shutil.which("cvlc"), reason="needs VLC (vlc-bin)")
def test_vlc_which_serves_over_udp_only_plays():
    with vlc() as url, watch(url) as source:
        assert source.frame().size == (96, 160)
        assert "over UDP, as its server refuses TCP" in source.told[-1]


@contextmanager
def vlc() -> Iterator[str]:
    """The address of a VLC that serves a clip; run as nobody, as it refuses to run as root."""
    port = free_port()
    url = f"rtsp://127.0.0.1:{port}/cam"
    command = ["cvlc", "-I", "dummy", "--loop", "clip.ts", "--sout-keep", "--sout"]
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if not os.getuid() else {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o777)
        (folder / "clip.ts").write_bytes(transport_stream(300, size=(96, 160)))
        (folder / "clip.ts").chmod(0o644)
        process = subprocess.Popen(
            [*command, f"#rtp{{sdp={url}}}"],
            cwd=folder,
            env={**os.environ, "HOME": made},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_nobody,
        )
        try:
            wait_until(lambda: accepts(port))
            yield url
        finally:
            process.kill()
            process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def redirecting(location: str) -> Callable[[socket.socket], None]:
    """A server that answers every request with another address."""

    def serve(client: socket.socket) -> None:
        while request := client.recv(65536).decode():
            (number,) = [line for line in request.split("\r\n") if line.startswith("CSeq")]
            answer = ["RTSP/1.0 302 Found", number, f"Location: {location}", "", ""]
            client.sendall("\r\n".join(answer).encode())

    return serve


@needs_rtsp_server
def test_a_redirect_to_an_allowed_host_is_followed_with_the_password_for_the_same_host_only():
    with (
        RtspServer(user="viewer", password="c4nary", **SMALL) as camera,
        tcp(redirecting(camera.url)) as first,
        tcp(redirecting(f"rtsp://127.0.0.1:{first.port}/x")) as second,
    ):
        for server in (first, second):
            with watch(f"rtsp://viewer:c4nary@127.0.0.1:{server.port}/a") as source:
                source.frame()
                assert "c4nary" not in str(source.told)
        with watch(f"rtsp://viewer:c4nary@localhost:{first.port}/a") as source:
            status = source.until(lambda status: status["state"] == "waiting")
            assert "it wants a user name and password (401)" in status["error"]


@pytest.mark.parametrize(
    "location", ["rtsp://169.254.169.254/latest", "rtsp://[fe80::1]/x", "rtsp://0.0.0.0:8080/x"]
)
def test_a_redirect_to_what_a_source_may_not_lead_to_is_refused_with_the_reason(location):
    with (
        tcp(redirecting(location)) as server,
        watch(f"rtsp://127.0.0.1:{server.port}/a") as source,
    ):
        error = ended(source)
    assert isinstance(error, StreamDiffVSRError)
    assert f"it redirects to {location}, which a source may not lead to by itself" in str(error)


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/x", "file:///etc/passwd", "nonsense"])
def test_a_redirect_to_another_protocol_is_not_followed(location):
    with (
        tcp(redirecting(location)) as server,
        watch(f"rtsp://127.0.0.1:{server.port}/a") as source,
    ):
        status = source.until(lambda status: status["error"])
    assert "a local file" not in status["error"]


def test_a_redirect_without_an_end_is_given_up():
    seen: list[str] = []

    def serve(client: socket.socket) -> None:
        redirecting(seen[0])(client)

    with tcp(serve) as server:
        seen.append(f"rtsp://127.0.0.1:{server.port}/a")
        with watch(seen[0]) as source:
            status = source.until(lambda status: status["error"])
    assert "it redirects again and again" in status["error"]


@pytest.mark.parametrize(
    ("named", "host", "allowed"),
    [
        ("203.0.113.5", "127.0.0.1", False),
        ("203.0.113.5", "169.254.7.7", False),
        ("203.0.113.5", "169.254.169.254", False),
        ("203.0.113.5", "192.168.1.20", True),
        ("203.0.113.5", "203.0.113.5", True),
        ("127.0.0.1", "127.0.0.2", True),
        ("127.0.0.1", "169.254.7.7", False),
        ("169.254.7.7", "169.254.7.8", True),  # cameras that are plugged in directly
        ("169.254.7.7", "169.254.169.254", False),
        ("169.254.7.7", "127.0.0.1", False),
    ],
)
def test_where_a_redirect_may_lead_follows_from_where_the_source_is(named, host, allowed):
    bounds = Bounds(f"rtsp://user:pass@{named}:554/live")
    if allowed:
        assert bounds.resolve(host, 554)[0][4][0] == host
        return
    with pytest.raises(Denied):
        bounds.resolve(host, 554)


def test_a_transport_is_one_of_three():
    assert parse_source("rtsp://h/x").transports == ("tcp", "udp")
    assert parse_source("rtsp://h/x", rtsp_transport="udp").transports == ("udp",)
    assert parse_source("rtsp://h/x", {"rtsp_transport": "http"}).transports == ("http",)
    assert parse_source("testsrc").transports == ()
    for refused in (lambda: parse_source("rtsp://h/x", rtsp_transport="UDP"), bad_sink):
        with pytest.raises(UsageError, match="unknown transport of RTSP"):
            refused()


def bad_sink() -> None:
    open_sink("null", rtsp_transport="sctp")


@needs_rtsp_server
def test_a_sink_whose_server_refuses_tcp_gets_every_frame_over_udp():
    told: list[str] = []
    with RtspServer(record=True, protocols="udp") as server:
        sink = open_sink(server.url, tell=told.append)
        for index in range(20):
            feed(sink, [output(index)])
            assert sink.status()["written"] == index + 1
            time.sleep(1 / 30)
        for _ in range(19):  # the depayloader ends a picture with the next
            server.received()
        sink.close(10)
    assert told == [f"{server.url}: sent over UDP, as its server refuses TCP"]


@needs_rtsp_server
def test_a_sink_keeps_to_a_transport_that_is_asked_for():
    told: list[str] = []
    with RtspServer(record=True, protocols="udp") as server:
        sink = open_sink(server.url, rtsp_transport="tcp", tell=told.append)
        feed(sink, [output(0)])
        wait_until(lambda: sink.status()["state"] == "retrying")
        sink.close(10)
    assert "461" in told[0]
