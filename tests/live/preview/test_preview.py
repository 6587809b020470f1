"""The preview as a sink: never slow, never busy for nobody, and gone in time."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="the preview needs the extra live")
pytest.importorskip("prometheus_client", reason="the preview needs the extra live")

import aiohttp

from streamdiffvsr.runtime.live.preview import feed, routes, viewers
from streamdiffvsr.runtime.live.preview.sink import Preview
from streamdiffvsr.tests.live.preview.clients import (
    connections,
    decoded,
    error,
    joined,
    noise,
    packets,
    stuck_mjpeg,
    stuck_websocket,
)
from streamdiffvsr.tests.live.preview.rig import (
    Told,
    hr,
    lr,
    output,
    playing,
    preview,
    wait_until,
)


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
