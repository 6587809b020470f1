"""Adaptive frames of a live session: carried, refined in a thread, and honest about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.live.adaptive_frames import AdaptiveFrames
from streamdiffvsr.runtime.live.engine_pool import EnginePool
from streamdiffvsr.runtime.live.engine_thread import HangLimits
from streamdiffvsr.runtime.live.frame import LiveFrame
from streamdiffvsr.runtime.live.mode import Period
from streamdiffvsr.runtime.live.refiner import open_tiles
from streamdiffvsr.runtime.live.running import SessionThread, run_session
from streamdiffvsr.runtime.live.session import LiveSession
from streamdiffvsr.tests.live.stand_ins import KeepingSink, ListedSource, PassThrough, ladder
from streamdiffvsr.tests.live.tiles import (
    GAIN,
    Marking,
    adaptive,
    frame,
    marked,
    moving,
    textured,
    wait_for,
)

SIZE = (96, 128)


def no_engines() -> EnginePool:
    return EnginePool(lambda size, at: pytest.fail("whole frames"), tell=lambda line: None)


def session_of(source: Any, made: AdaptiveFrames, **more: Any) -> tuple[LiveSession, KeepingSink]:
    sink = KeepingSink()
    shelf = more.pop("shelf", None) or no_engines()
    mode = more.pop("mode", "adaptive")
    return LiveSession(source, shelf, [sink], mode=mode, adaptive=made, **more), sink


@dataclass
class Paced:
    """Gives frames at their own pace; those that are not fetched in time are dropped."""

    frames: list[LiveFrame]
    fps: float
    last: int = -1
    dropped: int = 0
    began: float = field(default_factory=time.monotonic)

    def newest(self, timeout_s: float) -> LiveFrame | None:
        if self.last + 1 >= len(self.frames):
            raise EOFError
        while (index := int((time.monotonic() - self.began) * self.fps)) <= self.last:
            time.sleep(0.001)
        index = min(index, len(self.frames) - 1)
        self.dropped += index - self.last - 1
        self.last = index
        return replace(self.frames[index], captured=self.began + index / self.fps)

    def status(self) -> dict[str, Any]:
        return {"state": "playing", "dropped": 0, "reconnects": 0, "fps": self.fps, "error": ""}

    def close(self) -> None:
        """Nothing to stop."""


class Stepping:
    """Drives `AdaptiveFrames` frame by frame."""

    def __init__(self, made: AdaptiveFrames) -> None:
        self.made, self.period = made, Period()

    def __call__(self, shown: LiveFrame, *, settle: bool = True) -> Any:
        self.period.note(shown)
        out = self.made.step(shown, self.period)
        if settle:
            wait_for(lambda: not self.made._refiner.backlog)
        return out


# ---- the source's rate ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamdiffvsr.build("tiny", size=(48, 48), out=tmp_path_factory.mktemp("e") / "set")


@pytest.mark.slow
def test_the_model_refines_a_camera_at_its_own_rate(folder: Path) -> None:
    made = AdaptiveFrames(lambda at: open_tiles(folder))
    wait_for(lambda: made.ready)
    session, sink = session_of(Paced(moving(45, step=1), fps=10), made)
    assert session.run(threading.Event())
    status = session.status()
    assert len(sink.frames) >= 40 and {out.rung for out in sink.frames} == {"adaptive"}
    assert status["adaptive"]["tiles_per_s"] > 2 and status["adaptive"]["fresh"] > 0.2
    assert "48x48" in status["engine"] and status["running"] == "adaptive"
    last = sink.frames[-1]
    assert last.image.shape == (4 * SIZE[0], 4 * SIZE[1], 3)
    assert last.freshness is not None and last.freshness.max() > 200


@pytest.mark.slow
def test_no_frame_waits_for_a_tile() -> None:
    made = adaptive(Marking(cost_s=0.6))
    session, sink = session_of(Paced(moving(45, step=1), fps=15), made)
    session.run(threading.Event())
    latencies = sorted(out.latency_ms for out in sink.frames)
    assert len(sink.frames) >= 40 and latencies[len(latencies) * 9 // 10] < 200
    assert 1 <= made._refiner.made <= 6


def test_what_comes_late_lands_where_the_picture_has_moved_to() -> None:
    engine = Marking(hangs_after=0)
    made = adaptive(engine)
    step, shown = Stepping(made), moving(6, step=3)
    for each in shown[:5]:
        step(each, settle=False)
    assert len(engine.seen) == 0
    engine.released.set()
    wait_for(lambda: engine.seen)
    wait_for(lambda: not made._refiner._patches.empty())
    step(shown[5], settle=False)
    tile = engine.seen[0]
    moved = 5 * 3  # LR pixels to the left
    rows, left = slice(tile.top + 8, tile.top + 40), tile.left - moved + 12
    columns = slice(max(left, 4), tile.left - moved + 36)
    assert columns.stop > columns.start + 8
    canvas = made._canvas
    assert canvas is not None
    large = tuple(slice(4 * part.start, 4 * part.stop) for part in (rows, columns))
    expected, found = marked(shown[5].image)[large], canvas.detail[large]
    unmoved = marked(shown[0].image)[large]
    assert np.abs(found - expected).mean() < 0.12 * GAIN
    assert np.abs(found - unmoved).mean() > 3 * np.abs(found - expected).mean()
    assert 0.2 < canvas.age[rows, columns].mean() < 0.5, "counted from the tile's own frame"


# ---- engines that fail or hang ----


def refined(made: AdaptiveFrames, count: int = 12) -> Stepping:
    """Lets the frames of a still picture be refined."""
    step = Stepping(made)
    for n in range(count):
        step(frame(n, textured(*SIZE)))
    return step


def test_a_failing_engine_leaves_carried_detail_and_says_so() -> None:
    told: list[str] = []
    made = adaptive(Marking(fails_after=8), told)
    step = refined(made)
    wait_for(lambda: made._refiner.error)
    session, sink = session_of(
        ListedSource([frame(13 + n, textured(*SIZE)) for n in range(4)]), made
    )
    session.run(threading.Event())
    assert [out.rung for out in sink.frames] == ["adaptive"] * 4
    assert "carried detail only" in session.status()["note"]
    assert "on purpose" in session.status()["note"]
    assert sum("failed" in line for line in told) == 1
    canvas = step.made._canvas
    assert canvas is not None and np.abs(canvas.detail).mean() > 0.1 * GAIN
    assert session.status()["adaptive"]["bicubic"] < 0.5


def test_a_hanging_engine_leaves_carried_detail_and_may_come_back() -> None:
    told: list[str] = []
    engine = Marking(hangs_after=8)
    made = adaptive(engine, told, limits=HangLimits(0.2, 5, unknown_s=0.2, give_up=1e6))
    source = Paced([frame(n, textured(*SIZE)) for n in range(300)], fps=30)
    session, sink = session_of(source, made)
    stop = threading.Event()
    loop = SessionThread(session, stop)
    wait_for(lambda: session.stuck_s and "engine stuck" in "".join(told))
    shown = len(sink.frames)
    wait_for(lambda: len(sink.frames) > shown + 5)
    status = session.status()
    assert "engine stuck for" in status["note"] and "carried detail only" in status["note"]
    assert {out.rung for out in sink.frames} == {"adaptive"}
    assert status["adaptive"]["bicubic"] < 0.3
    engine.released.set()
    before = made._refiner.made
    wait_for(lambda: made._refiner.made > before + 3 and len(told) == 2)
    stop.set()
    assert loop.done.wait(10) and session.status()["note"] == ""
    assert [line.split(":")[0] for line in told] == ["engine stuck", "the engine answers again"]


@pytest.mark.slow
def test_an_engine_that_never_comes_back_ends_the_session() -> None:
    engine = Marking(hangs_after=3)
    made = adaptive(engine, limits=HangLimits(0.2, 5, unknown_s=0.2, give_up=3))
    source = Paced([frame(n, textured(*SIZE)) for n in range(3000)], fps=30)
    session, sink = session_of(source, made)
    ended = run_session(session, source, no_engines(), max_seconds=60)  # type: ignore[arg-type]
    engine.released.set()
    assert (ended.reason, ended.stuck, sink.closed) == ("failed", True, True)
    assert "the engine has been stuck for" in str(ended.error)


def test_an_engine_that_cannot_be_opened_leaves_bicubic_and_says_so() -> None:
    def fail(at: Any) -> Any:
        raise StreamDiffVSRError("no engine", "on purpose")

    made = AdaptiveFrames(fail)
    wait_for(made.note)
    session, sink = session_of(ListedSource(moving(3)), made)
    session.run(threading.Event())
    assert [out.rung for out in sink.frames] == ["bicubic"] * 3
    assert session.status()["note"] == "bicubic: no engine: on purpose"


def test_frames_are_bicubic_while_the_engine_is_opened() -> None:
    there = threading.Event()

    def slowly(at: Any) -> Any:
        at("compile denoise")
        there.wait(20)
        raise StreamDiffVSRError("no engine", "on purpose")

    made = AdaptiveFrames(slowly)
    session, sink = session_of(ListedSource(moving(2)), made)
    session.run(threading.Event())
    status = session.status()
    there.set()
    assert [out.rung for out in sink.frames] == ["bicubic"] * 2
    assert status["building"] == {"size": "48x48", "step": "compile denoise", "seconds": 0}
    assert "compile denoise" in status["note"]


# ---- what belongs together ----


@pytest.mark.parametrize("reason", ["cut", "gap", "jump", "damage"])
def test_another_scene_empties_the_canvas(reason: str) -> None:
    made = adaptive(Marking())
    refined(made)
    image, cuts = textured(*SIZE), int(reason == "cut")
    others = [
        frame(20, image, damaged=reason == "damage", cuts=cuts),
        frame(21, image, cuts=cuts),
    ]
    if reason == "gap":
        others = [replace(each, seconds=each.seconds + 5) for each in others]
    if reason == "jump":
        others = [replace(each, epoch=1) for each in others]
    source = ListedSource([frame(19, textured(*SIZE)), *others])
    made._refiner.error = "so that nothing refines it again"
    session, sink = session_of(source, made)
    session.run(threading.Event())
    before, *after = (out.freshness for out in sink.frames)
    assert before is not None and before.mean() > 200
    assert after[-1] is not None and after[-1].max() == 0
    assert session.status()["resets"] == {reason: 1}


def test_a_tile_of_the_last_scene_that_comes_late_is_dropped() -> None:
    engine = Marking(hangs_after=0)
    made = adaptive(engine)
    step = Stepping(made)
    step(frame(0, textured(*SIZE)), settle=False)
    assert engine.began.wait(20)  # a tile that waits would be dropped
    made.reset()
    engine.released.set()
    wait_for(lambda: engine.seen and not made._refiner._patches.empty())
    out = step(frame(1, textured(*SIZE, seed=5)), settle=False)
    canvas = made._canvas
    assert out.freshness.max() == 0 and canvas is not None and not canvas.detail.any()


def test_a_damaged_frame_is_never_refined() -> None:
    engine = Marking()
    made = adaptive(engine)
    source = ListedSource([frame(n, textured(*SIZE), damaged=True) for n in range(3)])
    session, sink = session_of(source, made)
    session.run(threading.Event())
    assert [out.rung for out in sink.frames] == ["bicubic"] * 3 and not engine.seen


def test_another_size_needs_no_other_engine() -> None:
    opened: list[int] = []
    engine = Marking()

    def open_once(at: Any) -> Any:
        from streamdiffvsr.runtime.live.refiner import OpenedTiles

        opened.append(1)
        return OpenedTiles(engine, "stand-in")  # type: ignore[arg-type]

    made = AdaptiveFrames(open_once)
    wait_for(lambda: made.ready)
    sizes = [SIZE, (33, 70), (180, 320)]
    frames = [
        frame(n, textured(*size), epoch=n // 4)
        for n, size in enumerate(size for size in sizes for _ in range(4))
    ]
    session, sink = session_of(ListedSource(frames), made)
    session.run(threading.Event())
    assert [out.image.shape[:2] for out in sink.frames[::4]] == [(4 * h, 4 * w) for h, w in sizes]
    assert {out.rung for out in sink.frames} == {"adaptive"} and opened == [1]
    assert session.status()["resets"] == {"size": 2}


# ---- regions and figures ----


def test_regions_of_interest_are_refined_first() -> None:
    engine = Marking()
    region = (70, 40, 40, 40)
    made = adaptive(engine, regions=[region])
    step = Stepping(made)
    step(frame(0, textured(*SIZE)))
    first = engine.seen[0]
    assert first.left <= 70 and first.left + 48 >= 110 and first.top <= 40 <= first.top + 8
    made.prefer([(0, 0, 30, 30)])
    made.reset()
    step(frame(1, textured(*SIZE, seed=3)))
    step(frame(2, textured(*SIZE, seed=3)))
    assert any((tile.top, tile.left) == (0, 0) for tile in engine.seen[1:3])
    assert made.status()["regions"] == [[0, 0, 30, 30]]  # type: ignore[index]


def test_regions_outside_the_frame() -> None:
    told: list[str] = []
    made = adaptive(Marking(), told, regions=[(500, 0, 10, 10), (0, 0, 20, 20), (90, 60, 30, 30)])
    session, _ = session_of(
        ListedSource([frame(0, textured(*SIZE)), frame(1, textured(64, 96), epoch=1)]), made
    )
    stop = threading.Event()
    session.run(stop, max_frames=1)
    assert len(told) == 1 and "500,0,10,10 is not in the frame" in told[0]
    with pytest.raises(UsageError, match="reaches beyond the frame"):
        session.prefer([(120, 0, 20, 20)])
    assert session.status()["adaptive"]["regions"] == [[0, 0, 20, 20], [90, 60, 30, 30]]
    session.run(stop)
    assert session.status()["adaptive"]["regions"] == [[0, 0, 20, 20]], "those that still fit"


def test_exact_mode_has_no_regions() -> None:
    session = LiveSession(ListedSource([]), no_engines(), [])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="adaptive frames"):
        session.prefer([(0, 0, 8, 8)])
    assert session.status()["adaptive"] is None and session.status()["mode"] == "exact"


def test_the_status_says_what_the_picture_consists_of() -> None:
    made = adaptive(Marking(cost_s=0.01))
    refined(made, 20)
    figures = made.status()
    assert figures is not None
    assert figures["fresh"] + figures["carried"] + figures["bicubic"] == pytest.approx(1, abs=0.01)
    assert figures["fresh"] > 0.9 and figures["tile_count"] == 9
    assert figures["tile_ms"] >= 10 and figures["tiles_per_frame"] > 0
    assert set(figures) == {
        *("fresh", "carried", "bicubic", "tiles_per_frame", "tiles_per_s"),
        *("tile_ms", "tile_count", "oldest_s", "regions"),
    }
    cells = Stepping(made)(frame(30, textured(*SIZE))).freshness
    assert cells.dtype == np.uint8 and cells.shape[0] <= 27 and cells.shape[1] <= 48


# ---- auto ----


@pytest.fixture
def quick() -> Iterator[AdaptiveFrames]:
    yield adaptive(Marking(cost_s=0.001))


def whole(cost_s: float, told: list[str]) -> EnginePool:
    shelf = EnginePool(lambda size, at: pytest.fail("it is there"), tell=told.append)
    shelf.put(ladder(full=PassThrough(cost_s=lambda: cost_s, size=SIZE)))
    return shelf


@pytest.mark.slow
def test_auto_makes_whole_frames_where_they_keep_the_rate(quick: AdaptiveFrames) -> None:
    told: list[str] = []
    source = Paced([frame(n, textured(*SIZE)) for n in range(25)], fps=5)
    shelf = whole(0.01, told)
    session, sink = session_of(source, quick, mode="auto", shelf=shelf, tell=told.append)
    session.run(threading.Event())
    rungs = [out.rung for out in sink.frames]
    assert rungs[0] == "adaptive" and set(rungs[10:]) == {"full"}
    assert sink.frames[-1].freshness is None
    status = session.status()
    assert (status["mode"], status["running"], status["rung"]) == ("auto", "exact", "full")
    assert status["adaptive"] is None


@pytest.mark.slow
def test_auto_falls_back_to_a_canvas_of_the_last_whole_frame(quick: AdaptiveFrames) -> None:
    """Whole frames seemed to be quick, and are not."""
    told: list[str] = []
    source = Paced([frame(n, textured(*SIZE)) for n in range(40)], fps=15)
    shelf = whole(0.15, told)
    session, sink = session_of(source, quick, mode="auto", shelf=shelf, tell=told.append)
    session.run(threading.Event())
    rungs = [out.rung for out in sink.frames]
    assert "full" in rungs
    back = len(rungs) - rungs[::-1].index("full")
    assert set(rungs[back:]) == {"adaptive"} and len(rungs) - back > 10
    first = sink.frames[back].freshness
    assert first is not None and first.mean() > 200, "it begins with what the model made"
    assert any(line.startswith("mode exact -> adaptive") for line in told)


def test_auto_never_opens_whole_frames_that_cannot_keep_the_rate() -> None:
    made = adaptive(Marking(cost_s=0.05))
    source = Paced([frame(n, textured(*SIZE)) for n in range(30)], fps=15)
    session, sink = session_of(source, made, mode="auto")
    session.run(threading.Event())
    assert {out.rung for out in sink.frames} == {"adaptive"}
