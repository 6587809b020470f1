"""Viewers of the preview that tests need: good ones, and some that never read."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import av
import numpy as np
import psutil

from streamdiffvsr.runtime.live.frame import OutputFrame
from streamdiffvsr.runtime.live.preview.preview import Preview
from streamdiffvsr.tests.live.preview.rig import (
    output,
)


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


def stuck_mjpeg(opened: Preview) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", opened.port))
    client.sendall(f"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n\r\n".encode())
    return client


def connections(opened: Preview) -> list:
    """The server's ends of the connections that are open."""
    return [
        connection
        for connection in psutil.Process().net_connections("tcp")
        if connection.laddr.port == opened.port and connection.status == "ESTABLISHED"
    ]


@functools.cache
def noise(index: int = 0) -> OutputFrame:
    """720p that no encoder makes small."""
    frame = output(index, (180, 320))
    frame.image[:] = np.random.default_rng(0).integers(0, 256, frame.image.shape, np.uint8)
    return frame


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
