"""Viewers of the preview that are slow, stuck or broken: none costs anybody else anything."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import aiohttp
import numpy as np
import pytest

from streamdiffvsr.runtime.live.preview import server, viewers
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.clients import (
    connections,
    joined,
    noise,
    packets,
    stuck_mjpeg,
    stuck_websocket,
)
from streamdiffvsr.tests.live.preview.rig import (
    Told,
    output,
    playing,
    preview,
    wait_until,
)


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
    """Only frames that were shown count, not those that the network has taken."""

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
    """Frames that it could not decode are never shown: asking for a key must not wait for them."""

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
    monkeypatch.setattr(server, "_STUCK_S", 0.3)
    monkeypatch.setattr(server, "_HEARTBEAT_S", 0.6)
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
