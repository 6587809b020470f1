"""A WHIP server by aiortc, started as a process: it says what of each stream has arrived.

``python whip_server.py PORT ANSWER``: ANSWER is "yes", a status such as 401, or "deaf" for an
answer that names a port at which no one listens. ``GET /seen`` gives a list of streams.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

from aiohttp import web
from aiortc import RTCPeerConnection, RTCSessionDescription

from streamdiffvsr.benchmarks.clock_code import read

_DEAD_PORT = 9


class Server:
    """Accepts streams, and keeps the numbers of their frames."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._streams: list[dict[str, Any]] = []
        self._peers: list[RTCPeerConnection] = []

    async def offer(self, request: web.Request) -> web.Response:
        """Answers an offer."""
        if self._answer.isdigit():
            return web.Response(status=int(self._answer))
        peer = RTCPeerConnection()
        stream = {
            "numbers": [],
            "seconds": [],
            "sounds": 0,
            "ended": False,
            "authorization": request.headers.get("Authorization", ""),
        }
        self._streams.append(stream)
        self._peers.append(peer)
        peer.on("track", lambda track: asyncio.ensure_future(keep(track, stream)))
        await peer.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        text = peer.localDescription.sdp
        if self._answer == "deaf":
            text = re.sub(r"(a=candidate:.* )\d+( typ host)", rf"\g<1>{_DEAD_PORT}\2", text)
        return web.Response(
            status=201,
            text=text,
            content_type="application/sdp",
            headers={"Location": f"session/{len(self._peers) - 1}"},
        )

    async def end(self, request: web.Request) -> web.Response:
        """Ends a stream."""
        number = int(request.match_info["number"])
        self._streams[number]["ended"] = True
        await self._peers[number].close()
        return web.Response()

    async def seen(self, request: web.Request) -> web.Response:
        """Returns what has arrived."""
        return web.json_response(self._streams)


async def keep(track: Any, stream: dict[str, Any]) -> None:
    """Notes each frame of a track until it ends."""
    while True:
        try:
            frame = await track.recv()
        except Exception:  # aiortc's MediaStreamError: the track has ended
            return
        if track.kind == "audio":
            stream["sounds"] += frame.samples
        else:
            stream["numbers"].append(read(frame.to_ndarray(format="rgb24")))
            stream["seconds"].append(float(frame.pts * frame.time_base))


def main() -> None:
    """Serves until it is ended."""
    server = Server(sys.argv[2])
    app = web.Application()
    app.router.add_post("/live/whip", server.offer)
    app.router.add_delete("/live/session/{number}", server.end)
    app.router.add_get("/seen", server.seen)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
