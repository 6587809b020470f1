"""Whole frames of several sessions by one thread and one set of engines: each has its own state."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.runtime.live.engine_pool import EnginePool, QualityLevels
from streamdiffvsr.runtime.live.engine_thread import EngineThread, HangLimits
from streamdiffvsr.runtime.live.frame import LiveFrame
from streamdiffvsr.runtime.live.session import LiveSession
from streamdiffvsr.runtime.upscaler import load
from streamdiffvsr.tests.live.stand_ins import (
    KeepingSink,
    ListedSource,
    PassThrough,
    ladder,
    picture,
)


def frames(seed: int, count: int = 4) -> list[LiveFrame]:
    shown = [np.roll(picture(seed), n, axis=1) for n in range(count)]
    return [LiveFrame(image, n / 30, time.monotonic(), 0, n) for n, image in enumerate(shown)]


def run_together(sessions: Sequence[LiveSession]) -> None:
    """Runs sessions to their ends, each in a thread."""
    threads = [threading.Thread(target=one.run, args=(threading.Event(),)) for one in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def made_of(levels: QualityLevels, seeds: list[int]) -> list[list[np.ndarray]]:
    """Runs a session for each seed at the same time, with one pool and one thread."""
    pool = EnginePool(lambda size, at: pytest.fail("engines are there"), tell=lambda line: None)
    pool.put(levels)
    runner = EngineThread()
    sinks = [KeepingSink() for _ in seeds]
    sessions = [
        LiveSession(ListedSource(frames(seed)), pool, [sink], runner=runner)  # type: ignore[arg-type]
        for seed, sink in zip(seeds, sinks, strict=True)
    ]
    run_together(sessions)
    runner.close()
    assert all(out.rung == "full" for sink in sinks for out in sink.frames)
    return [[out.image for out in sink.frames] for sink in sinks]


@pytest.mark.slow
def test_streams_that_share_engines_get_the_frames_they_would_get_alone(
    parity_engines: Path,
) -> None:
    def levels() -> QualityLevels:
        session = load(parity_engines, "cpu", (48, 64)).session()
        return QualityLevels({"full": session}, seed=3, described="real ones")

    alone = [made_of(levels(), [seed])[0] for seed in (1, 2)]
    together = made_of(levels(), [1, 2])
    for ours, theirs in zip(together, alone, strict=True):
        assert len(ours) == 4
        assert all(map(np.array_equal, ours, theirs))


@dataclass
class Remembering(PassThrough):
    """Notes which frame guided which."""

    pairs: list[tuple[int, int]] = field(default_factory=list)

    def step(self, image: np.ndarray) -> np.ndarray:
        if self.state.previous_lr is not None:
            self.pairs.append((int(self.state.previous_lr[0, 0, 0]), int(image[0, 0, 0])))
        return super().step(image)


def test_no_frame_is_guided_by_one_of_another_stream() -> None:
    engine = Remembering(cost_s=lambda: 0.002)
    pool = EnginePool(lambda size, at: pytest.fail("engines are there"), tell=lambda line: None)
    pool.put(ladder(full=engine))
    runner = EngineThread()

    def source(shade: int) -> ListedSource:
        image = np.full((48, 64, 3), shade, np.uint8)
        return ListedSource([LiveFrame(image, n / 30, time.monotonic(), 0, n) for n in range(20)])

    sessions = [
        LiveSession(source(shade), pool, [], runner=runner)  # type: ignore[arg-type]
        for shade in (10, 20, 30)
    ]
    run_together(sessions)
    runner.close()
    assert len(engine.pairs) == 3 * 19
    assert all(before == after for before, after in engine.pairs)


def test_a_hanging_engine_is_seen_by_all_and_may_come_back() -> None:
    released = threading.Event()

    class Hanging(PassThrough):
        def step(self, image: np.ndarray) -> np.ndarray:
            if len(self.guided) == 4:
                released.wait(30)
            return super().step(image)

    runner = EngineThread(HangLimits(least_s=0.2, unknown_s=5, give_up=1000))
    levels = ladder(full=Hanging())
    mine, theirs = levels.share(), levels.share()
    for _ in range(4):
        assert runner.step(mine, "full", picture())
    assert runner.step(mine, "full", picture()) is None
    assert runner.stuck_s > 0.1 and not runner.lost
    began = time.monotonic()
    assert runner.step(theirs, "full", picture()) is None
    assert time.monotonic() - began < 0.1, "who comes later does not wait"
    released.set()
    until = time.monotonic() + 10
    while runner.stuck_s and time.monotonic() < until:
        time.sleep(0.001)
    assert runner.step(theirs, "full", picture())
    runner.close()


def test_engines_that_fail_are_reported_once_and_may_be_forgiven() -> None:
    told: list[str] = []
    opened: list[tuple[int, int]] = []

    def open_again(size: tuple[int, int], at: object) -> QualityLevels:
        opened.append(size)
        return ladder(full=PassThrough())

    pool = EnginePool(open_again, tell=told.append)
    pool.put(ladder(full=PassThrough(breaks=True)))
    for _ in range(2):
        pool.fail((48, 64), "on purpose")
    assert len(told) == 1 and pool.get((48, 64)) is None and not opened
    pool.forgive()
    until = time.monotonic() + 10
    while pool.get((48, 64)) is None and time.monotonic() < until:
        time.sleep(0.01)
    assert opened == [(48, 64)]
