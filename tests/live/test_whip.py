"""Tests pushing by WHIP to an aiortc server on loopback, and what each refusal is called."""

import http.server
import os
import threading
import time
import urllib.error
import urllib.request

import pytest

from streamdiffvsr.runtime.live import whip_child
from streamdiffvsr.runtime.live.ending_child import Ended
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import EncodedSink, open_sink
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.runtime.live.whip_child import Endpoint
from streamdiffvsr.tests.live.receivers import (
    FPS,
    children,
    feed,
    free_port,
    output,
    rising,
    wait_until,
)
from streamdiffvsr.tests.live.relaying import relays, whip_server

TOKEN = "Zx9canary"
OFFER = b"v=0\r\n"


def pace(sink, numbers):
    """Feed frames no faster than their times: a receiver of WebRTC drops what comes in a burst."""
    for index in numbers:
        began = time.monotonic()
        feed(sink, [output(index)])
        time.sleep(max(0.0, 1 / FPS - (time.monotonic() - began)))


@pytest.mark.slow
@pytest.mark.parametrize("user", ["", f"{TOKEN}@", f"me:{TOKEN}@"])
def test_a_server_gets_the_frames_and_no_argument_has_the_address(user):
    told = []
    with whip_server() as server:
        sink = open_sink(f"whip://{user}{server.where}?key={TOKEN}", tell=told.append)
        pace(sink, range(60))
        seen = " ".join(" ".join(process.cmdline()) for process in relays())
        pace(sink, range(60, 90))
        sink.close(10)
        wait_until(lambda: server.seen()[0]["ended"])
        (stream,) = server.seen()
    assert "-f whip" in seen
    assert TOKEN not in seen and server.where not in seen
    given = {"": "", f"{TOKEN}@": f"Bearer {TOKEN}"}.get(user, "Basic bWU6Wng5Y2FuYXJ5")
    assert stream["authorization"] == given
    # A receiver hands out a picture when the next one begins.
    assert stream["numbers"][-1] in (88, 89)
    assert stream["numbers"] == list(range(stream["numbers"][0], stream["numbers"][-1] + 1))
    assert len(stream["numbers"]) >= 85
    assert rising(stream["seconds"])
    assert (told, sink.status()["error"]) == ([], "")
    assert relays() == []


@pytest.mark.slow
def test_a_server_that_comes_back_and_an_ffmpeg_that_is_killed():
    told, port, index = [], free_port(), 0
    sink = EncodedSink(
        parse_target(f"whip://127.0.0.1:{port}/live/whip"),
        tell=told.append,
        backoff=Backoff(0.2, 0.5),
    )

    def feed_until(done):
        nonlocal index
        until = time.monotonic() + 60
        while not done():
            pace(sink, [index])
            index += 1
            assert time.monotonic() < until, (sink.status(), told)

    with whip_server(port=port) as server:
        feed_until(lambda: server.seen() and len(server.seen()[0]["numbers"]) > 10)
        relays()[0].kill()
        feed_until(lambda: len(server.seen()) == 2 and len(server.seen()[1]["numbers"]) > 10)
        server.process.kill()
        feed_until(lambda: sink.status()["state"] == "retrying")
    with whip_server(port=port) as server:
        feed_until(lambda: server.seen() and len(server.seen()[0]["numbers"]) > 10)
        sink.close(10)
    assert any("killed by signal 9" in line for line in told)
    assert sink.status()["reopened"] >= 2
    wait_until(lambda: not relays() and not children())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("401", "its server does not accept the token, or wants one (401)"),
        ("404", "there is no such WHIP endpoint on that server (404)"),
        ("500", "its server answers 500"),
        ("deaf", "its server does not answer over UDP (ICE)"),
    ],
)
def test_why_a_server_refuses(answer, says):
    told = []
    with whip_server(answer) as server:
        sink = open_sink(f"whip://{TOKEN}@{server.where}", tell=told.append)
        sink.offer(output(0))
        wait_until(lambda: sink.status()["state"] == "retrying")
        sink.close(2)
    assert says in told[0]
    assert TOKEN not in "".join(told)


class Requests:
    """A server of HTTP that keeps what it is asked, and answers by ``answers`` in turn."""

    def __init__(self, *answers):
        self.asked, left = [], list(answers)
        keep = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                keep.append((self.command, self.path, self.headers.get("Authorization"), body))
                status, location = left.pop(0)
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_DELETE = do_POST

            def log_message(self, *unused):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve():
    servers = []

    def make(*answers):
        servers.append(Requests(*answers))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def ask(endpoint, method="POST", path=""):
    request = urllib.request.Request(endpoint.url + path, OFFER, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers.get("Location")
    except urllib.error.HTTPError as error:
        return error.code, None


def test_an_offer_and_its_end_are_passed_on_with_the_token(serve):
    server = serve((201, "session/7"), (200, ""))
    endpoint = Endpoint(f"http://127.0.0.1:{server.port}/a/whip?k=1", f"Bearer {TOKEN}")
    status, location = ask(endpoint)
    assert status == 201
    assert ask(endpoint, "DELETE", location.removeprefix(endpoint.url.rpartition("/")[2]) and "/s")
    bearer = f"Bearer {TOKEN}"
    assert server.asked[0] == ("POST", "/a/whip?k=1", bearer, OFFER)
    assert server.asked[1][:3] == ("DELETE", "/a/session/7", bearer)


def test_only_the_first_offer_is_passed_on(serve):
    server = serve((201, ""), (201, ""))
    endpoint = Endpoint(f"http://127.0.0.1:{server.port}/whip", f"Bearer {TOKEN}")
    other = endpoint.url
    endpoint.url = other.rpartition("/")[0] + "/guess"
    assert ask(endpoint)[0] == 403
    endpoint.url = other
    assert [ask(endpoint)[0], ask(endpoint)[0]] == [201, 403]
    assert len(server.asked) == 1


@pytest.mark.skipif(os.name != "posix", reason="users of POSIX")
def test_another_user_of_this_machine_is_refused(serve, monkeypatch):
    server = serve((201, ""))
    endpoint = Endpoint(f"http://127.0.0.1:{server.port}/whip", f"Bearer {TOKEN}")
    monkeypatch.setattr(whip_child.os, "geteuid", lambda: 12345)
    assert ask(endpoint)[0] == 403
    assert server.asked == []


def test_a_redirect_to_another_host_gets_no_token(serve, monkeypatch):
    second = serve((201, ""))
    first = serve((307, f"http://localhost:{second.port}/there"))
    endpoint = Endpoint(f"http://127.0.0.1:{first.port}/whip", f"Bearer {TOKEN}")
    assert ask(endpoint)[0] == 201
    assert second.asked == [("POST", "/there", None, OFFER)]


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest", "http://0.0.0.0:1/", "file:///etc/passwd"]
)
def test_a_redirect_leads_to_no_address_of_a_cloud(serve, location):
    server = serve((307, location))
    endpoint = Endpoint(f"http://127.0.0.1:{server.port}/whip", "")
    assert ask(endpoint)[0] == 502
    assert "may not lead to" in endpoint.failure.why


def test_a_server_that_redirects_for_ever_is_given_up(serve):
    server = serve(*[(307, "/whip")] * 9)
    endpoint = Endpoint(f"http://127.0.0.1:{server.port}/whip", "")
    assert ask(endpoint)[0] == 502
    assert "again and again" in endpoint.failure.why
    assert len(server.asked) <= 5


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1/", "the connection was refused"),
        ("http://no.such.host.invalid/", "there is no host of that name"),
        ("https://127.0.0.1:{}/", "it does not speak TLS at that port"),
    ],
)
def test_why_a_server_is_not_reached(serve, url, says):
    endpoint = Endpoint(url.format(serve((201, "")).port), "")
    ask(endpoint)
    assert isinstance(endpoint.failure, Ended)
    assert says in endpoint.failure.why
