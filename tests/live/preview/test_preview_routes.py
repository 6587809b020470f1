"""Tests what the preview serves next to its page, and how it opens and closes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
import time

import aiohttp
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.clients import (
    decoded,
    joined,
    noise,
    stuck_mjpeg,
    stuck_websocket,
)
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
    told.stuck_s, told.note = 12.0, "engine stuck for 12 s"
    assert get(opened.port, "/healthz")[:2] == (503, b"playing: engine stuck for 12 s\n")
    told.note = ""
    told.state, told.error = "waiting", "rtsp://me:hunter2@camera/: connection refused"
    status, body, _ = get(opened.port, "/healthz")
    assert (status, body) == (503, b"waiting: rtsp://***@camera/: connection refused\n")


def test_metrics_parse(shown: tuple[Preview, Told]) -> None:
    opened, told = shown
    told.name, told.stuck_s = "rtsp://me:hunter2@camera/", 12.5
    sound = {"sound_written": 40, "sound_dropped": 2}
    told.more["sinks"] = [opened.status(), {"state": "open", "written": 9, **sound}]
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
    assert samples["streamdiffvsr_sink_sound_written_total", "1"] == 40
    assert samples["streamdiffvsr_sink_sound_dropped_total", "1"] == 2
    assert samples["streamdiffvsr_stage_seconds_count", "flow"] == 5
    assert samples["streamdiffvsr_engine_stuck_seconds",] == 12.5


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
