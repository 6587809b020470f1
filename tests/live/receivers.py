"""Numbered frames for sinks, and real receivers that say which of them arrived."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from streamdiffvsr.benchmarks.clock_code import LINES, read, stamp
from streamdiffvsr.runtime.live.frame import LiveFrame, OutputFrame

FPS = 30
SIZE = (180, 320)
PATCH = (200, 40, 90)
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")


def output(index: int, size: tuple[int, int] = SIZE, seconds: float | None = None) -> OutputFrame:
    """An HR frame that carries its number and a patch of known colour."""
    height, width = size
    luma = bytearray(LINES * width)
    stamp(luma, width, index)
    image = np.full((height, width, 3), 60, np.uint8)
    image[:LINES] = np.frombuffer(luma, np.uint8).reshape(LINES, width, 1)
    image[LINES + 8 :, : width // 2] = PATCH
    image[LINES + 8 :, width // 2 + 4 * (index % 16) :][:, :4] = 220
    image.flags.writeable = False
    shown = index / FPS if seconds is None else seconds
    now = time.monotonic()
    return OutputFrame(image, LiveFrame(image[::4, ::4].copy(), shown, now, 0, index), "full", now)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when it holds; fail when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.005)


def feed(sink: Any, frames: Sequence[OutputFrame], seconds: float = 60.0) -> None:
    """Offer frames no faster than the sink takes them, so that none needs to be dropped."""
    for frame in frames:
        before = sink.status()
        sink.offer(frame)
        wait_until(lambda before=before: moved_on(before, sink.status()), seconds)


def moved_on(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Returns whether a frame was written or dropped between two states of a sink."""
    return after["written"] + after["dropped"] > before["written"] + before["dropped"]


@dataclass(frozen=True)
class Seen:
    """The content of a recording, as a decoder finds it."""

    numbers: list[int | None]  # of the frames; None where the code is damaged
    seconds: list[float]
    keys: list[bool]
    sizes: set[tuple[int, int]]
    colour: tuple[int, int, int, int]  # matrix, range, primaries, transfer of the last frame
    patch: tuple[int, ...]

    @property
    def monotone(self) -> bool:
        """Returns whether times strictly increase."""
        return rising(self.seconds)


def rising(seconds: Sequence[float]) -> bool:
    """Returns whether each is later than the one before."""
    return all(a < b for a, b in itertools.pairwise(seconds))


def look(path: Path | str) -> Seen:
    """Decode a recording, up to where it breaks off."""
    numbers, seconds, keys, sizes, colour, patch = [], [], [], set(), (0, 0, 0, 0), ()
    with av.open(str(path)) as container:
        for frame in decoded(container):
            rgb = frame.to_ndarray(format="rgb24")
            numbers.append(read(rgb))
            seconds.append(float(frame.pts * frame.time_base))
            keys.append(bool(frame.key_frame))
            sizes.add((frame.height, frame.width))
            tags = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
            colour = tuple(int(tag) for tag in tags)
            patch = tuple(rgb[40:-10, 20:100].mean(axis=(0, 1)).round().astype(int).tolist())
    return Seen(numbers, seconds, keys, sizes, colour, patch)


def decoded(container: Any) -> Iterator[Any]:
    """The frames of a container; a damaged end ends it."""
    try:
        yield from container.decode(video=0)
    except av.error.InvalidDataError:
        return


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ffmpeg_listener(
    url: str, port: int, output: Path, *options: str, streams: str = "0:v"
) -> Iterator[Any]:
    """A real ffmpeg that waits for a sender and keeps what it gets, as it is, in a file."""
    command = ["ffmpeg", "-y", "-loglevel", "error", *options, "-i", url]
    with running(*command, "-map", streams, "-c", "copy", str(output)) as process:
        wait_until(lambda: port in ports_of(process.pid) or process.poll() is not None)
        assert process.poll() is None, "ffmpeg could not listen"
        yield process


@contextmanager
def running(*command: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended in the end."""
    process = subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, **more})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ports_of(pid: int) -> set[int]:
    """The local ports that a process has open."""
    process = psutil.Process(pid)
    ask = getattr(process, "net_connections", None) or process.connections
    return {connection.laddr.port for connection in ask(kind="inet") if connection.laddr}


class SilentServer:
    """Accepts connections and never reads from them."""

    def __init__(self) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.port = self._listening.getsockname()[1]
        self.accepted: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                self.accepted.append(self._listening.accept()[0])
        except OSError:
            return

    def close(self) -> None:
        for one in [*self.accepted, self._listening]:
            one.close()


def children() -> list[psutil.Process]:
    """The media processes of this one, and of theirs, that still run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "bootstrap" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue  # it has just ended
    return found
