"""A preview with a session before it that makes frames of known pixels, for tests."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamdiffvsr.runtime.live.frame import LiveFrame, OutputFrame
from streamdiffvsr.runtime.live.preview.preview import Preview

SIZE = (54, 96)  # of LR
STAGES = {"flow": 12.1, "denoise": 20.4}


def hr(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(4h, 4w, 3) uint8: a broad gradient, and a bright square that moves on with the index."""
    height, width = 4 * size[0], 4 * size[1]
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (columns * 200 // width, rows * 200 // height, (rows + columns) * 160 // height)
    image = np.stack(channels, axis=-1).clip(0, 220).astype(np.uint8)
    left = (16 * index) % (width - 64)
    image[height // 3 : height // 3 + 64, left : left + 64] = (240, 200, 40)
    return image


def lr(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The same at a quarter of the size."""
    height, width = size
    mean = hr(index, size).reshape(height, 4, width, 4, 3).mean(axis=(1, 3))
    return mean.round().astype(np.uint8)


def output(index: int, size: tuple[int, int] = SIZE, *, age_s: float = 0.04) -> OutputFrame:
    """The output frame of that index, captured `age_s` ago."""
    now = time.monotonic()
    source = LiveFrame(lr(index, size), index / 15, now - age_s, 0, index)
    return OutputFrame(hr(index, size), source, "full", now, STAGES)


@dataclass
class Told:
    """The status of a session that a test can change."""

    state: str = "playing"
    error: str = ""
    name: str = "rtsp://camera.example/street"
    note: str = ""
    stuck_s: float = 0.0
    offered: int = 0
    p50: float = 41.0
    preview: Preview | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> dict[str, Any]:
        source = {
            "name": self.name,
            "state": self.state,
            "received": 2 * self.offered,
            "dropped": self.offered,
            "damaged": 0,
            "reconnects": 1,
            "size": "96x54",
            "codec": "h264",
            "fps": 30.0,
            "error": self.error,
            "retry_in_s": 2.0,
        }
        return {
            "state": self.state,
            "uptime_s": 61.0,
            "source": source,
            "fps_in": 30.0,
            "fps_out": 15.0,
            "latency_ms": {"p50": self.p50, "p95": 55.0},
            "stage_ms": STAGES,
            "dropped": self.offered,
            "resets": {"cut": 1, "reconnect": 2},
            "rung": "full",
            "rungs": ["full", "flow 1/2", "bicubic"],
            "passed_through": 3,
            "memory_mb": 512,
            "gpu": None,
            "engine": "tiny 96x54 fp32, onnxruntime on cpu",
            "stuck_s": self.stuck_s,
            "note": self.note,
            "sinks": [self.preview.status()] if self.preview else [],
            **self.more,
        }


@contextmanager
def preview(
    port: int = 0, host: str = "127.0.0.1", token: str | None = None, **options: Any
) -> Iterator[tuple[Preview, Told]]:
    """A preview and its session's status, closed at the end."""
    told = Told()
    opened = Preview(host, port, token=token, status=told, **options)
    told.preview = opened
    try:
        yield opened, told
    finally:
        opened.close(2.0)


@contextmanager
def playing(
    opened: Preview,
    told: Told,
    *,
    fps: float = 15,
    make: Callable[[int], OutputFrame] = output,
) -> Iterator[None]:
    """Offer frames while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(1 / fps):
            opened.offer(make(told.offered))
            told.offered += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_until(condition: Callable[[], Any], deadline_s: float = 20.0, what: str = "") -> Any:
    """Waits until the condition is true, and returns its value."""
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(what or "it did not come true in time")


def get(
    port: int,
    path: str,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Status, body and headers of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
