"""One camera: what it is to do, its parts, and the thread that keeps it going.

`live` opens one camera and runs it once. A service keeps many: each has a thread of its own, which
opens all parts again, after growing pauses, when something of it fails.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import StreamDiffVSRError, UsageError, option
from ..media.redact import redact_address
from .addresses import AUTO as ANY_TRANSPORT
from .addresses import Address, parse_source
from .engine_pool import EnginePool
from .engine_thread import EngineThread
from .frame import Sink
from .mode import AUTO, EXACT
from .running import run_until
from .session import LiveSession
from .sink_targets import unused_name
from .sinks import open_sink
from .sound import to_sinks
from .source import Backoff, LiveSource
from .status import memory_mb
from .tile_thread import TileThread

if TYPE_CHECKING:  # they need OpenCV, and the extra "live"
    from ..adaptive.upscaler import Region
    from .preview.preview import View

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """What one camera is to do, as `live` and the file of `serve` say it.

    Attributes:
        source: The address, as `parse_source` takes it.
        to: The targets of its sinks, as `open_sink` takes them.
        mode: "auto", "exact" or "adaptive".
        regions: Regions of interest (x, y, width, height) in pixels of the source.
        refresh_s: Seconds after which every part of an adaptive picture is refined again.
        latency_ms: The latency in ms to keep, or None.
        seed: The seed of the noise of adaptive frames.
        options: libav's options for the source, by name.
        rtsp_transport: "auto", "tcp" or "udp".
        open_timeout_s: The longest that opening the source may take, or None.
        stall_timeout_s: The longest that the source may be silent, or None.
        reconnect: Whether the source is opened again when it fails.
        sound: Whether sinks get its sound.
        overwrite: Whether existing files are replaced.
    """

    source: str = field(repr=False)
    to: tuple[str, ...] = field(default=(), repr=False)
    mode: str = AUTO
    regions: tuple[Region, ...] = ()
    refresh_s: float | None = None
    latency_ms: float | None = None
    seed: int = 0
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    rtsp_transport: str = ANY_TRANSPORT
    open_timeout_s: float | None = None
    stall_timeout_s: float | None = None
    reconnect: bool = True
    sound: bool = True
    overwrite: bool = False

    def address(self) -> Address:
        """Returns the parsed address of the source.

        Raises:
            UsageError: It has no known form, or an option is unknown.
            StreamDiffVSRError: A file is missing, or there is no such device.
        """
        return parse_source(self.source, dict(self.options), rtsp_transport=self.rtsp_transport)


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines that cameras share.

    Attributes:
        whole: The engines of whole frames, by size.
        tiles: The thread that refines tiles; None if no camera is adaptive.
        runner: The thread that makes whole frames; None for one of each camera's own.
        memory: Returns the memory of all processes in MiB.
    """

    whole: EnginePool
    tiles: TileThread | None = None
    runner: EngineThread | None = None
    memory: Callable[[], int | None] = memory_mb

    @property
    def lost(self) -> bool:
        """Whether an engine will never answer again; nothing but a new process helps."""
        threads = [thread for thread in (self.tiles, self.runner) if thread is not None]
        return any(thread.lost for thread in threads)


def open_sinks(
    plan: CameraPlan, tell: Tell = lambda _: None, *, beside_old_files: bool = False
) -> list[Sink]:
    """Opens the sinks of a camera.

    Args:
        beside_old_files: Whether to write to NAME-2 where NAME exists, instead of refusing; a
            playlist, which is of the last seconds only, is replaced.

    Raises:
        UsageError: A target is no known kind of output, or is given twice.
        StreamDiffVSRError: A target cannot be written, or exists.
    """
    if twice := sorted({target for target in plan.to if plan.to.count(target) > 1}):
        what = f"{option('to')} {redact_address(twice[0])} is given twice"
        raise UsageError(what, remedy="name it once")
    opened: list[Sink] = []
    with closing_all(opened):
        for target in plan.to:
            opened.append(
                open_sink(
                    unused_name(target) if beside_old_files else target,
                    overwrite=plan.overwrite or (beside_old_files and target.endswith(".m3u8")),
                    rtsp_transport=plan.rtsp_transport,
                    tell=tell,
                )
            )
    return opened


@contextlib.contextmanager
def closing_all(sinks: list[Sink]) -> Iterator[None]:
    """Closes the sinks if the block fails."""
    try:
        yield
    except BaseException:
        for sink in sinks:
            sink.close(1.0)
        raise


@dataclass(frozen=True, slots=True)
class OpenCamera:
    """A camera whose parts are open: the session that runs, and its source."""

    session: LiveSession
    source: LiveSource


def open_camera(
    plan: CameraPlan, engines: Engines, sinks: Sequence[Sink], tell: Tell = lambda _: None
) -> OpenCamera:
    """Opens the source of a camera, and the session that hands its frames to sinks.

    Args:
        sinks: Closed with the session, as the source is.

    Raises:
        StreamDiffVSRError: See `CameraPlan.address`.
    """
    source = LiveSource(
        plan.address(),
        tell=tell,
        open_timeout_s=plan.open_timeout_s,
        stall_timeout_s=plan.stall_timeout_s,
        reconnect=plan.reconnect,
        hear=to_sinks(sinks) if plan.sound else None,
    )
    try:
        session = LiveSession(
            source,
            engines.whole,
            sinks,
            mode=plan.mode,
            adaptive=_canvas(plan, engines, tell),
            limit_ms=plan.latency_ms,
            tell=tell,
            runner=engines.runner,
            memory=engines.memory,
        )
    except BaseException:
        source.close()
        raise
    return OpenCamera(session, source)


def _canvas(plan: CameraPlan, engines: Engines, tell: Tell) -> Any:
    if plan.mode == EXACT:
        return None
    from ..adaptive.upscaler import REFRESH_S
    from .adaptive_frames import AdaptiveFrames

    assert engines.tiles is not None
    return AdaptiveFrames(
        engines.tiles,
        regions=plan.regions,
        refresh_s=REFRESH_S if plan.refresh_s is None else plan.refresh_s,
        seed=plan.seed,
        limit_ms=plan.latency_ms,
        tell=tell,
    )


class _Lasting:
    """A sink that stays open when the session that it is given to ends."""

    def __init__(self, view: View) -> None:
        self.name, self.offer, self.status = view.name, view.offer, view.status
        self.hear = view.hear

    def close(self, deadline_s: float) -> None:
        """Does nothing: the camera closes the sink."""


STARTING, RUNNING, PAUSED, FAILED, ENDED = "starting", "running", "paused", "failed", "ended"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_CLOSE_S = 5.0
Opener = Callable[[CameraPlan, Sequence[Sink], Tell], OpenCamera]


class Camera:
    """Keeps one camera of a service going, in a thread of its own.

    Attributes:
        restarts: How often it was started again after a failure.
        stuck: Whether a thread of it is still at work in an engine after its end.

    Methods may be called from any thread; they return at once unless they say otherwise.

    Args:
        name: Its name in the service.
        plan: What it is to do.
        open_parts: Opens it, with further sinks.
        make_view: Makes the sink that viewers see, which outlives restarts.
        origin: Where it comes from, for showing.
        tell: Receives one line, with its name, for each thing that a user should know.
        look: Receives its status four times a second.
        backoff: How long to wait before opening it again; None for the usual way.
        paused: Whether it waits to be resumed at first.
    """

    def __init__(
        self,
        name: str,
        plan: CameraPlan,
        open_parts: Opener,
        make_view: Callable[[Camera], View],
        *,
        origin: str = "",
        tell: Tell = lambda _: None,
        look: Callable[[dict[str, Any]], None] = lambda _: None,
        backoff: Backoff | None = None,
        paused: bool = False,
    ) -> None:
        self.name, self.plan, self.origin = name, plan, origin
        self._open, self._tell_all, self._look = open_parts, tell, look
        self._backoff = backoff or Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._changed = threading.Condition()
        self._state, self._why = PAUSED if paused else STARTING, ""
        self._retry_at: float | None = None
        self._asked = False  # to end the run that is under way, or to begin another now
        self._removed, self._wants_pause = False, paused
        self._stop = threading.Event()
        self._open_camera: OpenCamera | None = None
        self._counted = {"frames": 0, "dropped": 0}  # of the last run that has ended
        self.restarts = 0
        self.stuck = self._began = False
        self.view = make_view(self)
        self._thread = threading.Thread(target=self._keep_going, name=f"camera {name}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        """Returns "starting", "running", "paused", "failed" (it is tried again), or "ended"."""
        return self._state

    def pause(self) -> None:
        """Closes source and sinks until `resume`."""
        self._ask(pause=True)

    def resume(self) -> None:
        """Goes on after a pause; does nothing otherwise."""
        if self._wants_pause:
            self._ask(pause=False)

    def restart(self) -> None:
        """Opens everything again, at once, in any state."""
        self._ask(pause=False)

    def prefer(self, regions: Sequence[Region]) -> None:
        """Sets the regions of interest, in place of earlier ones.

        Raises:
            UsageError: A region lies outside the newest frame, or the camera makes no such frames.
        """
        opened = self._open_camera
        if opened is None:
            raise UsageError(
                "no regions can be set now", f"the camera is {self._state}", "start it"
            )
        opened.session.prefer(regions)

    def close(self, deadline_s: float = _CLOSE_S) -> None:
        """Ends it for good, files finished; waits for that. Safe twice."""
        with self._changed:
            self._removed = True
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(deadline_s)
        self.stuck |= self._thread.is_alive()
        self.view.close(1.0)

    def status(self) -> dict[str, Any]:
        """Returns the status of its session, and as `camera` its own: `name`, `state`, `why`,
        `retry_in_s`, `restarts`, `origin`, and whether there is a `picture`."""
        opened, due = self._open_camera, self._retry_at
        left = None if due is None else round(max(0.0, due - time.monotonic()), 1)
        status = self._idle(left) if opened is None else opened.session.status()
        own = {"name": self.name, "state": self._state, "why": self._why, "retry_in_s": left}
        own |= {"restarts": self.restarts, "origin": self.origin}
        own["picture"] = self.view.newest is not None
        return {**status, "camera": own}

    def _idle(self, retry_in_s: float | None) -> dict[str, Any]:
        """Returns what there is to say of a camera that does not run."""
        source = {"name": redact_address(self.plan.source), "state": self._state}
        about = {"error": self._why, "retry_in_s": retry_in_s, "size": "", "reconnects": 0}
        return {
            "state": self._state,
            "source": {**source, **about},
            "size": None,
            "mode": self.plan.mode,
            **self._counted,
            "note": "",
            "stuck_s": 0,
            "adaptive": None,
            "sinks": [],
        }

    def _ask(self, *, pause: bool) -> None:
        with self._changed:
            self._asked, self._wants_pause = True, pause
            self._stop.set()
            self._changed.notify_all()

    def _keep_going(self) -> None:
        while self._may_begin():
            began = time.monotonic()
            try:
                why, final = self._run_once()
            except Exception as error:
                expected = isinstance(error, StreamDiffVSRError)
                why = str(error) if expected else f"{type(error).__name__}: {error}"
                final = False
            self._note_end(why, final, time.monotonic() - began)

    def _may_begin(self) -> bool:
        """Waits until it is to be opened; returns False once it is removed."""
        with self._changed:
            while not self._removed:
                if self._asked:
                    self._asked, self._retry_at = False, None
                    self._set(PAUSED if self._wants_pause else STARTING)
                due = self._retry_at
                if self._state == STARTING or (due is not None and time.monotonic() >= due):
                    self._set(STARTING)
                    self._stop = threading.Event()
                    return True
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
            return False

    def _run_once(self) -> tuple[str, bool]:
        """Opens and runs it until it ends; returns why, and whether that is final."""
        first = not self._began
        sinks = open_sinks(
            self.plan, self._tell, beside_old_files=not (first and self.plan.overwrite)
        )
        self._began = True
        with closing_all(sinks):
            opened = self._open(self.plan, [*sinks, _Lasting(self.view)], self._tell)
        self._open_camera = opened
        self._set(RUNNING)
        try:
            ended = run_until(self._stop, opened.session, opened.source, show=self._look)
        finally:
            self._open_camera = None
            last = opened.session.status()
            self._counted = {name: last[name] for name in self._counted}
        self.stuck = ended.stuck
        if ended.error is not None:
            return str(ended.error), False
        return ("the source has ended" if ended.reason == "source" else ""), True

    def _note_end(self, why: str, final: bool, ran_s: float) -> None:
        with self._changed:
            if self._removed:
                self._set(ENDED, why)
            if self._asked or self._removed:
                return
            self._retry_at = None
            if final:
                self._set(ENDED, why)
                line = why
            else:
                self.restarts += 1
                wait_s = self._backoff.after("", ran_s)
                self._retry_at = time.monotonic() + wait_s
                self._set(FAILED, why)
                line = f"{why}; starting it again in {wait_s:.1f} s"
        self._tell(line)

    def _tell(self, line: str) -> None:
        self._tell_all(f"{self.name}: {line}")

    def _set(self, state: str, why: str = "") -> None:
        self._state, self._why = state, why
