"""Tests what a silent or refusing receiver costs the others, and how it is reported."""

import contextlib
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import Deadlines, EncodedSink, open_sink
from streamdiffvsr.tests.live.receivers import (
    SilentServer,
    children,
    feed,
    free_port,
    look,
    output,
    wait_until,
)

SECRET = "hunter22"


ORPHAN = """
import sys
from streamdiffvsr.runtime.live.sinks import Deadlines
from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import EncodedSink
from streamdiffvsr.tests.live.receivers import output
sink = EncodedSink(parse_target(sys.argv[1]), deadlines=Deadlines(2, 2, 2))
sink.offer(output(0))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def told():
    return []


@pytest.fixture
def silent():
    server = SilentServer()
    yield server
    server.close()


def noise(index: int) -> object:
    """A frame that cannot be coded in few bytes."""
    frame = output(index, (360, 640))
    image = np.random.default_rng(index).integers(0, 256, frame.image.shape, np.uint8)
    return type(frame)(image, frame.source, frame.rung, frame.finished)


def test_a_silent_receiver_costs_neither_the_session_nor_another_sink(tmp_path, silent, told):
    url = f"tcp://127.0.0.1:{silent.port}?send_buffer_size=4096"
    stuck = EncodedSink(parse_target(url), tell=told.append, deadlines=Deadlines(20, 1, 1))
    other = open_sink(str(tmp_path / "other.ts"))
    frames = [noise(index) for index in range(8)]
    took, blocked = [], 0.0
    feed(other, frames[:1])
    for index in range(1, 2000):
        frame = type(frames[0])(frames[index % 8].image, output(index).source, "full", 0.0)
        started = time.perf_counter()
        stuck.offer(frame)
        took.append(time.perf_counter() - started)
        before = time.monotonic()
        feed(other, [frame])
        blocked = max(blocked, time.monotonic() - before)
        if told:
            break
    assert "no answer within 1 s" in told[0]
    assert sorted(took)[int(0.99 * len(took))] < 0.005
    assert blocked < 0.9  # less than the silence that the stuck one waits for
    other.close(10)
    assert look(tmp_path / "other.ts").numbers  # it can be decoded
    assert (other.status()["dropped"], other.status()["written"]) == (0, len(took) + 1)
    stuck.close(2)


@pytest.mark.parametrize(
    "scheme", ["tcp", *(pytest.param(s, marks=pytest.mark.slow) for s in ("rtsp", "rtmp"))]
)
def test_a_sink_at_a_silent_receiver_ends_within_the_deadline(silent, scheme):
    sink = open_sink(f"{scheme}://127.0.0.1:{silent.port}/a/b?send_buffer_size=4096")
    wait_until(lambda: sink.offer(noise(0)) or silent.accepted)  # type: ignore[func-returns-value]
    for index in range(60):
        sink.offer(noise(index))
        time.sleep(0.01)
    started = time.monotonic()
    sink.close(1.5)
    assert time.monotonic() - started < 1.7
    assert children() == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_an_encoder_stuck_in_libav_ends_when_its_parent_is_gone(silent):
    url = f"rtmp://127.0.0.1:{silent.port}/a/{SECRET}"
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    wait_until(lambda: silent.accepted)
    stuck = psutil.Process(parent.pid).children(recursive=True)
    assert len(stuck) == 1
    assert SECRET not in " ".join(stuck[0].cmdline())
    parent.kill()
    parent.communicate()
    _, left = psutil.wait_procs(stuck, timeout=20)
    assert left == []


class RefusingServer:
    """Answers every RTSP request by 401."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while request := connection.recv(4096).decode():
                number = request.partition("CSeq: ")[2].split("\r\n")[0]
                realm = 'WWW-Authenticate: Basic realm="x"'
                answer = f"RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\n{realm}\r\n\r\n"
                connection.sendall(answer.encode())

    def close(self) -> None:
        self._server.close()


def test_a_refusal_is_not_hammered_and_shows_no_credentials(told):
    server = RefusingServer()
    sink = open_sink(f"rtsp://user:{SECRET}@127.0.0.1:{server.port}/x", tell=told.append)
    sink.offer(output(0))
    wait_until(lambda: told)
    assert "401" in told[0]
    assert "trying again in 6" in told[0]  # a minute
    sink.close(2)
    server.close()
    assert SECRET not in repr((told, sink.status(), sink.name))


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://user:{}@127.0.0.1:{}/x",
        "rtmp://127.0.0.1:{1}/app/{0}",
        "rtmp://user:{}@127.0.0.1:{}/app/key",
        "tcp://127.0.0.1:{1}?token={0}",
        "rtsps://user:{}@127.0.0.1:{}/x",
    ],
)
def test_credentials_are_in_no_message(told, url):
    sink = open_sink(url.format(SECRET, free_port()), tell=told.append)
    sink.offer(output(0))
    wait_until(lambda: sink.status()["state"] == "retrying" and told)
    command_lines = [part for child in children() for part in child.cmdline()]
    sink.close(2)
    shown = repr((told, sink.status(), sink.name, command_lines, sink._target))
    assert SECRET not in shown
    assert "***" in told[0]
    assert len(told[0].splitlines()) == 1
