"""Sends moving pictures with the time in each, as a camera would: H.264 in MPEG-TS over TCP.

It is a child process, so that encoding does not delay the session that is measured.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from fractions import Fraction
from io import RawIOBase
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from ..graphs.spec import Size
from ..runtime.processes import messages
from .clock_code import LINES, stamp

_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency"}
_BITS_PER_PIXEL = 0.4  # generous, as the stamp must survive


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends a ``port`` message, then pictures to each client that connects to it."""
    messages.end_with_parent(inbox)
    listener = socket.create_server(("127.0.0.1", 0))
    messages.send(outbox, {"kind": "port", "port": listener.getsockname()[1]})
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, contextlib.suppress(OSError):  # the client has left: serve the next one
            _send(_Pipe(client), tuple(arguments["size"]), arguments["fps"])


class _Pipe:
    """A socket as a file that libav can write to."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def write(self, data: bytes) -> int:
        self._client.sendall(data)
        return len(data)


def _send(pipe: Any, size: Size, fps: int) -> None:
    height, width = size
    with av.open(pipe, "w", format="mpegts", options={"flush_packets": "1"}) as output:
        stream: Any = output.add_stream("libx264", rate=fps, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size, stream.bit_rate = fps, int(_BITS_PER_PIXEL * height * width * fps)
        for index, picture in enumerate(_pictures(size, fps)):
            frame: Any = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            output.mux(stream.encode(frame))


def _pictures(size: Size, fps: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields (3h/2, w) I420, each stamped when it is due; a late one delays all that follow."""
    height, width = size
    due, index = time.monotonic(), 0
    ramp = (np.add.outer(np.arange(height), np.arange(width)) % 128 + 60).astype(np.uint8)
    grey = np.full((height // 2, width), 128, np.uint8)  # both colour planes
    code = bytearray(LINES * width)
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / fps, time.monotonic())
        picture = np.concatenate([np.roll(ramp, 2 * index, axis=1), grey])
        stamp(code, width, time.time_ns() // 1000)
        picture[:LINES] = np.frombuffer(code, np.uint8).reshape(LINES, width)
        yield picture
        index += 1
