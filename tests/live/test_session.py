"""A live session: what guides what, what is shed, and what an end leaves."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.engines.cache import staged
from streamdiffvsr.engines.host import Gpu
from streamdiffvsr.runtime.live import status
from streamdiffvsr.runtime.live.engine_pool import EnginePool
from streamdiffvsr.runtime.live.frame import LiveFrame, OutputFrame
from streamdiffvsr.runtime.live.running import END_S, run_session
from streamdiffvsr.runtime.live.session import LiveSession
from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.tests.live.stand_ins import (
    SIZE,
    KeepingSink,
    ListedSource,
    PacedSource,
    PassThrough,
    ladder,
    picture,
)


def frame(index: int, **changes: object) -> LiveFrame:
    usual = LiveFrame(picture(), index / 30, time.monotonic(), 0, index)
    return replace(usual, **changes)  # type: ignore[arg-type]


def shelf_of(**engines: PassThrough) -> EnginePool:
    shelf = EnginePool(lambda size, tell: pytest.fail("engines are there"), tell=lambda line: None)
    shelf.put(ladder(**engines))
    return shelf


def guided(frames: list[LiveFrame]) -> tuple[list[bool], dict[str, int]]:
    """Returns which frames had a previous one, and the resets by reason."""
    engine, sink = PassThrough(), KeepingSink()
    session = LiveSession(ListedSource(frames), shelf_of(full=engine), [sink])
    session.run(threading.Event())
    assert len(sink.frames) == len(frames)
    return engine.guided, session.status()["resets"]


def test_the_status_is_of_the_gpu_that_the_engines_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu("RTX 4090", "580", "24564 MiB", "8.9"), Gpu("RTX A6000", "580", "49140 MiB", "8.6")]
    monkeypatch.setattr(status, "cuda_gpu", lambda ordinal: gpus[ordinal])
    monkeypatch.setattr(status, "free_device_bytes", lambda ordinal: (ordinal + 1) * 2**30)
    assert status.gpu_status("cpu") is None
    assert status.gpu_status("cuda") == {"name": "RTX 4090", "memory_mb": 24564 - 1024}
    assert status.gpu_status("cuda:1") == {"name": "RTX A6000", "memory_mb": 49140 - 2048}


def test_the_stages_of_a_mode_that_was_left_go_out_of_the_status() -> None:
    tally, image = status.Tally(), picture()
    for finished, stages in (
        (0.0, {"bicubic": 3.0}),
        (5.0, {"upscale": 9.0}),
        (12.0, {"upscale": 9.0}),
    ):
        made = OutputFrame(image, frame(0), "full", finished, stages)
        tally.frame(made, passed_through=False)
    assert tally.to_json()["stage_ms"] == {"upscale": 9.0}


def test_frames_of_one_scene_guide_one_another() -> None:
    assert guided([frame(n) for n in range(4)]) == ([False, True, True, True], {})


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("jump", {"epoch": 1}),
        ("cut", {"cuts": 1}),
        ("gap", {"seconds": 2.5}),
    ],
)
def test_what_does_not_belong_together_does_not_guide(
    reason: str, changes: dict[str, object]
) -> None:
    after = {key: value for key, value in changes.items() if key != "seconds"}
    frames = [frame(0), frame(1), frame(2, **changes), frame(3, **after)]
    if reason == "gap":
        frames[3] = frame(3, seconds=2.5 + 1 / 30)
    assert guided(frames) == ([False, True, False, True], {reason: 1})


def test_a_slow_engine_is_guided_over_its_own_pace() -> None:
    """A second between frames is no gap where a frame takes as long."""
    engine, sink = PassThrough(cost_s=lambda: 0.5), KeepingSink()
    frames = [frame(n, seconds=1.4 * n) for n in range(3)]
    session = LiveSession(ListedSource(frames), shelf_of(full=engine), [sink])
    session.run(threading.Event())
    assert engine.guided == [False, True, True] and session.status()["resets"] == {}


def test_a_stream_may_become_tiny() -> None:
    """Cuts are looked for in thumbnails, and a tiny frame's are smaller still."""
    frames = [
        frame(0, image=picture(size=(180, 320))),
        frame(1, image=picture(size=(12, 16)), epoch=1),
    ]
    shelf = EnginePool(
        lambda size, tell: ladder(full=PassThrough(size=size)), tell=lambda line: None
    )
    sink = KeepingSink()
    LiveSession(ListedSource(frames), shelf, [sink]).run(threading.Event())
    assert [out.image.shape[:2] for out in sink.frames] == [(720, 1280), (48, 64)]


def test_damaged_frames_are_shown_but_guide_nothing() -> None:
    frames = [frame(0), frame(1), frame(2, damaged=True), frame(3), frame(4)]
    assert guided(frames) == ([False, True, False, True], {"damage": 1})


def test_a_cut_among_frames_that_passed_as_bicubic_counts() -> None:
    """The state is of the last frame that the model made, not of the last one that was shown."""
    frames = [frame(0), frame(1, cuts=1, damaged=True), frame(2, cuts=1)]
    assert guided(frames)[0] == [False, False]


def test_frames_far_apart_may_differ_without_a_cut() -> None:
    """What lies between them is known to the source alone, which has seen every frame."""
    assert guided([frame(0), frame(40, image=picture(seed=7), seconds=0.8)])[0] == [False, True]


def test_pixels_are_four_times_the_input_with_its_time() -> None:
    sink = KeepingSink()
    frames = [frame(n) for n in range(3)]
    session = LiveSession(ListedSource(frames), shelf_of(full=PassThrough()), [sink])
    session.run(threading.Event(), max_frames=2)
    assert [out.source.seconds for out in sink.frames] == [0, 1 / 30]
    expected = frames[0].image.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(sink.frames[0].image, expected)
    assert not sink.frames[0].image.flags.writeable


def test_a_new_size_is_bicubic_until_its_engines_are_there() -> None:
    wanted, there, told = (96, 128), threading.Event(), []

    def open_ladder(size: tuple[int, int], tell: Callable[[str], None]) -> object:
        tell("export flow")
        assert size == wanted and there.wait(10)
        return ladder(full=PassThrough(size=wanted))

    shelf = EnginePool(open_ladder, tell=told.append)  # type: ignore[arg-type]
    shelf.put(ladder(full=PassThrough()))
    sink = KeepingSink()
    large = [frame(n, image=picture(size=wanted), epoch=1) for n in range(1, 4)]
    session = LiveSession(ListedSource([frame(0), *large]), shelf, [sink])
    stop = threading.Event()
    session.run(stop, max_frames=3)
    assert [out.rung for out in sink.frames] == ["full", "bicubic", "bicubic"]
    assert sink.frames[1].image.shape == (384, 512, 3)
    status = session.status()
    assert "128x96" in status["note"] and "export flow" in status["note"]
    assert status["building"] == {"size": "128x96", "step": "export flow", "seconds": 0}
    there.set()
    until = time.monotonic() + 10
    while shelf.get(wanted) is None and time.monotonic() < until:
        there.wait(0.01)
    session.run(stop)
    assert sink.frames[3].rung == "full"
    assert (session.status()["note"], session.status()["building"]) == ("", None)
    assert any("128x96" in line for line in told)


def test_engines_that_fail_leave_the_stream_running() -> None:
    sink, told = KeepingSink(), []
    shelf = EnginePool(lambda size, tell: pytest.fail("asked again"), tell=told.append)
    shelf.put(ladder(full=PassThrough(breaks=True)))
    session = LiveSession(ListedSource([frame(n) for n in range(3)]), shelf, [sink])
    session.run(threading.Event())
    assert [out.rung for out in sink.frames] == ["bicubic"] * 3
    assert len(told) == 1 and "on purpose" in told[0]


@pytest.mark.slow
def test_age_stays_flat_with_an_engine_three_times_too_slow() -> None:
    source, sink = PacedSource(fps=30), KeepingSink()
    session = LiveSession(source, shelf_of(full=PassThrough(cost_s=lambda: 0.1)), [sink])
    session.run(threading.Event(), max_frames=30)
    latencies = [out.latency_ms for out in sink.frames]
    # The engine's time and two periods of the source, and never more with time: what else the
    # machine does adds to single frames, a queue would lift the lowest too.
    assert np.median(latencies[-10:]) < 100 + 2 * 1000 / 30 + 20
    assert np.percentile(latencies[-10:], 20) < np.percentile(latencies[5:15], 20) + 20
    assert source.dropped >= 50


@pytest.mark.slow
def test_work_is_shed_to_keep_the_latency_and_taken_up_again() -> None:
    slow = threading.Event()
    slow.set()
    full = PassThrough(cost_s=lambda: 0.15 if slow.is_set() else 0.01)
    half = PassThrough(cost_s=lambda: 0.02)
    sink, told = KeepingSink(), []
    session = LiveSession(
        PacedSource(fps=50),
        shelf_of(full=full, flow_1x2=half),
        [sink],
        limit_ms=100,
        tell=told.append,
    )
    session.run(threading.Event(), max_frames=60)
    latest = Counter(out.rung for out in sink.frames[-20:])  # a late one alone is bicubic
    assert latest.most_common(1)[0][0] == "flow 1x2" and latest["full"] <= 1, latest
    assert np.median([out.latency_ms for out in sink.frames[-20:]]) < 100
    # The state went along: the cheaper engine was guided by what the other had made.
    assert half.guided[0]
    slow.clear()
    stop = threading.Event()
    until = time.monotonic() + 20
    while sink.frames[-1].rung != "full" and time.monotonic() < until:
        session.run(stop, max_frames=10)
    assert sink.frames[-1].rung == "full"
    assert [line.split(":")[0] for line in told][:1] == ["rung full -> flow 1x2"]


class TestOperation:
    @pytest.mark.slow
    def test_it_ends_in_time_whatever_is_blocked(self) -> None:
        """An engine that hangs, a sink that hangs: both are left behind."""
        release = threading.Event()

        class Hanging(PassThrough):
            def step(self, image: np.ndarray) -> np.ndarray:
                release.wait(60)
                return super().step(image)

        class Stubborn(KeepingSink):
            def close(self, deadline_s: float) -> None:
                release.wait(60)

        good = KeepingSink()
        session = LiveSession(PacedSource(30), shelf_of(full=Hanging()), [Stubborn(), good])
        started = time.monotonic()
        ended = run_session(session, PacedSource(30), EnginePool(list, tell=print), max_seconds=0.5)  # type: ignore[arg-type]
        took = time.monotonic() - started
        release.set()
        assert (ended.reason, ended.stuck, good.closed) == ("time", True, True)
        assert took < 0.5 + END_S

    @pytest.mark.skipif(sys.platform == "win32", reason="named pipes of POSIX")
    def test_its_end_ends_a_build_and_leaves_nothing_of_it(self, tmp_path: Path) -> None:
        told: list[str] = []
        fifo = tmp_path / "pipe.mp4"
        os.mkfifo(fifo)

        def build(size: tuple[int, int], at: Callable[[str], None]) -> object:
            with staged(tmp_path / "engines"):
                return FileSource(fifo, deadline_s=60)  # waits for its process, as for a build's

        shelf = EnginePool(build, tell=told.append)  # type: ignore[arg-type]
        source = PacedSource(30)
        session = LiveSession(source, shelf, [KeepingSink()])
        started = time.monotonic()
        ended = run_session(session, source, shelf, max_seconds=2)
        assert time.monotonic() - started < 2 + END_S
        assert (ended.reason, ended.stuck) == ("time", False)
        assert list(tmp_path.iterdir()) == [fifo]
        assert len(told) == 1  # that engines are opened, not that they failed
        assert "the session ended before its engines were ready" in session.status()["note"]
        assert shelf.get((8, 8)) is None and shelf.opening((8, 8)) is None

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signals_stop_it_and_close_the_sinks(self, number: int) -> None:
        sink = KeepingSink()
        shelf = shelf_of(full=PassThrough())
        session = LiveSession(PacedSource(30), shelf, [sink])
        shown: list[dict[str, object]] = []

        def show(status: dict[str, object]) -> None:
            shown.append(status)
            if len(sink.frames) > 3:
                signal.raise_signal(number)

        ended = run_session(session, PacedSource(30), shelf, show=show)
        assert (ended.reason, ended.error, sink.closed) == ("stopped", None, True)
        assert shown[-1]["size"] == f"{SIZE[1]}x{SIZE[0]}"

    def test_it_fails_when_no_sink_is_left(self) -> None:
        shelf = shelf_of(full=PassThrough())
        sinks = [KeepingSink(name="a", state="failed"), KeepingSink(name="b", state="failed")]
        session = LiveSession(PacedSource(30), shelf, sinks)
        ended = run_session(session, PacedSource(30), shelf, max_seconds=30)
        assert ended.reason == "failed" and "a: no; b: no" in str(ended.error)

    def test_the_end_of_the_source_ends_it(self) -> None:
        source, shelf = ListedSource([frame(0)]), shelf_of(full=PassThrough())
        session = LiveSession(source, shelf, [KeepingSink()])
        assert run_session(session, source, shelf, max_seconds=30).reason == "source"
