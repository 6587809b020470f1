"""The preview as a sink: never slow, idle without viewers, and closed in time."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from streamdiffvsr.runtime.live.preview import preview as sink
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.clients import (
    decoded,
    error,
    joined,
    packets,
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
    monkeypatch.setattr(sink, "_LINGER_S", 0.2)
    opened, _ = shown
    for index in range(50):
        opened.offer(output(index, (8, 8)))
    assert opened._feed._child is None
    assert opened.status()["written"] == 0
    assert opened.status()["dropped"] == 0
    assert opened.status()["state"] == "waiting"

    async def look() -> None:
        async with joined(opened) as connection:
            await anext(packets(connection))  # of a frame that was offered before it came
            assert opened._feed._child is not None
            assert opened.status()["state"] == "open"
            await connection.send_json({"watch": ""})
            await asyncio.to_thread(wait_until, lambda: opened.status()["state"] == "waiting")

    asyncio.run(asyncio.wait_for(look(), 30))
    written = opened.status()["written"]
    with playing(*shown, fps=100):
        wait_until(lambda: opened._feed._child is None)  # the process has ended too
    assert opened.status()["written"] <= written + 1


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
