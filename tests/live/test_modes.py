"""When auto makes whole frames, and how many tiles a frame may have refined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.engines.onnxruntime_backend import session_threads
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.adaptive import tile_engine
from streamdiffvsr.runtime.live.frame import LiveFrame
from streamdiffvsr.runtime.live.mode import USUAL_PERIOD_S, Period, WholeFrames
from streamdiffvsr.runtime.live.refiner import LEAST_SHARE, TileBudget, open_tiles

IMAGE = np.zeros((8, 8, 3), np.uint8)


def test_the_period_is_the_sources_own() -> None:
    period = Period()
    assert period.seconds == USUAL_PERIOD_S
    for index in (0, 1, 2, 5, 6):
        period.note(LiveFrame(IMAGE, 0.0, index / 10, 0, index))
        assert period.skipped == (index == 5)
    assert period.seconds == pytest.approx(0.1)
    period.note(LiveFrame(IMAGE, 0.0, 100.0, 1, 7))
    period.note(LiveFrame(IMAGE, 0.0, 100.5, 1, 8))
    assert period.seconds == pytest.approx(0.5), "what was before says nothing"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def late(whole: WholeFrames, count: int = 8) -> None:
    for _ in range(count):
        whole.measured(0.0, 0.2, 0.1, skipped=True)


def test_failed_tries_of_whole_frames_become_seldom() -> None:
    clock, told = Clock(), list[str]()
    whole = WholeFrames(tell=told.append, clock=clock)
    waits = []
    for _ in range(6):
        began = clock.now
        while not whole.expected(2, 0.01, 0.1):
            clock.now += 0.5
        waits.append(clock.now - began)
        whole.begin()
        late(whole)
        assert not whole.running
    assert waits == [0, 3, 6, 12, 24, 48]
    assert len(told) == 12
    clock.now += 60
    whole.begin()
    clock.now += 31
    for _ in range(5):
        whole.measured(0.0, 0.02, 0.1, skipped=False)
    assert whole.running
    late(whole)
    clock.now += 3
    assert whole.expected(2, 0.01, 0.1), "it was steady: earlier tries are forgotten"


@pytest.mark.parametrize(
    ("tiles", "tile_s", "period_s", "limit_ms", "expected"),
    [
        (2, 0.01, 0.1, None, True),
        (12, 0.025, 1 / 15, None, False),
        (2, 0.03, 0.1, None, False),  # 84 ms of 100: no margin
        (2, 0.01, 0.1, 30, False),
        (2, None, 0.1, None, False),
    ],
)
def test_whole_frames_are_predicted_from_tiles(
    tiles: int, tile_s: float | None, period_s: float, limit_ms: float | None, expected: bool
) -> None:
    assert WholeFrames(limit_ms).expected(tiles, tile_s, period_s) == expected


def test_one_late_frame_changes_nothing() -> None:
    whole = WholeFrames()
    whole.begin()
    for n in range(40):
        whole.measured(0.0, 0.12 if n % 10 == 5 else 0.03, 0.1, skipped=False)
    assert whole.running


def test_fractions_of_a_tile_add_up() -> None:
    budget, given = TileBudget(), []
    for _ in range(100):
        tiles = budget.frame(0.04, 0.1)
        budget.spend(tiles)
        given.append(tiles)
    assert set(given) == {0, 1} and 38 <= sum(given) <= 42


def test_late_frames_leave_less_time_to_tiles() -> None:
    budget = TileBudget()
    for _ in range(60):
        budget.finished(0.3, 0.1, skipped=False)
    assert budget.share == LEAST_SHARE
    for _ in range(60):
        budget.finished(0.02, 0.1, skipped=False)
    assert budget.share == 1
    budget.finished(0.02, 0.1, skipped=True)
    assert budget.share < 1
    tight = TileBudget(limit_s=0.05)
    tight.finished(0.045, 0.1, skipped=False)
    assert tight.share < 1, "the latency that is to be kept is shorter than a period"


def test_on_a_cpu_the_tiles_leave_a_core_to_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    def load(folder: Path, device: str | None) -> None:
        seen.append(session_threads.get())
        raise StreamDiffVSRError("no engine")

    monkeypatch.setattr(tile_engine, "load_tile_engine", load)
    for cpus in ("8", "1"):
        monkeypatch.setenv("STREAMDIFFVSR_THREADS", cpus)
        with pytest.raises(StreamDiffVSRError):
            open_tiles(Path("set"))
    assert seen == [7, 1] and session_threads.get() is None
