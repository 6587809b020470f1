"""Tests that results are never lost: one subject fails, another is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamdiffvsr.benchmarks import run as running
from streamdiffvsr.benchmarks.run import Benchmark, Settings
from streamdiffvsr.benchmarks.subject import Lane, Times


@pytest.mark.slow
def test_a_subject_that_fails_midway_keeps_its_rounds_and_the_other_goes_on(
    stand_in_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = Lane.frames
    calls = iter(range(100))

    def lost(lane: Lane, count: int) -> Times:
        if next(calls) == 5:  # of the second round: latency of the first that is run in it
            raise RuntimeError("CUDA error:\nthe device was lost")
        return frames(lane, count)

    monkeypatch.setattr(Lane, "frames", lost)
    monkeypatch.setattr(running.Subject, "id", property(lambda self: f"subject {id(self)}"))
    benchmark = Benchmark(Settings(frames=3, rounds=3, around=False), lambda line: None)
    benchmark.run([stand_in_set, stand_in_set])
    result = benchmark.result()
    rounds = [len(s["modes"]["plain"]["rounds_p50"]) for s in result["subjects"]]
    assert sorted(rounds) == [2, 3]
    assert not result["complete"] and result["stopped"].endswith("CUDA error: the device was lost")


def test_engines_that_are_not_there_are_told_and_the_others_measured(
    stand_in_set: Path, tmp_path: Path
) -> None:
    benchmark = Benchmark(Settings(frames=1, rounds=1, around=False), lambda line: None)
    benchmark.run([tmp_path / "none", stand_in_set])
    result = benchmark.result()
    assert len(result["subjects"]) == 1
    assert "none" in result["stopped"] and not result["complete"]
