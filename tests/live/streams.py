"""Made streams and servers on loopback, for what a real server does not do on demand.

Every frame of a stream carries its number in the place of the clock.
"""

from __future__ import annotations

import io
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction

import av
import numpy as np

from streamdiffvsr.benchmarks import clock_code

PACKET = 188  # bytes of a TS packet


def transport_stream(
    frames: int,
    *,
    size: tuple[int, int] = (176, 320),
    fps: int = 30,
    gop: int = 15,
    codec: str = "libx264",
    first: int = 0,
    pix_fmt: str = "yuv420p",
) -> bytes:
    """An MPEG-TS of numbered frames; ``first`` is the number, and the time, of the first."""
    held = io.BytesIO()
    height, width = size
    with av.open(held, "w", format="mpegts") as output:
        options = {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none"}
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.gop_size, stream.bit_rate = gop, 1_500_000
        stream.codec_context.max_b_frames = 0
        for number in range(first, first + frames):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            output.mux(stream.encode(frame.reformat(format=pix_fmt)))
        output.mux(stream.encode(None))
    return held.getvalue()


def picture(number: int, height: int, width: int) -> np.ndarray:
    """A moving texture with its number in the top lines."""
    y, x = np.mgrid[:height, :width]
    luma = (90 + 60 * np.sin((x + 4 * number) / 9) * np.cos((y + 2 * number) / 7)).astype(np.uint8)
    plane = bytearray(luma.tobytes())
    clock_code.stamp(plane, width, number)
    grey = np.frombuffer(plane, np.uint8).reshape(height, width)
    return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))


def without_packets(stream: bytes, share: float, seed: int = 1) -> bytes:
    """The stream without that share of its TS packets; the first of it stays whole."""
    rng, kept = random.Random(seed), bytearray()
    for start in range(0, len(stream), PACKET):
        if start < 60 * PACKET or rng.random() >= share:
            kept += stream[start : start + PACKET]
    return bytes(kept)


def with_flipped_bits(stream: bytes, every_bytes: int, seed: int = 1) -> bytes:
    """The stream with one wrong bit in about that many bytes; the first of it stays whole."""
    rng, damaged = random.Random(seed), bytearray(stream)
    position = 60 * PACKET
    while (position := position + rng.randrange(2 * every_bytes)) < len(damaged):
        damaged[position] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def playlist(*segments: str) -> str:
    """An HLS playlist that ends."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2"]
    for segment in segments:
        lines += ["#EXTINF:2.0,", segment]
    return "\n".join([*lines, "#EXT-X-ENDLIST", ""])


class Tcp:
    """A TCP server that gives each connection to ``serve``, on a thread of its own.

    Attributes:
        accepted: How many connections there were.
    """

    def __init__(self, serve: Callable[[socket.socket], None], port: int = 0) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self._serve(client)


@contextmanager
def tcp(serve: Callable[[socket.socket], None], port: int = 0) -> Iterator[Tcp]:
    """A running :class:`Tcp`."""
    server = Tcp(serve, port)
    try:
        yield server
    finally:
        server.close()


def silent(client: socket.socket) -> None:
    """Take all that is sent and answer nothing."""
    while client.recv(65536):
        pass


def at_pace(stream: bytes, seconds: float) -> Callable[[socket.socket], None]:
    """Send a stream evenly over that many seconds, then hang up."""

    def serve(client: socket.socket) -> None:
        step = 10 * PACKET
        due, pause = time.monotonic(), seconds * step / max(len(stream), 1)
        for start in range(0, len(stream), step):
            client.sendall(stream[start : start + step])
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))

    return serve
