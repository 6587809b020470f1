"""The HTTP API of a service: adds, removes, pauses, resumes and restarts cameras.

Access is decided before it (see `Access`). Every request that changes something has to come as
JSON, which no form of another page can send. `openapi.json` describes all of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from ....errors import StreamDiffVSRError
from ....reading import parse_json
from ...media.redact import redact
from ..camera import RUNNING, Camera
from ..camera_file import Faults, read_camera
from ..guests import check_guest
from ..service import NameTaken, Service, UnknownCamera
from .connections import Handler
from .server import Refused, as_json, body_of, complaint, shown

_DESCRIPTION = Path(__file__).parent / "grid" / "openapi.json"
_FIGURES = ("fps_in", "fps_out", "latency_ms", "size", "mode", "running", "frames", "dropped")
_SINK = ("name", "state", "error")
_SHARES = ("fresh", "carried", "bicubic", "tiles_per_s")


def summary(status: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a camera's status that a list of cameras shows."""
    camera, source = status["camera"], status["source"]
    runs, adaptive = camera["state"] == RUNNING, status.get("adaptive")
    waits = runs and status["state"] != "playing"
    return {
        "name": camera["name"],
        "state": status["state"] if runs else camera["state"],
        "why": source["error"] if waits else camera["why"],
        "retry_in_s": source.get("retry_in_s") if waits else camera["retry_in_s"],
        "restarts": camera["restarts"],
        "origin": camera["origin"],
        "picture": camera["picture"],
        "source": source["name"],
        **{key: status.get(key) for key in _FIGURES},
        "adaptive": adaptive and {key: adaptive[key] for key in _SHARES},
        "note": status["note"],
        "stuck_s": status["stuck_s"],
        "sinks": [
            {key: sink[key] for key in _SINK} for sink in status["sinks"] if "viewers" not in sink
        ],
    }


class Api:
    """Changes the cameras of a service.

    Args:
        service: The cameras.
        complete: Fills in what a camera's settings leave to this machine; may raise.
        reload: Reads the configuration file again; returns what changed.
        allowed: What may be added besides cameras of the network, of `ALLOWED`.
        version: The version of this program.
    """

    def __init__(
        self,
        service: Service,
        *,
        complete: Callable[[Any], Any],
        reload: Callable[[], str],
        allowed: Collection[str] = (),
        version: str = "0",
    ) -> None:
        self._service, self._complete, self._reload = service, complete, reload
        self._allowed = allowed
        self._described = {**json.loads(_DESCRIPTION.read_text(encoding="utf-8"))}
        self._described["info"]["version"] = version

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Registers every route."""
        one = "/api/cameras/{name}"
        router.add_get("/openapi.json", self._openapi)
        router.add_post("/api/cameras", _changing(self._add))
        router.add_get(one, self._status)
        router.add_delete(one, _changing(self._remove))
        router.add_get(f"{one}/snapshot.png", self._snapshot)
        for name in ("pause", "resume", "restart"):
            router.add_post(f"{one}/{name}", _changing(self._order(name)))
        router.add_post("/api/reload", _changing(self._read_again))

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(self._described)

    async def _status(self, request: web.Request) -> web.Response:
        status = self._find(request).status()
        return web.json_response(shown(status), dumps=as_json)

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        return await self._find(request).view.routes.table["GET", "snapshot.png"](request)

    async def _add(self, request: web.Request, order: dict[str, Any]) -> web.Response:
        name = order.pop("name", None)
        if not isinstance(name, str):
            return complaint(400, 'a camera needs a "name", which is a text')

        def add() -> dict[str, Any]:
            check = partial(check_guest, allowed=self._allowed)
            settings = read_camera(name, order, check)
            return self._service.add(name, self._complete(settings)).status()

        status = await asyncio.to_thread(add)
        headers = {"Location": f"/api/cameras/{name}"}
        return web.json_response(shown(summary(status)), status=201, headers=headers, dumps=as_json)

    async def _remove(self, request: web.Request, order: dict[str, Any]) -> web.Response:
        await asyncio.to_thread(self._service.remove, request.match_info["name"])
        return web.Response(status=204)

    def _order(self, name: str) -> Change:
        async def obey(request: web.Request, order: dict[str, Any]) -> web.Response:
            camera = self._service.find(request.match_info["name"])
            getattr(camera, name)()
            status = shown(summary(camera.status()))
            return web.json_response(status, status=202, dumps=as_json)

        return obey

    async def _read_again(self, request: web.Request, order: dict[str, Any]) -> web.Response:
        return web.json_response({"changed": await asyncio.to_thread(self._reload)})

    def _find(self, request: web.Request) -> Camera:
        try:
            return self._service.find(request.match_info["name"])
        except UnknownCamera as error:
            raise web.HTTPNotFound(text=str(error)) from error


Change = Callable[[web.Request, dict[str, Any]], Awaitable[web.Response]]


def _object(body: bytes) -> dict[str, Any]:
    """Returns the JSON object that a body is, {} for an empty one; raises `Refused` otherwise."""
    try:
        order = parse_json(body) if body.strip() else {}
    except ValueError as error:
        raise Refused(400, "the request is not JSON") from error
    if not isinstance(order, dict):
        raise Refused(400, "the request is not a JSON object")
    return order


def _changing(change: Change) -> Handler:
    """Returns a handler that reads the JSON object of a request first, and reports what fails."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            order = _object(await body_of(request))
            return await change(request, order)
        except Refused as refused:
            return complaint(refused.status, str(refused))
        except UnknownCamera as error:
            return complaint(404, str(error))
        except NameTaken as error:
            return complaint(409, str(error))
        except Faults as error:
            return complaint(400, redact("; ".join(error.lines)))
        except StreamDiffVSRError as error:
            return complaint(400, redact(str(error)))

    return answer
