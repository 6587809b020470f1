"""An engine that hangs in mid-stream: what goes on without it, what is said, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamdiffvsr.runtime.live.engine_pool import WARM_UP, EnginePool
from streamdiffvsr.runtime.live.engine_thread import EngineThread, HangLimits
from streamdiffvsr.runtime.live.running import END_S, run_session
from streamdiffvsr.runtime.live.session import LiveSession
from streamdiffvsr.tests.live.hanging import HANGS_AT
from streamdiffvsr.tests.live.stand_ins import (
    KeepingSink,
    PacedSource,
    PassThrough,
    ladder,
    picture,
)

SOON = HangLimits(least_s=0.3, times=20.0, unknown_s=5.0, give_up=4.0)


@dataclass
class Blocking(PassThrough):
    """Hangs at its sixth frame until it is released."""

    released: threading.Event = field(default_factory=threading.Event)

    def step(self, image: np.ndarray) -> np.ndarray:
        if len(self.guided) == 5:
            self.released.wait(60)
        return super().step(image)


@pytest.fixture
def engine() -> Any:
    made = Blocking()
    yield made
    made.released.set()


def session_of(
    engine: PassThrough, limits: HangLimits, told: list[str]
) -> tuple[LiveSession, EnginePool]:
    shelf = EnginePool(lambda size, tell: pytest.fail("engines are there"), tell=told.append)
    shelf.put(ladder(full=engine))
    sink = KeepingSink()
    return LiveSession(PacedSource(30), shelf, [sink], tell=told.append, limits=limits), shelf


class TestRunner:
    @pytest.mark.parametrize(
        ("cost_s", "limits", "deadline_s"),
        [
            (0.05, HangLimits(least_s=0.2, times=20, unknown_s=9), 1.0),
            (0.0, HangLimits(least_s=0.4, times=20, unknown_s=9), 0.4),
        ],
    )
    def test_a_frame_may_take_many_times_its_usual_time(
        self, engine: Blocking, cost_s: float, limits: HangLimits, deadline_s: float
    ) -> None:
        engine.cost_s = lambda: cost_s
        runner, rungs = EngineThread(limits), ladder(full=engine)
        for _ in range(5):
            assert runner.step(rungs, "full", picture()) is not None
        began = time.monotonic()
        assert runner.step(rungs, "full", picture()) is None
        took = time.monotonic() - began
        assert deadline_s <= took < deadline_s * 1.5 + 0.3
        assert runner.stuck_s >= deadline_s and not runner.lost

    def test_the_first_frames_may_take_longer(self) -> None:
        """Nothing is usual yet, and the first one may load and compile."""
        costs = iter([0.5] * WARM_UP + [0.0])
        engine = PassThrough(cost_s=lambda: next(costs))
        runner = EngineThread(HangLimits(least_s=0.1, unknown_s=10))
        rungs = ladder(full=engine)
        assert all(runner.step(rungs, "full", picture()) for _ in range(WARM_UP + 1))

    def test_a_frame_that_comes_late_is_thrown_away_and_its_time_learnt(
        self, engine: Blocking
    ) -> None:
        runner, rungs = EngineThread(HangLimits(least_s=0.2, unknown_s=9)), ladder(full=engine)
        for shade in range(5):
            runner.step(rungs, "full", picture(shade))
        assert runner.step(rungs, "full", picture(5)) is None
        engine.released.set()
        until = time.monotonic() + 10
        while runner.stuck_s and time.monotonic() < until:
            time.sleep(0.001)
        made = runner.step(rungs, "full", picture(6))
        assert made is not None
        assert np.array_equal(made[0][::4, ::4], picture(6))
        runner.close()

    def test_its_thread_ends_with_it(self) -> None:
        before = threading.active_count()
        runner = EngineThread()
        runner.step(ladder(full=PassThrough()), "full", picture())
        assert threading.active_count() == before + 1
        runner.close()
        assert threading.active_count() == before

    def test_what_the_engine_raises_arrives(self) -> None:
        with pytest.raises(Exception, match="on purpose"):
            EngineThread().step(ladder(full=PassThrough(breaks=True)), "full", picture())


def test_frames_go_on_as_bicubic_and_the_engine_may_come_back(engine: Blocking) -> None:
    told: list[str] = []
    session, _ = session_of(engine, HangLimits(least_s=0.3, unknown_s=5, give_up=1000), told)
    (sink,) = session.sinks
    assert isinstance(sink, KeepingSink)
    stop = threading.Event()
    session.run(stop, max_frames=15)
    assert [out.rung for out in sink.frames] == ["full"] * 5 + ["bicubic"] * 10
    status = session.status()
    assert status["stuck_s"] >= 0.3 and "engine stuck for" in status["note"]
    engine.released.set()
    until = time.monotonic() + 20
    while sink.frames[-1].rung != "full" and time.monotonic() < until:
        session.run(stop, max_frames=1)
    session.run(stop, max_frames=1)
    status = session.status()
    assert (status["stuck_s"], status["note"]) == (0, "")
    # The state was of the frame that came too late, so the next one was not guided by it.
    assert engine.guided[5:] == [True, False, True] and status["resets"] == {"stuck": 1}
    assert [line.split(":")[0] for line in told] == ["engine stuck", "the engine answers again"]


def test_an_engine_that_never_comes_back_ends_the_session_with_its_files(engine: Blocking) -> None:
    told: list[str] = []
    session, shelf = session_of(engine, SOON, told)
    (sink,) = session.sinks
    shown: list[dict[str, Any]] = []
    ended = run_session(session, PacedSource(30), shelf, max_seconds=60, show=shown.append)
    assert (ended.reason, ended.stuck) == ("failed", True)
    assert "the engine has been stuck for 1 s" in str(ended.error)
    assert isinstance(sink, KeepingSink) and sink.closed
    assert any(status["stuck_s"] > 0 for status in shown)
    assert not engine.closed  # it is at work still: what it works with is left alone


def run_hanging(give_up: float, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streamdiffvsr.tests.live.hanging", str(give_up)]
    command += ["testsrc=160x90@30", "--to", str(out)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_a_signal_ends_it_in_time_with_whole_files_while_it_hangs(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    process = run_hanging(1000, out)
    assert process.stdout is not None
    written = 0
    for line in process.stdout:
        event = json.loads(line)
        written = event.get("sinks", [{"written": 0}])[0]["written"]
        if event.get("stuck_s") and written > HANGS_AT + 5:
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    rest, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < END_S
    assert (process.returncode, errors) == (0, "")
    assert json.loads(rest.splitlines()[-1])["reason"] == "stopped"
    assert frames_in(out) >= written  # those behind the hang too


@pytest.mark.slow
def test_it_leaves_with_a_failure_when_the_engine_never_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    process = run_hanging(4, out)
    lines, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("error: the engine has been stuck for 2 s: ")
    assert len(errors.splitlines()) == 1
    last = json.loads(lines.splitlines()[-1])
    assert last["reason"] == "failed" and last["frames"] > HANGS_AT
    assert frames_in(out) == last["sinks"][0]["written"] > 0
