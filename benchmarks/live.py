"""Measures the latency and drops of a live session, and starts its source `clock`."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines.manifest import read_manifest
from ..errors import StreamDiffVSRError, UsageError
from ..graphs.spec import SCALE, Size, format_size
from ..runtime.live.addresses import Address, parse_source
from ..runtime.live.engine_pool import EnginePool, QualityLevels
from ..runtime.live.frame import OutputFrame, Sink
from ..runtime.live.mode import EXACT
from ..runtime.live.running import SessionThread
from ..runtime.live.session import LiveSession
from ..runtime.live.source import LiveSource
from ..runtime.processes.child import Child
from ..runtime.upscaler import load
from .clock_code import LINES, age_ms
from .statistics import quantiles

if TYPE_CHECKING:  # it needs OpenCV
    from ..runtime.live.adaptive_frames import AdaptiveFrames

NAME = "clock"
FPS = 30
LEAST_WIDTH = 160  # the cells of the code must be wide enough to read
_FORM = re.compile(r"clock(?:=(\d{1,5})x(\d{1,5})(?:@(\d{1,3}))?)?")
_MAX_SIDE = 4096


def is_clock(source: str) -> bool:
    """Returns whether a source means the clock, even if it is written wrongly."""
    return source == NAME or source.startswith(f"{NAME}=")


def parse_clock(source: str, usual: Size) -> tuple[Size, int]:
    """Returns (h, w) and fps of ``clock``, ``clock=640x360`` or ``clock=640x360@30``.

    Args:
        usual: The size (h, w) if none is given.

    Raises:
        UsageError: The source is none of these, or the size has no room for the stamp.
    """
    match = _FORM.fullmatch(source)
    if match is None:
        raise UsageError(f"{source!r:.60} is not a clock", remedy="write clock=640x360@30")
    width, height = (int(match[1]), int(match[2])) if match[1] else (usual[1], usual[0])
    fps = int(match[3] or FPS)
    if width % 2 or height % 2 or not fps or max(width, height) > _MAX_SIDE:
        raise UsageError(
            f"a clock of {width}x{height} at {fps} fps is not possible",
            f"both sides must be even and at most {_MAX_SIDE}, with at least 1 fps",
            "write it like clock=640x360@30",
        )
    if width < LEAST_WIDTH or height < 2 * LINES:
        raise UsageError(
            f"a clock of {width}x{height} is not possible",
            "its pixels are too few to hold the time",
            f"use at least {LEAST_WIDTH}x{2 * LINES}, and engines for that size",
        )
    return (height, width), fps


@contextmanager
def clock_running(size: Size, fps: int) -> Iterator[str]:
    """Runs a clock during the block, and gives the block its address.

    Raises:
        StreamDiffVSRError: The process does not start.
    """
    task, failure = "benchmarks.live_clock_child", "the clock did not start"
    with closing(
        Child(task, {"size": size, "fps": fps}, failure=failure, blas_threads=True)
    ) as child:
        message, _ = child.receive()
        yield f"tcp://127.0.0.1:{message['port']}"


WARM_UP, WARM_UP_S = 8, 5.0  # frames, or seconds where frames are slow: engines load, queues fill
_LOOK_S = 0.005  # between two looks at the newest frame


@dataclass(frozen=True, slots=True)
class Taken:
    """The times of one frame, in seconds of the monotonic clock.

    Attributes:
        at: When the sink received it.
        made: When it was captured: by its stamp, or when the decoder returned it.
        stage_ms: Milliseconds by stage.
    """

    at: float
    made: float
    stage_ms: dict[str, float] = field(default_factory=dict)


class Taking:
    """A `Sink` that measures for some seconds, after a warm-up.

    Args:
        seconds: The time to measure, from the first frame that counts.
        stamped: Whether to read the time of capture from the pixels.

    Attributes:
        armed: Set by the caller when frames are worth measuring; then the warm-up begins.
        offered: The number of frames that came, including those that do not count.
        began: When the first frame that counts came; None before.
        taken: The frames that count.
        unread: The number of frames whose stamp could not be read.
        started, done: Set when the first frame has counted, and when the time is over.
    """

    name = "measurement"

    def __init__(self, seconds: float, *, stamped: bool) -> None:
        self.began: float | None = None
        self.taken: list[Taken] = []
        self.unread = 0
        self.armed, self.started, self.done = (threading.Event() for _ in range(3))
        self.stamped, self._seconds = stamped, seconds
        self.offered = self._warm = 0
        self._warm_since: float | None = None

    def offer(self, frame: OutputFrame) -> None:
        """See `Sink`; reading a stamp takes half a millisecond, after the time was noted."""
        now = time.monotonic()
        self.offered += 1
        if not self.armed.is_set() or self.done.is_set():
            return
        self._warm, self._warm_since = self._warm + 1, self._warm_since or now
        if self._warm <= WARM_UP and now - self._warm_since < WARM_UP_S:
            return
        if self.began is None:
            self.began = now
            self.started.set()
        made: float | None = frame.source.captured
        if self.stamped:
            age = age_ms(frame.image, SCALE)
            made = None if age is None else time.monotonic() - age / 1000
        if made is None:
            self.unread += 1
        else:
            self.taken.append(Taken(now, made, dict(frame.stage_ms)))
        if now - self.began >= self._seconds:
            self.done.set()

    def status(self) -> dict[str, Any]:
        """See `Sink`."""
        return {
            "name": self.name,
            "state": "closed" if self.done.is_set() else "open",
            "written": self.offered,
            "dropped": 0,
            "reopened": 0,
            "error": "",
        }

    def close(self, deadline_s: float) -> None:
        """See `Sink`; no frame counts from now on."""
        self.done.set()


def latencies_ms(taken: list[Taken]) -> list[float]:
    """Returns the ms from capture to the sink, for each frame."""
    return [1000 * (one.at - one.made) for one in taken]


def ages_ms(taken: list[Taken]) -> list[float]:
    """Returns the ages of the newest frame in ms, at every few ms: also between two frames."""
    if len(taken) < 2:
        return []
    at = np.array([one.at for one in taken])
    made = np.array([one.made for one in taken])
    looks = np.arange(at[0], at[-1], _LOOK_S)
    newest = np.searchsorted(at, looks, side="right") - 1
    ages: list[float] = (1000 * (looks - made[newest])).tolist()
    return ages


def stages_ms(taken: list[Taken]) -> dict[str, list[float]]:
    """Returns the milliseconds of each stage in the frames that have it."""
    names = dict.fromkeys(name for one in taken for name in one.stage_ms)
    return {name: [one.stage_ms[name] for one in taken if name in one.stage_ms] for name in names}


ADAPTIVE_FIGURES = (
    *("fresh", "carried", "bicubic", "tiles_per_frame", "tiles_per_s"),
    *("tile_ms", "tile_count", "oldest_s"),
)
FIRST_FRAME_S = 30.0  # the deadline for the source; opening engines may take longer
PASS_THROUGH_SIZE = (90, 160)
_END_S = 2.0
_TICK_S = 0.1
Open = Callable[[Size, Callable[[str], None]], QualityLevels]


@dataclass(frozen=True, slots=True)
class Making:
    """How a session makes adaptive frames.

    Attributes:
        mode: "adaptive" or "auto".
        canvas: What makes frames from a canvas.
        open_whole: Opens the engines of whole frames of a size, for auto mode.
    """

    mode: str
    canvas: AdaptiveFrames
    open_whole: Open


def measure_live(
    source: str,
    *,
    engines: Path | None,
    seconds: float,
    latency_ms: float | None = None,
    device: str | None = None,
    how: Making | None = None,
    on_stop: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures the live path from a source to a sink.

    Args:
        source: A source of `streamdiffvsr live`; or ``clock``, ``clock=640x360@30``: synthetic
            pictures that carry the time, which is read from the pixels of the output.
        engines: An engine set of whole frames; None enlarges by bicubic, which measures the rest
            of the path.
        seconds: The time to measure, after opening and a warm-up.
        latency_ms: The limit of `live --latency-ms` in ms, above which frames are bicubic; or None.
        device: The GPU that the engines run on, "cuda:1"; None is the first.
        how: How adaptive frames are made; None is exact mode, with `engines`.
        on_stop: Receives one line if measuring ended early; the figures until then are returned.

    Returns:
        `live` of result_schema.json. Without a stamp, the latency of a frame begins when the
        decoder returns it.

    Raises:
        UsageError: The kind of source is unknown.
        StreamDiffVSRError: The source cannot be opened, its frames do not have the engines' size,
            or no frame could be measured.
    """
    size = PASS_THROUGH_SIZE if engines is None else read_manifest(engines).graphs.geometry.size
    with _opened(source, size) as address:
        whole = _opener(engines, device) if how is None else how.open_whole
        shelf = EnginePool(whole, tell=lambda _: None)
        taking = Taking(seconds, stamped=is_clock(source))
        model = engines is not None or how is not None
        found, stopped = take(address, shelf, taking, latency_ms, model=model, how=how)
    if stopped:
        on_stop(stopped)
    return {"source": address.shown if not is_clock(source) else source, **found}


def take(
    address: Address,
    shelf: EnginePool,
    taking: Taking,
    limit_ms: float | None = None,
    *,
    model: bool = True,
    how: Making | None = None,
) -> tuple[dict[str, Any], str]:
    """Runs a session from an address into a sink that measures.

    Args:
        model: Whether frames count only once the engines are ready, or from the first.
        how: How adaptive frames are made; None is exact mode.

    Returns:
        What was measured, and why the run ended early, or "".

    Raises:
        StreamDiffVSRError: No frame could be measured.
    """
    run = _Run(address, shelf, taking, limit_ms, model, how)
    stopped = run.wait()
    if not taking.taken:
        raise run.failure(stopped)
    return {**run.figures(), **_times(taking.taken), "stamped": taking.stamped}, stopped


class _Run:
    """A session in a thread, and its status when measuring began and ended."""

    def __init__(
        self,
        address: Address,
        shelf: EnginePool,
        taking: Taking,
        limit_ms: float | None,
        model: bool,
        how: Making | None,
    ) -> None:
        self._address, self._shelf, self._taking, self._model = address, shelf, taking, model
        self._feed = LiveSource(address, reconnect=False)
        sinks: Sequence[Sink] = [taking]
        self._session = LiveSession(
            self._feed,
            shelf,
            sinks,
            mode=how.mode if how else EXACT,
            adaptive=how.canvas if how else None,
            limit_ms=limit_ms,
        )
        self._stop = threading.Event()
        self._before = self._after = self._session.status()
        self._loop = SessionThread(self._session, self._stop)

    def wait(self) -> str:
        """Waits until it is measured; returns why it ended before that, or ""."""
        with closing(self._feed):
            stopped = self._follow()
            self._after = self._session.status()
            self._taking.close(0)
            self._stop.set()
            self._loop.done.wait(_END_S)
        ended = self._loop.done.is_set() and not self._session.stop_engines(_END_S)
        if ended:  # otherwise an engine is running, and must stay open
            self._shelf.close()
        return stopped

    def figures(self) -> dict[str, Any]:
        """Returns the rates and counts of the measured seconds."""
        taking, before, after = self._taking, self._before, self._after
        assert taking.began is not None
        seconds = max(taking.taken[-1].at - taking.began, 1e-3)
        received = after["source"]["received"] - before["source"]["received"]
        return {
            "seconds": round(seconds, 2),
            "mode": "latency",
            "fps_in": round(received / seconds, 2),
            "fps_out": round(max(len(taking.taken) + taking.unread - 1, 0) / seconds, 2),
            "dropped": after["dropped"] - before["dropped"],
            "engine": after["engine"] or "bicubic",
            "size": after["size"],
            "adaptive": _adaptive(after),
        }

    def failure(self, stopped: str) -> StreamDiffVSRError:
        """Returns the error to raise if no frame was measured."""
        if self._loop.error is not None:
            return self._loop.error
        what = f"could not measure {self._address.shown!r}"
        if self._taking.unread:
            return StreamDiffVSRError(
                what, f"the time could be read in none of {self._taking.unread} frames"
            )
        return StreamDiffVSRError(what, self._after["note"] or stopped or "no frame came")

    def _follow(self) -> str:
        try:
            due = time.monotonic() + FIRST_FRAME_S
            while not self._taking.started.wait(_TICK_S):
                if reason := self._over():
                    return reason
                if not self._taking.offered and time.monotonic() > due:
                    return f"no frame came within {FIRST_FRAME_S:.0f} s"
                if not self._model or self._session.status()["engine"]:
                    self._taking.armed.set()
            self._before = self._session.status()
            while not self._taking.done.wait(_TICK_S):
                if reason := self._over():
                    return reason
        except KeyboardInterrupt:
            return "stopped by Ctrl-C"
        return ""

    def _over(self) -> str:
        """Returns why no more frames will come, or ""."""
        if self._loop.error is not None:
            return str(self._loop.error)
        if self._loop.done.is_set():
            status = self._session.status()
            return f"the source has ended: {status['source']['error'] or 'there is no more of it'}"
        note = self._session.status()["note"]
        return note if note.startswith("bicubic: ") and self._model else ""


def _adaptive(status: Mapping[str, Any]) -> dict[str, Any] | None:
    found = status["adaptive"]
    return None if found is None else {name: found[name] for name in ADAPTIVE_FIGURES}


def _times(taken: list[Taken]) -> dict[str, Any]:
    stages = {name: quantiles(ms) for name, ms in stages_ms(taken).items()}
    return {
        "latency_ms": quantiles(latencies_ms(taken)),
        "age_ms": quantiles(ages_ms(taken)),
        "stages": stages or None,
    }


@contextmanager
def _opened(source: str, size: Size) -> Iterator[Address]:
    if not is_clock(source):
        yield parse_source(source)
        return
    with clock_running(*parse_clock(source, size)) as url:
        yield parse_source(url)


def _opener(engines: Path | None, device: str | None) -> Open:
    def open_ladder(size: Size, at: Callable[[str], None]) -> QualityLevels:
        if engines is None:
            raise StreamDiffVSRError("no engines were given")
        manifest = read_manifest(engines)
        if manifest.graphs.at(size).geometry.size != size:
            made_for = format_size(manifest.graphs.geometry.size)
            raise StreamDiffVSRError(
                f"no engines for {format_size(size)}",
                f"those given are made for {made_for}",
                f"use clock={made_for}, a source of that size, or engines for {format_size(size)}",
            )
        key = manifest.key
        described = (
            f"{manifest.model_name} {key.size} {key.precision}, {key.backend} on {key.device}"
        )
        engine, where = load(engines, device, size).session(), device or key.device
        return QualityLevels({"full": engine}, seed=0, described=described, device=where)

    return open_ladder
