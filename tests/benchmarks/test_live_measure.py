"""`bench live`: a known delay is in the latency, drops are counted, failures are one line."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.benchmarks import clock_code
from streamdiffvsr.benchmarks.live import (
    Taken,
    Taking,
    ages_ms,
    clock_running,
    measure_live,
    parse_clock,
    take,
)
from streamdiffvsr.benchmarks.report.files import result_schema, violation
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.engine_pool import EnginePool
from streamdiffvsr.tests.live.stand_ins import PassThrough, ladder
from streamdiffvsr.tests.live.streams import at_pace, tcp, transport_stream

SIZE = (90, 160)


def late_by(seconds: float, port: int) -> Callable[[socket.socket], None]:
    """Hand on what a server sends, so much later: a network between camera and decoder."""

    def serve(client: socket.socket) -> None:
        waiting: queue.Queue[tuple[float, bytes]] = queue.Queue()

        def read() -> None:
            while data := server.recv(65536):
                waiting.put((time.monotonic() + seconds, data))
            waiting.put((0.0, b""))

        with socket.create_connection(("127.0.0.1", port)) as server:
            threading.Thread(target=read, daemon=True).start()
            while (pair := waiting.get())[1]:
                time.sleep(max(0.0, pair[0] - time.monotonic()))
                client.sendall(pair[1])

    return serve


def with_engine(cost_s: float, fps: int, seconds: float, network_s: float = 0.0) -> dict[str, Any]:
    """Measures the clock with an engine that takes `cost_s` per frame."""
    shelf = EnginePool(lambda size, at: pytest.fail("engines are there"), tell=lambda line: None)
    shelf.put(ladder(full=PassThrough(cost_s=lambda: cost_s, size=SIZE)))
    with (
        clock_running(SIZE, fps) as url,
        tcp(late_by(network_s, int(url.rpartition(":")[2]))) as network,
    ):
        taking = Taking(seconds, stamped=True)
        found, stopped = take(parse_source(f"tcp://127.0.0.1:{network.port}"), shelf, taking)
    assert (stopped, taking.unread) == ("", 0)
    return found


@pytest.mark.slow
def test_a_delay_in_the_path_is_in_the_latency() -> None:
    """An engine that sleeps for a tenth of a second, between frames that are a fifth apart."""
    quick, slow = (with_engine(cost_s, fps=5, seconds=4) for cost_s in (0.0, 0.1))
    added = slow["latency_ms"]["p50"] - quick["latency_ms"]["p50"]
    assert 80 < added < 160
    assert 100 <= slow["stages"]["upscale"]["p50"] < 130
    assert slow["dropped"] == quick["dropped"] == 0
    # A frame is looked at until the next one comes: on average for half of the time between two.
    older = quick["age_ms"]["p50"] - quick["latency_ms"]["p50"]
    assert 60 < older < 160


@pytest.mark.slow
def test_the_time_before_the_decoder_counts_too() -> None:
    """The stamp was written by the camera, before encoder and network."""
    near, far = (with_engine(0.0, fps=10, seconds=4, network_s=late) for late in (0.0, 0.3))
    assert far["latency_ms"]["p50"] - near["latency_ms"]["p50"] == pytest.approx(300, abs=60)


@pytest.mark.slow
def test_what_an_engine_is_too_slow_for_is_counted_as_dropped() -> None:
    found = with_engine(cost_s=0.25, fps=20, seconds=4)
    assert found["fps_out"] < 4.5 and found["fps_in"] > 10
    made = found["fps_out"] * found["seconds"]
    came = found["fps_in"] * found["seconds"]
    assert found["dropped"] == pytest.approx(came - made, abs=12)
    assert found["latency_ms"]["n"] > 8


@pytest.mark.slow
def test_the_clock_passed_through_is_what_the_schema_asks_for() -> None:
    told: list[str] = []
    live = measure_live("clock=160x90@15", engines=None, seconds=2, on_stop=told.append)
    assert not told
    parts = {"$defs": result_schema()["$defs"]}
    assert violation(live, {"$ref": "#/$defs/live"} | parts) is None
    assert (live["source"], live["stamped"], live["size"]) == ("clock=160x90@15", True, "160x90")
    assert live["engine"] == "bicubic" and live["stages"]["bicubic"]["n"] == live["latency_ms"]["n"]
    assert 1.5 < live["seconds"] < 5 and 5 < live["fps_out"] < 16


def test_a_source_without_a_stamp_is_measured_from_the_decoder_on() -> None:
    live = measure_live("testsrc=96x64@15", engines=None, seconds=1.5)
    assert live["stamped"] is False and live["latency_ms"]["n"] > 5
    assert live["latency_ms"]["p50"] > live["stages"]["bicubic"]["p50"]


@pytest.mark.slow
def test_what_was_measured_before_a_source_ends_is_kept() -> None:
    stream = transport_stream(150, fps=15)  # a busy machine warms up for seconds of it
    told: list[str] = []
    with tcp(at_pace(stream, 10.0)) as camera:
        address = f"tcp://127.0.0.1:{camera.port}"
        live = measure_live(address, engines=None, seconds=60, on_stop=told.append)
    assert live["latency_ms"]["n"] >= 5 and live["seconds"] < 30
    assert len(told) == 1 and told[0].startswith("the source has ended")


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield int(probe.getsockname()[1])  # bound, and nobody listens


def test_a_source_that_does_not_open_is_one_line(closed_port: int) -> None:
    with pytest.raises(StreamDiffVSRError, match="refused") as raised:
        measure_live(f"tcp://127.0.0.1:{closed_port}", engines=None, seconds=5)
    assert len(str(raised.value).splitlines()) == 1


def test_engines_of_another_size_are_one_line(parity_engines: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="those given are made for 64x48"):
        measure_live("testsrc=96x64@15", engines=parity_engines, seconds=5)


@pytest.mark.parametrize("source", ["clock=big", "clock=64x48", "clock=161x90", "clock=160x90@0"])
def test_a_clock_that_cannot_be_is_one_line(source: str) -> None:
    with pytest.raises(UsageError):
        parse_clock(source, SIZE)


def test_the_clock_has_the_size_of_the_engines_unless_it_is_written() -> None:
    assert parse_clock("clock", (180, 320)) == ((180, 320), 30)
    assert parse_clock("clock=640x360@25", SIZE) == ((360, 640), 25)


def test_the_age_of_what_is_seen_grows_until_the_next_frame() -> None:
    taken = [Taken(at=10.0 + n, made=9.9 + n) for n in range(4)]
    ages = np.array(ages_ms(taken))
    assert ages.min() == pytest.approx(100, abs=1) and ages.max() == pytest.approx(1100, abs=6)
    assert ages.mean() == pytest.approx(600, abs=5)


def test_a_stamp_is_read_back_and_damage_is_seen() -> None:
    plane = bytearray(160 * clock_code.LINES)
    clock_code.stamp(plane, 160, 123_456_789)
    grey = np.frombuffer(plane, np.uint8).reshape(clock_code.LINES, 160)
    image = grey.repeat(4, axis=0).repeat(4, axis=1)[:, :, None].repeat(3, axis=2)
    assert clock_code.read(image, scale=4) == 123_456_789
    image[:32, :160] = 128
    image[:32, 160:320] = 255 - image[:32, 160:320]
    assert clock_code.read(image, scale=4) is None


@pytest.mark.slow
def test_the_stamp_is_read_from_what_the_model_makes(tmp_path: Path) -> None:
    """Real engines: the time in the pixels survives coding and upscaling."""
    pytest.importorskip("torch", reason="engines are built with the export extra")
    engines = streamdiffvsr.build("tiny", size=SIZE, out=tmp_path / "engines")
    threads = threading.active_count()
    live = measure_live("clock", engines=engines, seconds=8)
    assert live["stamped"] and live["latency_ms"]["n"] >= 3
    assert live["latency_ms"]["p50"] > sum(stage["p50"] for stage in live["stages"].values()) / 2
    assert live["dropped"] > 0 and live["engine"].startswith("tiny 160x90 fp32, onnxruntime")
    assert threading.active_count() <= threads + 2
