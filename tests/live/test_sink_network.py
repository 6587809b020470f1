"""Tests what real receivers get, also when they go away and come back."""

import contextlib
import os
import socket
import subprocess
import threading
import time

import psutil
import pytest

from streamdiffvsr.runtime.live.sink_targets import parse_target
from streamdiffvsr.runtime.live.sinks import EncodedSink, open_sink
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.live.receivers import (
    FPS,
    PATCH,
    Seen,
    children,
    feed,
    ffmpeg_listener,
    free_port,
    look,
    needs_ffmpeg,
    output,
    rising,
    wait_until,
)

BT601 = (6, 1, 6, 6)


RECEIVERS = {
    "rtsp": ("rtsp://127.0.0.1:{}/live", "rtsp://127.0.0.1:{}/live", ["-rtsp_flags", "listen"]),
    "rtmp": ("rtmp://127.0.0.1:{}/app/k", "rtmp://127.0.0.1:{}/app/k", ["-listen", "1"]),
    "tcp": ("tcp://127.0.0.1:{}", "tcp://127.0.0.1:{}?listen=1", []),
    "udp": ("udp://127.0.0.1:{}", "udp://127.0.0.1:{}?timeout=1500000", []),
}


@pytest.fixture
def told():
    return []


def addresses(scheme: str) -> tuple[str, str, int, list[str]]:
    sender, listener, options = RECEIVERS[scheme]
    port = free_port(socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM)
    return sender.format(port), listener.format(port), port, options


@needs_ffmpeg
@pytest.mark.parametrize(
    "scheme", ["rtsp", *(pytest.param(s, marks=pytest.mark.slow) for s in RECEIVERS if s != "rtsp")]
)
def test_a_real_receiver_gets_every_frame(tmp_path, scheme):
    url, listen_at, port, options = addresses(scheme)
    with ffmpeg_listener(listen_at, port, tmp_path / "got.mkv", *options) as receiver:
        sink = open_sink(url)
        feed(sink, [output(index) for index in range(90)])
        sink.close(10)
        with contextlib.suppress(subprocess.TimeoutExpired):
            receiver.wait(10)
    seen = look(tmp_path / "got.mkv")
    assert seen.numbers == list(range(90))
    # ffmpeg's RTSP listener has no time for the first packet, whoever sends it.
    times = seen.seconds[scheme == "rtsp" :]
    assert rising(times)
    assert times[-1] - times[0] == pytest.approx((len(times) - 1) / FPS, abs=0.002)
    assert seen.keys[0]
    assert seen.colour == BT601
    assert seen.patch == pytest.approx(PATCH, abs=6)
    assert (sink.status()["state"], sink.status()["error"]) == ("closed", "")


@needs_ffmpeg
@pytest.mark.parametrize("scheme", ["rtsp", pytest.param("tcp", marks=pytest.mark.slow)])
def test_a_receiver_that_comes_back_is_found_and_gets_a_key_frame_first(tmp_path, told, scheme):
    url, listen_at, port, options = addresses(scheme)
    sink = EncodedSink(parse_target(url), tell=told.append, backoff=Backoff(0.2, 0.5))
    index = 0

    def feed_until(done) -> None:
        nonlocal index
        until = time.monotonic() + 60
        while not done():
            feed(sink, [output(index)])
            index += 1
            assert time.monotonic() < until

    with ffmpeg_listener(listen_at, port, tmp_path / "first.mkv", *options) as receiver:
        feed_until(lambda: sink.status()["written"] >= 40)
        receiver.kill()
        feed_until(lambda: sink.status()["state"] == "retrying")
    lost_at = index
    with ffmpeg_listener(listen_at, port, tmp_path / "second.mkv", *options) as receiver:
        feed_until(lambda: sink.status()["state"] == "open")
        back = sink.status()["written"]
        feed_until(lambda: sink.status()["written"] >= back + 60)
        sink.close(10)
        receiver.wait(10)
    seen = look(tmp_path / "second.mkv")
    assert seen.keys[0]
    assert seen.numbers[0] >= lost_at - 2
    assert seen.numbers == list(range(seen.numbers[0], index))
    assert rising(seen.seconds[scheme == "rtsp" :])
    assert sink.status()["reopened"] >= 1
    assert told[0].startswith(f"could not send to '{url}': ")
    assert told[-1] == f"{url}: open again"


def test_a_receiver_that_is_not_there_is_tried_again(told):
    sink = open_sink(f"tcp://127.0.0.1:{free_port()}", tell=told.append)
    sink.offer(output(0))
    wait_until(lambda: sink.status()["state"] == "retrying")
    assert "Connection refused" in told[0]
    assert "trying again in 1." in told[0]
    sink.close(2)
    assert sink.status()["state"] == "closed"


def test_a_sink_that_listens_waits_for_its_receiver(tmp_path, told):
    port = free_port()
    sink = open_sink(f"tcp://127.0.0.1:{port}?listen=1", tell=told.append)
    sink.offer(output(0))
    wait_until(lambda: any(port in listening_ports(child) for child in children()))
    assert sink.status()["state"] == "waiting"
    got = tmp_path / "got.ts"

    def receive() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection, got.open("wb") as file:
            while data := connection.recv(1 << 16):
                file.write(data)

    receiver = threading.Thread(target=receive)
    receiver.start()
    wait_until(lambda: sink.status()["written"] == 1)
    feed(sink, [output(index) for index in range(1, 30)])
    sink.close(10)
    receiver.join(10)
    assert look(got).numbers == list(range(30))
    assert told == []


def listening_ports(child: psutil.Process) -> set[int]:
    from streamdiffvsr.tests.live.receivers import ports_of

    try:
        return ports_of(child.pid)
    except psutil.Error:
        return set()


@pytest.mark.parametrize("cause", ["crash", "size"])
def test_a_crash_and_another_size_open_it_again_with_a_key_frame(tmp_path, told, cause):
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[bytes] = []

    def receive() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                data = b""
                while chunk := connection.recv(1 << 16):
                    data += chunk
                kept.append(data)

    threading.Thread(target=receive, daemon=True).start()
    url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    sink = EncodedSink(parse_target(url), tell=told.append, backoff=Backoff(0.1, 0.1))
    feed(sink, [output(index) for index in range(10)])
    size = (180, 320) if cause == "crash" else (360, 480)
    if cause == "crash":
        children()[0].kill()
    feed(sink, [output(index, size) for index in range(10, 20)])
    sink.close(10)
    wait_until(lambda: len(kept) == 2)
    server.close()
    (tmp_path / "second.ts").write_bytes(kept[1])
    seen = look(tmp_path / "second.ts")
    assert seen.keys[0]
    assert (seen.numbers[-1], seen.sizes) == (19, {size})
    assert seen.seconds[-1] - look_bytes(tmp_path, kept[0]).seconds[0] == pytest.approx(19 / FPS)
    assert len(told) == (2 if cause == "crash" else 0)


def look_bytes(tmp_path, data: bytes) -> Seen:
    (tmp_path / "first.ts").write_bytes(data)
    return look(tmp_path / "first.ts")


@pytest.mark.skipif(os.name != "posix", reason="counts descriptors")
def test_opening_again_and_again_leaks_nothing():
    sink = EncodedSink(parse_target(f"tcp://127.0.0.1:{free_port()}"), backoff=Backoff(0.01, 0.01))
    me = psutil.Process()

    def fail(times: int) -> tuple[int, int]:
        feed(sink, [output(index) for index in range(times)])
        wait_until(lambda: not children())
        return me.num_fds(), threading.active_count()

    def no_more_than_first() -> bool:
        now = me.num_fds(), threading.active_count()
        return all(later <= before for later, before in zip(now, first, strict=True))

    first = fail(2)
    fail(5)
    wait_until(no_more_than_first)  # the threads of a child end a moment behind it
    sink.close(2)
