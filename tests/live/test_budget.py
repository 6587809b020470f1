"""Latency control: down when frames are late, up when there is room, and not to and fro."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamdiffvsr.runtime.live.engine_pool import BICUBIC, LatencyBudget

RUNGS = ("full", "flow 1/2", BICUBIC)


class Machine:
    """A machine with a clock of its own, a budget, and the current costs of the rungs."""

    def __init__(self, limit_ms: float | None, **costs_ms: float) -> None:
        self.now = 0.0
        self.costs_ms = {"full": 50.0, "flow 1/2": 30.0, **costs_ms}
        self.told: list[str] = []
        self.budget = LatencyBudget(RUNGS, limit_ms, tell=self.told.append, clock=lambda: self.now)

    def run(self, frames: int, age_ms: float = 5.0) -> list[str]:
        """The rungs of so many frames at 20 a second."""
        chosen = []
        for _ in range(frames):
            rung = self.budget.choose(age_ms)
            chosen.append(rung)
            if rung != BICUBIC:
                self.budget.measured(rung, age_ms, self.costs_ms[rung])
            self.now += 0.05
        return chosen


def test_without_a_limit_nothing_is_shed() -> None:
    assert set(Machine(None, full=10_000).run(50)) == {"full"}


def test_what_fits_stays() -> None:
    machine = Machine(100)
    assert set(machine.run(200)) == {"full"} and not machine.told


def test_it_goes_down_only_as_far_as_it_must() -> None:
    machine = Machine(60, full=80)
    assert set(machine.run(40)[5:]) == {"flow 1/2"}
    assert len(machine.told) == 1 and machine.told[0].startswith("rung full -> flow 1/2: 85 ms")


def test_one_late_frame_passes_as_bicubic_and_changes_nothing() -> None:
    machine = Machine(100)
    machine.run(10)
    assert machine.run(1, age_ms=90) == [BICUBIC]
    assert set(machine.run(10)) == {"full"} and not machine.told


def test_it_climbs_back_when_the_load_is_gone() -> None:
    machine = Machine(60, full=80)
    machine.run(40)
    machine.costs_ms["full"] = 20
    assert machine.run(100)[-1] == "full"
    assert machine.told[-1].startswith("rung flow 1/2 -> full")


def test_a_rung_that_never_fits_is_tried_ever_more_seldom() -> None:
    machine = Machine(60, full=80)
    chosen = machine.run(20 * 300)  # five minutes
    tries = [n for n, rung in enumerate(chosen) if rung == "full"][3:]
    gaps = [(b - a) / 20 for a, b in pairwise(tries)]
    assert 4 <= len(tries) <= 12
    assert all(late >= early for early, late in pairwise(gaps))
    assert gaps[-1] >= 55


def test_what_costs_many_times_the_limit_is_hardly_tried() -> None:
    machine = Machine(20, full=400, **{"flow 1/2": 18})
    chosen = machine.run(20 * 120)
    assert chosen[100:].count("full") <= 2


def test_where_nothing_fits_bicubic_it_is() -> None:
    machine = Machine(20, full=200, **{"flow 1/2": 100})
    chosen = machine.run(20 * 60)
    assert chosen.count(BICUBIC) > 0.97 * len(chosen)


@pytest.mark.parametrize(("rungs", "limit_ms"), [(["full"], 10), ([], 10), (RUNGS, 0), (RUNGS, -1)])
def test_nonsense_is_refused(rungs: list[str], limit_ms: float) -> None:
    with pytest.raises(ValueError):
        LatencyBudget(rungs, limit_ms)
