"""The preview as a sink: never slow, never busy for nobody, and gone in time."""

from __future__ import annotations

import asyncio
import functools
import io
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError

pytest.importorskip("aiohttp", reason="the preview needs the extra live")
pytest.importorskip("prometheus_client", reason="the preview needs the extra live")

import aiohttp
import av
import psutil
from prometheus_client.parser import text_string_to_metric_families

from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.runtime.live.preview import feed, routes, viewers
from streamdiffvsr.runtime.live.preview.sink import Preview
from streamdiffvsr.tests.live.preview.rig import (
    Told,
    get,
    hr,
    lr,
    output,
    playing,
    preview,
    wait_until,
)


@pytest.fixture
def shown() -> Iterator[tuple[Preview, Told]]:
    with preview() as pair:
        yield pair


@asynccontextmanager
async def joined(opened: Preview, watch: str = "h264") -> AsyncIterator:
    address = f"ws://127.0.0.1:{opened.port}/ws"
    origin = f"http://127.0.0.1:{opened.port}"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, origin=origin, max_msg_size=0) as connection,
    ):
        await connection.send_json({"watch": watch})
        yield connection


async def packets(connection: aiohttp.ClientWebSocketResponse) -> AsyncIterator:
    """(header, parts by picture) of each frame; says that it was shown."""
    async for message in connection:
        if message.type is not aiohttp.WSMsgType.BINARY:
            continue
        length = int.from_bytes(message.data[:4], "little")
        header, rest = json.loads(message.data[4 : 4 + length]), message.data[4 + length :]
        parts = {}
        for part in header["parts"]:
            parts[part["picture"]], rest = rest[: part["bytes"]], rest[part["bytes"] :]
        await connection.send_json({"shown": header["number"]})
        yield header, parts


def stuck_websocket(opened: Preview) -> socket.socket:
    """A viewer that asks for the picture and then never reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", opened.port))
    client.sendall(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n"
        f"Origin: http://127.0.0.1:{opened.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    text = b'{"watch":"h264"}'
    client.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)  # masked by zeros
    return client


def decoded(data: list[bytes], codec: str) -> list[np.ndarray]:
    context = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    frames = [frame for body in data for frame in context.decode(av.Packet(body))]
    frames += context.decode(None)
    matrix, range_ = ("ITU709", "MPEG") if codec == "h264" else ("ITU601", "JPEG")
    return [
        frame.reformat(format="rgb24", src_colorspace=matrix, src_color_range=range_).to_ndarray()
        for frame in frames
    ]


def error(image: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(image.astype(int) - wanted).mean())


@pytest.mark.parametrize(("watch", "codec"), [("h264", "h264"), ("jpeg", "mjpeg")])
def test_a_viewer_gets_both_pictures_of_each_frame(
    shown: tuple[Preview, Told], watch: str, codec: str
) -> None:
    async def view() -> list:
        async with joined(shown[0], watch) as connection:
            stream = packets(connection)
            return [await anext(stream) for _ in range(4)]

    with playing(*shown):
        got = asyncio.run(asyncio.wait_for(view(), 30))
    for picture, true in (("hr", hr), ("lr", lr)):
        images = decoded([parts[picture] for _, parts in got], codec)
        assert len(images) == len(got)
        for (header, _), image in zip(got, images, strict=True):
            wanted = true(header["index"])
            assert header[f"{picture}_size"] == [wanted.shape[1], wanted.shape[0]]
            assert error(image, wanted) < 3
            assert error(image, wanted) < error(image, true(header["index"] + 4))
    header = got[-1][0]
    assert header["format"] == watch
    assert 30 < header["finished_ms"] - header["captured_ms"] < 60
    assert header["encoded_ms"] > header["finished_ms"]
    wait_until(lambda: shown[0].status()["viewers"] == 0)


def test_sizes_change_and_odd_ones_are_padded(shown: tuple[Preview, Told]) -> None:
    sizes = [(54, 96), (27, 41), (5, 7), (54, 96)]

    async def view() -> list[dict]:
        async with joined(shown[0]) as connection:
            stream, headers = packets(connection), []
            for number, size in enumerate(sizes):
                shown[0].offer(output(number, size))
                header, parts = await anext(stream)
                while header["index"] != number:
                    header, parts = await anext(stream)
                headers.append(header)
                frame = decoded([parts["lr"]], "h264")[0]
                height, width = size
                assert error(frame[:height, :width], lr(number, size)) < 12  # of few, coarse pixels
            return headers

    for header, size in zip(asyncio.run(asyncio.wait_for(view(), 30)), sizes, strict=True):
        assert header["key"]
        for part in header["parts"]:
            scale = 4 if part["picture"] == "hr" else 1
            assert (part["height"], part["width"]) == (scale * size[0], scale * size[1])
            assert part["codec"].startswith("avc1.")


def test_what_is_too_large_for_browsers_is_shown_smaller(shown: tuple[Preview, Told]) -> None:
    frame = output(0)
    image, low = np.full((2160, 3840, 3), 90, np.uint8), np.full((540, 960, 3), 90, np.uint8)
    shown[0].offer(replace(frame, image=image, source=replace(frame.source, image=low)))

    async def view() -> dict:
        async with joined(shown[0]) as connection:
            return (await anext(packets(connection)))[0]

    header = asyncio.run(asyncio.wait_for(view(), 30))
    sizes = {part["picture"]: (part["width"], part["height"]) for part in header["parts"]}
    assert sizes == {"hr": (2560, 1440), "lr": (960, 540)}
    assert header["hr_size"] == [3840, 2160]
    assert header["again"]


def test_nothing_is_encoded_while_nobody_watches(
    shown: tuple[Preview, Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_LINGER_S", 0.2)
    opened, _ = shown
    for index in range(50):
        opened.offer(output(index, (8, 8)))
    assert not opened._feed.encoding
    assert opened.status()["written"] == 0
    assert opened.status()["dropped"] == 0
    assert opened.status()["state"] == "waiting"

    async def look() -> None:
        async with joined(opened) as connection:
            await anext(packets(connection))  # of a frame that was offered before it came
            assert opened._feed.encoding
            assert opened.status()["state"] == "open"
            await connection.send_json({"watch": ""})
            await asyncio.to_thread(wait_until, lambda: opened.status()["state"] == "waiting")

    asyncio.run(asyncio.wait_for(look(), 30))
    written = opened.status()["written"]
    with playing(*shown, fps=100):
        wait_until(lambda: not opened._feed.encoding)  # the process has ended too
    assert opened.status()["written"] <= written + 1


def test_who_never_reads_slows_nobody(shown: tuple[Preview, Told]) -> None:
    opened, _ = shown
    frames = [output(index, (180, 320)) for index in range(3)]  # 720p
    with stuck_websocket(opened), stuck_mjpeg(opened):
        wait_until(lambda: opened.status()["viewers"] == 2)
        took_ms, written, changed = [], 0, time.monotonic()
        begun = changed
        for frame in itertools.cycle(frames):
            start = time.perf_counter()
            opened.offer(frame)
            took_ms.append(1000 * (time.perf_counter() - start))
            time.sleep(0.01)
            now = time.monotonic()
            if opened.status()["written"] != written:
                written, changed = opened.status()["written"], now
            if now - changed > 1:  # nothing is encoded for them any more
                break
            assert now - begun < 20
        status = opened.status()
        assert status["viewers"] == 2
        assert status["dropped"] + written == pytest.approx(len(took_ms), abs=10)
        assert np.percentile(took_ms, 99) < 10
        assert np.percentile(took_ms, 50) < 1

        async def view() -> None:  # another one is served all the same
            async with joined(opened) as connection:
                await anext(packets(connection))

        with playing(*shown):
            asyncio.run(asyncio.wait_for(view(), 20))


def test_a_viewer_that_shows_nothing_gets_no_more(shown: tuple[Preview, Told]) -> None:
    """What the network has taken says nothing: only what was shown counts."""

    async def binary(connection: aiohttp.ClientWebSocketResponse) -> bytes:
        while True:
            message = await connection.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                return bytes(message.data)

    async def view() -> None:
        async with joined(shown[0]) as connection:
            last = await binary(connection)
            with pytest.raises(asyncio.TimeoutError):
                while True:
                    last = await asyncio.wait_for(binary(connection), 1)
            await asyncio.to_thread(wait_until, lambda: shown[0].status()["dropped"] > 10)
            length = int.from_bytes(last[:4], "little")
            await connection.send_json({"shown": json.loads(last[4 : 4 + length])["number"]})
            await asyncio.wait_for(binary(connection), 10)

    with playing(*shown, fps=30):
        asyncio.run(asyncio.wait_for(view(), 30))


def test_a_viewer_whose_decoder_failed_is_served_again(shown: tuple[Preview, Told]) -> None:
    """What it could not decode is never shown: asking for a key must not wait for that."""

    async def is_key(connection: aiohttp.ClientWebSocketResponse) -> bool:
        while True:
            message = await connection.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                length = int.from_bytes(message.data[:4], "little")
                return bool(json.loads(message.data[4 : 4 + length])["key"])

    async def view() -> None:
        async with joined(shown[0]) as connection:
            with pytest.raises(asyncio.TimeoutError):  # nothing is shown, so nothing more comes
                while True:
                    await asyncio.wait_for(is_key(connection), 1)
            await connection.send_json({"key": True})
            assert await asyncio.wait_for(is_key(connection), 10)

    with playing(*shown, fps=30):
        asyncio.run(asyncio.wait_for(view(), 30))


def test_who_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_STUCK_S", 0.3)
    monkeypatch.setattr(routes, "_HEARTBEAT_S", 0.6)
    monkeypatch.setattr(viewers, "BEHIND_S", 60)  # so that both kinds of buffer fill up
    with preview() as (opened, told), stuck_websocket(opened), stuck_mjpeg(opened):
        wait_until(lambda: opened.status()["viewers"] == 2)
        with playing(opened, told, fps=30, make=lambda index: noise()):
            wait_until(lambda: opened.status()["viewers"] == 0)
        wait_until(lambda: not connections(opened))


@functools.cache
def noise(index: int = 0) -> OutputFrame:
    """720p that no encoder makes small."""
    frame = output(index, (180, 320))
    frame.image[:] = np.random.default_rng(0).integers(0, 256, frame.image.shape, np.uint8)
    return frame


def connections(opened: Preview) -> list:
    """The server's ends of the connections that are open."""
    return [
        connection
        for connection in psutil.Process().net_connections("tcp")
        if connection.laddr.port == opened.port and connection.status == "ESTABLISHED"
    ]


def stuck_mjpeg(opened: Preview) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", opened.port))
    client.sendall(f"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n\r\n".encode())
    return client


def test_a_slow_viewer_starts_again_on_a_key(shown: tuple[Preview, Told]) -> None:
    async def view() -> None:
        async with joined(shown[0]) as connection:
            stream = packets(connection)
            first, _ = await anext(stream)
            await asyncio.sleep(0.8)  # a viewer that hangs: the one thing a sleep can stand for
            numbers = [first["number"]]
            async for header, _ in stream:
                if header["number"] != numbers[-1] + 1:
                    assert header["key"]
                    return
                numbers.append(header["number"])

    async def other() -> None:
        async with joined(shown[0]) as connection:
            async for _ in packets(connection):
                pass

    async def both() -> None:
        fast = asyncio.ensure_future(other())
        await view()
        fast.cancel()

    with playing(*shown, fps=30):
        asyncio.run(asyncio.wait_for(both(), 30))
    assert shown[0].status()["dropped"] > 0


def test_the_motion_jpeg_of_any_client(shown: tuple[Preview, Told]) -> None:
    async def pictures(which: str) -> np.ndarray:
        address = f"http://127.0.0.1:{shown[0].port}/stream.mjpg?which={which}"
        async with aiohttp.ClientSession() as session, session.get(address) as answer:
            reader = aiohttp.MultipartReader.from_response(answer)
            await (await reader.next()).read()
            body = await (await reader.next()).read()
            return decoded([bytes(body)], "mjpeg")[0]

    with playing(*shown):
        assert asyncio.run(asyncio.wait_for(pictures("hr"), 20)).shape == hr(0).shape
        assert asyncio.run(asyncio.wait_for(pictures("lr"), 20)).shape == lr(0).shape
        assert get(shown[0].port, "/stream.mjpg?which=../x")[0] == 400


def test_the_snapshot_is_the_newest_frame_bit_for_bit(shown: tuple[Preview, Told]) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow")
    opened, _ = shown
    assert get(opened.port, "/snapshot.png")[0] == 503
    noise = np.random.default_rng(0)
    for index in range(3):
        frame = output(index)
        frame.image[:] = noise.integers(0, 256, frame.image.shape, np.uint8)
        opened.offer(frame)
    status, body, headers = get(opened.port, "/snapshot.png")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert "streamdiffvsr-000002.png" in headers["Content-Disposition"]
    picture = pillow.open(io.BytesIO(body))
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), frame.image)


def test_health(shown: tuple[Preview, Told]) -> None:
    opened, told = shown
    assert get(opened.port, "/healthz")[:2] == (200, b"playing\n")
    told.state, told.error = "waiting", "rtsp://me:hunter2@camera/: connection refused"
    status, body, _ = get(opened.port, "/healthz")
    assert (status, body) == (503, b"waiting: rtsp://***@camera/: connection refused\n")


def test_metrics_parse(shown: tuple[Preview, Told]) -> None:
    opened, told = shown
    told.name = "rtsp://me:hunter2@camera/"
    for index in range(5):
        opened.offer(output(index, (8, 8), age_s=0.025))
    status, body, headers = get(opened.port, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert b"camera" not in body
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    latency = families["streamdiffvsr_latency_seconds"]
    assert latency.type == "histogram"
    counts = {s.labels.get("le"): s.value for s in latency.samples if s.name.endswith("_bucket")}
    assert (counts["0.02"], counts["0.03"], counts["+Inf"]) == (0, 5, 5)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["streamdiffvsr_up",] == 1
    assert samples["streamdiffvsr_resets_total", "reconnect"] == 2
    assert samples["streamdiffvsr_rung", "full"] == 1
    assert samples["streamdiffvsr_rung", "bicubic"] == 0
    assert samples["streamdiffvsr_latency_p95_milliseconds",] == 55
    assert samples["streamdiffvsr_sink_up", "0"] == 1
    assert samples["streamdiffvsr_stage_seconds_count", "flow"] == 5


def test_a_status_with_odd_numbers_is_still_json(shown: tuple[Preview, Told]) -> None:
    opened, told = shown
    told.offered, told.p50 = np.float32(3), float("nan")
    answer = json.loads(get(opened.port, "/status.json")[1])
    assert answer["dropped"] == 3
    assert answer["latency_ms"]["p50"] is None


def test_no_secret_leaves_by_the_status(shown: tuple[Preview, Told]) -> None:
    opened, told = shown
    told.name, told.error = "rtsp://me:hunter2@camera/", "http://x/?token=hunter2 is gone"

    async def first_status() -> str:
        async with joined(opened) as connection:
            message: str = (await connection.receive()).data
            return message

    seen = asyncio.run(asyncio.wait_for(first_status(), 10))
    seen += get(opened.port, "/status.json")[1].decode()
    assert "camera" in seen
    assert "hunter2" not in seen


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills the encoder by a POSIX signal")
def test_an_encoder_that_dies_is_started_again() -> None:
    lines: list[str] = []

    async def view(opened: Preview) -> None:
        async with joined(opened) as connection:
            stream = packets(connection)
            await anext(stream)
            os.kill(opened._feed._child.pid, signal.SIGKILL)
            async for _ in stream:
                if len(lines) == 2:
                    return

    with preview(tell=lines.append) as (opened, told), playing(opened, told):
        asyncio.run(asyncio.wait_for(view(opened), 30))
        assert opened.status()["reopened"] == 1
        assert opened.status()["error"] == ""
    assert "killed by signal 9" in lines[0]
    assert lines[1] == "the preview goes on"


def test_garbage_ends_only_the_connection_that_sent_it(shown: tuple[Preview, Told]) -> None:
    bad = ["", "[]", "5", "{", '{"watch":"png"}', '{"shown":1e999}', "[" * 4000, '{"ping":"x"}']

    async def send(text: str) -> aiohttp.WSMessage:
        async with joined(shown[0], "") as connection:
            await connection.send_str(text)
            async for _ in connection:
                pass
            assert connection.closed

    for text in bad:
        asyncio.run(asyncio.wait_for(send(text), 10))
    assert get(shown[0].port, "/healthz")[0] == 200


@pytest.mark.parametrize("watching", [False, True])
def test_it_closes_in_time_with_clients_connected(watching: bool) -> None:
    before = threading.active_count()
    with preview() as (opened, told), stuck_websocket(opened), stuck_mjpeg(opened):
        if watching:
            with playing(opened, told, fps=30, make=lambda index: noise()):
                wait_until(lambda: opened.status()["dropped"] > 20)
        start = time.monotonic()
        opened.close(2.0)
        assert time.monotonic() - start < 2.0
        assert opened.status()["state"] == "closed"
        opened.offer(output(0))  # still raises nothing
        opened.close(2.0)
        with pytest.raises(OSError):
            get(opened.port, "/")
    wait_until(lambda: threading.active_count() <= before)


def test_a_busy_port_is_one_line() -> None:
    with preview() as (opened, _), pytest.raises(StreamDiffVSRError) as raised:
        Preview("127.0.0.1", opened.port, token=None, status=Told())
    line = str(raised.value)
    assert line.startswith(f"could not open the preview at 127.0.0.1:{opened.port}: ")
    assert line.endswith("; choose another port or address")
    assert os.name == "nt" or "Address already in use" in line


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.7"])
def test_an_address_of_others_is_one_line(host: str) -> None:
    with pytest.raises(StreamDiffVSRError, match=f"could not open the preview at {host}:0: "):
        Preview(host, 0, token="t", status=Told())


@pytest.mark.parametrize("token", [None, ""])
def test_others_can_reach_it_only_with_a_token(token: str | None) -> None:
    with pytest.raises(UsageError, match="it has no token"):
        Preview("0.0.0.0", 0, token=token, status=Told())
