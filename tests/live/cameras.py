"""Cameras of a service whose frames are made up, for tests of what keeps and shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamdiffvsr.runtime.live.camera import Camera, CameraPlan, OpenCamera
from streamdiffvsr.runtime.live.engine_pool import EnginePool
from streamdiffvsr.runtime.live.frame import Sink
from streamdiffvsr.runtime.live.preview.preview import View
from streamdiffvsr.runtime.live.service import Service, Settings
from streamdiffvsr.runtime.live.session import LiveSession
from streamdiffvsr.runtime.live.source import Backoff
from streamdiffvsr.tests.live.stand_ins import PacedSource, PassThrough, ladder


class NamedSource(PacedSource):
    """A paced source with all that a status needs."""

    def status(self) -> dict[str, Any]:
        more = {"name": "rtsp://camera.example/live", "reconnects": 0, "received": self.last + 1}
        return {**super().status(), **more, "size": "64x48", "codec": "h264", "retry_in_s": None}


@dataclass
class Openings:
    """Opens cameras with stand-ins; fails as often as a test wants."""

    fails: dict[str, list[Exception]] = field(default_factory=dict)  # by source
    opened: list[str] = field(default_factory=list)
    sessions: dict[str, LiveSession] = field(default_factory=dict)
    fps: float = 30.0

    def __call__(
        self, plan: CameraPlan, sinks: Sequence[Sink], tell: Callable[[str], None]
    ) -> OpenCamera:
        self.opened.append(plan.source)
        if self.fails.get(plan.source):
            raise self.fails[plan.source].pop(0)
        source = NamedSource(self.fps)
        pool = EnginePool(lambda size, at: ladder(full=PassThrough(size=size)), tell=tell)
        pool.put(ladder(full=PassThrough()))
        session = LiveSession(source, pool, sinks)  # type: ignore[arg-type]
        self.sessions[plan.source] = session
        return OpenCamera(session, source)  # type: ignore[arg-type]


def view_of(camera: Camera) -> View:
    return View("page", status=camera.status, prefer=camera.prefer)


def service_of(openings: Openings, told: list[str] | None = None, attach: Any = None) -> Service:
    """Returns a service without cameras; they are opened by `openings`."""
    lines = told if told is not None else []

    def view(camera: Camera) -> View:
        made = view_of(camera)
        if attach is not None:
            attach(made)
        return made

    def make(name: str, settings: Settings, origin: str) -> Camera:
        return Camera(
            name,
            settings.plan,
            openings,
            view,
            origin=origin,
            tell=lines.append,
            backoff=Backoff(0.1, 1.0),
            paused=settings.paused,
        )

    return Service(make, tell=lines.append)


def settings(source: str = "testsrc", **more: Any) -> Settings:
    paused = more.pop("paused", False)
    return Settings(CameraPlan(source, mode="exact", **more), paused)
