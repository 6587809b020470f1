"""All cameras of a service at one address: a page of all, one page of each, and the API."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from PIL import Image as pillow
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ....graphs.arrays import Image
from ..camera import ENDED, FAILED, PAUSED, RUNNING, STARTING, Camera
from ..service import Service, UnknownCamera
from ..status import memory_mb
from .api import Api, summary
from .door import Door
from .metrics import CONTENT_TYPE, text_of_all
from .server import ENDLESS, PAGE, STATUS_S, as_json, files_of, shown

if TYPE_CHECKING:
    from .preview import View

_GRID = Path(__file__).with_name("grid")
_SHARED = ("page.css",)  # files of a camera's page that the page of all uses too
_LARGEST = 640  # pixels, the longer side of a thumbnail
_QUALITY = 80
_FRESH_S = 0.4  # for which a list of the cameras is given to all who ask
_STATES = (RUNNING, STARTING, PAUSED, FAILED, ENDED)


class Site:
    """Serves the cameras of a service until it is closed.

    Args:
        host: The address or name of this machine to listen on; "0.0.0.0" for every network.
        port: The port to listen on; 0 for a free one.
        token: The token that every request needs.
        names: Further host names by which it is reached.
        service: The cameras.
        api: What changes them.
        memory: Returns the memory of all processes in MiB.
        faulty: Returns whether the configuration file, as it is now, is wrong.

    Raises:
        StreamDiffVSRError: The port is busy, or there is no such host.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str,
        names: Iterable[str],
        service: Service,
        api: Api,
        memory: Callable[[], int | None] = memory_mb,
        faulty: Callable[[], bool],
    ) -> None:
        self._service, self._api, self._memory, self._faulty = service, api, memory, faulty
        self._listed: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._thumbnails: dict[str, tuple[float, bytes]] = {}
        door = Door.open(host, port, token, names)
        self.port, self.url = door.port, door.url
        self._server = door.serve(self._add_routes, self._tick, self._leave)

    def attach(self, view: View) -> None:
        """Lets a camera's view use the loop of the server."""
        view.attach(self._server.call)

    def close(self, deadline_s: float) -> None:
        """Disconnects everyone and ends. Safe twice."""
        self._server.close(deadline_s)

    def _add_routes(self, application: web.Application) -> None:
        router = application.router
        files = files_of(_GRID) | {
            name: answer for name, answer in files_of(PAGE).items() if name in _SHARED
        }
        for name, answer in files.items():
            router.add_get(f"/{'' if name == 'index.html' else name}", answer)
        router.add_get("/status.json", self._status)
        router.add_get("/api/cameras", self._status)
        router.add_get("/healthz", self._health)
        router.add_get("/metrics", self._prometheus)
        router.add_get("/cameras/{name}", self._to_page)
        router.add_get("/cameras/{name}/thumbnail.jpg", self._thumbnail)
        router.add_route("*", "/cameras/{name}/{path:.*}", self._of_camera)
        self._api.add_to(router)

    async def _tick(self) -> None:
        """Sends every viewer of a camera its status twice a second; never returns."""
        while True:
            for camera in self._service.cameras.values():
                camera.view.routes.show_status()
            await asyncio.sleep(STATUS_S)

    def _leave(self) -> None:
        for camera in self._service.cameras.values():
            camera.view.leave()

    def _camera(self, request: web.Request) -> Camera:
        try:
            return self._service.find(request.match_info["name"])
        except UnknownCamera as error:
            raise web.HTTPNotFound(text=str(error)) from error

    async def _of_camera(self, request: web.Request) -> web.StreamResponse:
        """Answers as the camera's own page does."""
        table, path = self._camera(request).view.routes.table, request.match_info["path"]
        head_alone = request.method == "HEAD" and path not in ENDLESS
        method = "GET" if head_alone else request.method
        if (handler := table.get((method, path))) is not None:
            return await handler(request)
        if any(known == path for _, known in table):
            raise web.HTTPMethodNotAllowed(
                request.method, [m for m, known in table if known == path]
            )
        raise web.HTTPNotFound(text="A camera has no such page.")

    async def _to_page(self, request: web.Request) -> web.Response:
        camera = self._camera(request)
        return web.Response(status=308, headers={"Location": f"/cameras/{camera.name}/"})

    async def _thumbnail(self, request: web.Request) -> web.Response:
        camera = self._camera(request)
        frame = camera.view.newest
        if frame is None:
            raise web.HTTPServiceUnavailable(text="There is no picture yet.")
        made, body = self._thumbnails.get(camera.name, (-1.0, b""))
        if made != frame.finished:
            body = await asyncio.to_thread(thumbnail, frame.image)
            self._thumbnails[camera.name] = frame.finished, body
        return web.Response(body=body, content_type="image/jpeg")

    def _list(self) -> dict[str, Any]:
        """Returns what there is to say of all cameras, from a moment ago."""
        at, listed = self._listed
        if time.monotonic() - at > _FRESH_S:
            cameras = self._service.cameras
            self._thumbnails = {k: v for k, v in self._thumbnails.items() if k in cameras}
            listed = {
                "cameras": [shown(summary(camera.status())) for camera in cameras.values()],
                "memory_mb": self._memory(),
                "file_faulty": self._faulty(),
            }
            self._listed = time.monotonic(), listed
        return listed

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._list(), dumps=as_json)

    async def _health(self, request: web.Request) -> web.Response:
        wanted = [one for one in self._list()["cameras"] if one["state"] not in (PAUSED, ENDED)]
        silent = [one for one in wanted if one["state"] != "playing" or one["stuck_s"]]
        lines = [
            ": ".join(part for part in (one["name"], one["state"], one["why"]) if part)
            for one in silent
        ]
        if silent:
            return web.Response(status=503, text="\n".join([*lines, ""]))
        return web.Response(text=f"{len(wanted)} playing\n")

    async def _prometheus(self, request: web.Request) -> web.Response:
        cameras = self._service.cameras
        of_each = {name: camera.view.metrics for name, camera in cameras.items()}
        own = metrics_of_service(list(cameras.values()), faulty=self._faulty())
        body = text_of_all(of_each, own)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def metrics_of_service(cameras: Iterable[Camera], *, faulty: bool) -> Iterable[Metric]:
    """Yields what there is to count besides the metrics of each camera."""
    states = GaugeMetricFamily("streamdiffvsr_cameras", "Cameras by state", labels=["state"])
    for state in _STATES:
        states.add_metric([state], sum(camera.state == state for camera in cameras))
    yield states
    restarts = CounterMetricFamily(
        "streamdiffvsr_camera_restarts", "Times a camera was started again", labels=["camera"]
    )
    for camera in cameras:
        restarts.add_metric([camera.name], camera.restarts)
    yield restarts
    about = "1 while the configuration file is wrong, and an earlier one is in use"
    yield GaugeMetricFamily("streamdiffvsr_file_faulty", about, value=float(faulty))


def thumbnail(image: Image) -> bytes:
    """Encodes (H, W, 3) uint8 RGB as a small JPEG."""
    picture = pillow.fromarray(image)
    picture.thumbnail((_LARGEST, _LARGEST), pillow.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
