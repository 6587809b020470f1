"""Defines `streamdiffvsr serve`, which upscales many cameras in one process."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..engines.host import require_live
from ..errors import StreamDiffVSRError, UsageError
from ..runtime.live.mode import ADAPTIVE, EXACT
from . import options as opt
from .console import leave_at_once
from .live import opener
from .live_modes import choose_mode, tile_opener
from .live_preview import TOKEN, read_token
from .live_source import SizeAdvice
from .live_status import EVERY_S, ServeReporter

if TYPE_CHECKING:
    from ..building.provider import EngineProvider
    from ..runtime.live.camera import Camera, CameraPlan, Engines, OpenCamera
    from ..runtime.live.camera_file import Configuration
    from ..runtime.live.frame import Sink
    from ..runtime.live.preview.preview import View
    from ..runtime.live.service import Settings

Tell = Callable[[str], None]
_TICK_S = 0.25
_LOOK_S = 1.0  # between two looks at the file
_CLOSE_S = 1.0

File = Annotated[Path, typer.Argument(metavar="FILE", help="Configuration: a TOML file.")]
Check = Annotated[
    bool,
    opt.flag("--check", "Check the file and exit: 0 if it is right, 2 and a line for each fault."),
]


def serve(
    file: File,
    check: Check = False,
    max_seconds: opt.MaxSeconds = None,
    json: opt.JsonLines = False,
) -> dict[str, Any]:
    """Upscale many cameras at once, with one page and an API for all of them.

    FILE is read again whenever it changes.
    """
    require_live()
    from ..runtime.live.camera_file import Faults, read_configuration

    if check:
        try:
            cameras = list(read_configuration(file).cameras)
        except Faults as error:
            for line in error.lines:
                typer.echo(line, err=True)
            raise UsageError(f"{len(error.lines)} fault(s) in {str(file)!r}") from error
        if not json:
            typer.echo(f"{file}: {len(cameras)} camera(s): {', '.join(cameras)}")
        return {"cameras": cameras}
    reporter = ServeReporter(as_json=json)
    again = threading.Event()
    with _hangup_set(again):
        running = _Running(file, read_configuration(file), reporter.tell)
        reason = running.wait(max_seconds, reporter.show, again)
    reporter.end(reason, running.status())
    if running.error is not None:
        raise running.error
    return {"reason": reason, "cameras": running.status()}


class _Running:
    """A service that runs: its engines, its cameras and its page.

    Args:
        file: The configuration file.
        first: What it says now.
        tell: Receives one line for each thing that a user should know.

    Attributes:
        error: Why it cannot go on, or None.
    """

    def __init__(self, file: Path, first: Configuration, tell: Tell) -> None:
        from ..runtime.live.preview.api import Api
        from ..runtime.live.preview.site import Site
        from ..runtime.live.service import Service
        from ..runtime.live.status import RecentMemory

        self._file, self._tell, self._first = file, tell, first
        self._seen, self._faulty = _stamp(file), False
        self._reading = threading.Lock()
        self._memory = RecentMemory()
        self.error: StreamDiffVSRError | None = None
        self._folder = first.engines.get("folder")
        self._provider = _provider(first, tell)
        if self._folder is None:
            self._provider.check_runs_here()
        cameras = self._completed(first)
        self._engines = self._shared(list(cameras.values()))
        token, where = _token(first, tell)
        self._service = Service(self._new_camera, tell=tell)
        api = Api(
            self._service,
            complete=self._complete,
            reload=self.reload,
            allowed=first.allow,
            version=__version__,
        )
        host, _, port = first.listen.rpartition(":")
        self._site = Site(
            host or "127.0.0.1",
            int(port),
            token=token,
            names=first.names,
            service=self._service,
            api=api,
            memory=self._memory,
            faulty=lambda: self._faulty,
        )
        tell(f"page: {self._site.url}{where or f'?token={token}'}")
        self._service.follow(cameras)

    def wait(
        self,
        max_seconds: float | None,
        show: Callable[[list[dict[str, Any]]], None],
        again: threading.Event,
    ) -> str:
        """Runs until a signal, the time limit, or an engine that is lost; returns which.

        Args:
            show: Receives the status of every camera once a second.
            again: Asks for the file to be read again when it is set.
        """
        from ..runtime.live.running import signals_set

        stop = threading.Event()
        until = None if max_seconds is None else time.monotonic() + max_seconds
        reason, looked, shown = "stopped", time.monotonic(), float("-inf")
        with signals_set(stop):
            while not stop.wait(_TICK_S):
                if time.monotonic() - shown >= EVERY_S:
                    shown = time.monotonic()
                    show(self.status())
                if until is not None and time.monotonic() > until:
                    reason = "time"
                    break
                if self._engines.lost:
                    self.error, reason = _lost(), "failed"
                    break
                if again.is_set() or time.monotonic() - looked > _LOOK_S:
                    looked = time.monotonic()
                    self._look(asked=again.is_set())
                    again.clear()
            self._close()
        return reason

    def status(self) -> list[dict[str, Any]]:
        """Returns the status of every camera, in short, for JSON."""
        from ..runtime.live.preview.api import summary

        return [summary(camera.status()) for camera in self._service.cameras.values()]

    def reload(self) -> str:
        """Reads the file again and follows it; returns what changed.

        Raises:
            StreamDiffVSRError: The file is wrong; everything goes on as before.
        """
        from ..runtime.live.camera_file import read_configuration

        with self._reading:
            self._seen = _stamp(self._file)
            try:
                found = read_configuration(self._file)
                cameras = self._completed(found)
            except StreamDiffVSRError:
                self._faulty = True
                raise
            self._faulty = False
            changed = self._service.follow(cameras)
        if replace(found, cameras={}) != replace(self._first, cameras={}):
            changed += "; [server] and [engines] count from the next start"
        self._tell(f"{self._file.name}: {changed}")
        return changed

    def _look(self, *, asked: bool) -> None:
        """Follows the file if it has changed, or if a signal asks for it."""
        if asked or _stamp(self._file) != self._seen:
            try:
                self.reload()
            except StreamDiffVSRError as error:
                self._tell(f"{error}; the earlier configuration goes on")

    def _close(self) -> None:
        opening = threading.Thread(
            target=self._engines.whole.stop_opening, args=(_CLOSE_S,), daemon=True
        )
        opening.start()
        stuck = self._service.close()
        self._site.close(_CLOSE_S)
        opening.join(_CLOSE_S)
        if not stuck and self._engines.runner is not None:
            self._engines.runner.close()
            stuck = self._engines.whole.close()
        if stuck or self.error is not None:
            leave_at_once()

    # ---- the parts ----

    def _completed(self, found: Configuration) -> dict[str, Settings]:
        """Returns the cameras of a file with what is left to this machine."""
        completed = {}
        for name, settings in found.cameras.items():
            try:
                completed[name] = self._complete(settings)
            except StreamDiffVSRError as error:
                raise UsageError(f'{self._file.name}: camera "{name}": {error}') from error
        return completed

    def _complete(self, settings: Settings) -> Settings:
        """Returns the settings with the mode in which these engines work here."""
        plan = settings.plan
        regions = [",".join(map(str, region)) for region in plan.regions]
        how = choose_mode(plan.mode, self._folder, regions, plan.refresh_s, self._tell)
        refresh_s = None if how.mode == EXACT else how.refresh_s
        return replace(settings, plan=replace(plan, mode=how.mode, refresh_s=refresh_s))

    def _shared(self, cameras: list[Settings]) -> Engines:
        from ..runtime.live.camera import Engines
        from ..runtime.live.engine_pool import BICUBIC, EnginePool
        from ..runtime.live.engine_thread import EngineThread
        from ..runtime.live.service import MAX_CAMERAS
        from ..runtime.live.tile_thread import TileThread

        plans = [settings.plan for settings in cameras]
        limits = [plan.latency_ms for plan in plans if plan.mode == EXACT and plan.latency_ms]
        exact = bool(plans) and all(plan.mode == EXACT for plan in plans)
        whole = EnginePool(
            opener(self._folder, self._provider, 0, min(limits, default=None), self._tell),
            tell=self._tell,
            meanwhile=BICUBIC if exact else ADAPTIVE,
            given=self._folder is not None,
            pooled=MAX_CAMERAS,
        )
        tiles = TileThread(tile_opener(self._folder, self._provider, self._tell))
        return Engines(whole, tiles, EngineThread(), self._memory)

    def _new_camera(self, name: str, settings: Settings, origin: str) -> Camera:
        from ..runtime.live.camera import Camera
        from ..runtime.live.service import FILE

        return Camera(
            name,
            settings.plan,
            self._open if origin == FILE else self._open_guest,
            self._new_view,
            origin=origin,
            tell=self._tell,
            look=SizeAdvice(self._provider.run_on, lambda line: self._tell(f"{name}: {line}")).look,
            paused=settings.paused,
        )

    def _open_guest(self, plan: CameraPlan, sinks: Sequence[Sink], tell: Tell) -> OpenCamera:
        """Checks again what names stand for, which may have changed."""
        from ..runtime.live.guests import check_guest

        check_guest(plan, self._first.allow)
        return self._open(plan, sinks, tell)

    def _open(self, plan: CameraPlan, sinks: Sequence[Sink], tell: Tell) -> OpenCamera:
        from ..runtime.live.camera import open_camera

        self._engines.whole.forgive()
        return open_camera(plan, self._engines, sinks, tell)

    def _new_view(self, camera: Camera) -> View:
        from ..runtime.live.preview.preview import View

        view = View(
            "page",
            status=camera.status,
            tell=lambda line: self._tell(f"{camera.name}: {line}"),
            prefer=camera.prefer,
        )
        self._site.attach(view)
        return view


def _provider(found: Configuration, tell: Tell) -> EngineProvider:
    from ..building.provider import EngineProvider
    from ..building.request import BuildRequest

    given = {name: value for name, value in found.engines.items() if name != "folder"}
    request = BuildRequest(**given)
    if "folder" in found.engines:
        opt.refuse_with_engines(request)
    return EngineProvider(request, tell)


def _token(found: Configuration, tell: Tell) -> tuple[str, str]:
    """Returns the token, and what stands for it in the printed address; "" if it is made here."""
    if found.token_file is not None:
        token, where = read_token(found.token_file, tell), repr(str(found.token_file))
    elif token := os.environ.get(TOKEN, ""):
        where = TOKEN
    else:
        return secrets.token_urlsafe(24), ""
    return token, f"?token=... (the token is in {where})"


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:  # while an editor replaces it
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _lost() -> StreamDiffVSRError:
    return StreamDiffVSRError(
        "an engine has been stuck for good",
        "nothing here can end that, and all cameras share it",
        "start again, as a service manager does by itself (docs/serve.md)",
    )


@contextmanager
def _hangup_set(again: threading.Event) -> Iterator[None]:
    """Makes SIGHUP ask for the file to be read again, where there is that signal."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda number, frame: again.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
