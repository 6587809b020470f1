"""Tests the progress that a build reports, from any number of threads."""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import pytest

from streamdiffvsr.engines.tensorrt_build import BuildProgress
from streamdiffvsr.engines.tensorrt_library import TrtLibrary

THREADS, ROUNDS = 8, 300


def progress_of(report: Any, held: list[int] | None = None) -> BuildProgress:
    module = ModuleType("tensorrt")
    module.IProgressMonitor = type("IProgressMonitor", (), {})  # type: ignore[attr-defined]
    return BuildProgress(TrtLibrary(module, "TensorRT", "10.13"), report, held or [])


def hammer(monitor: Any, went_wrong: list[BaseException], answers: list[bool]) -> None:
    """Phases that come, step and go, as THREADS tactics would have them, through the monitor."""

    def work(index: int) -> None:
        try:
            for turn in range(ROUNDS):
                name = f"tactic {index}.{turn}"
                monitor.phase_start(name, "build", 2)
                answers.append(monitor.step_complete(name, 0))
                monitor.step_complete("build", turn)
                monitor.phase_finish(name)
        except BaseException as error:
            went_wrong.append(error)

    monitor.phase_start("build", None, ROUNDS)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)


def test_many_threads_at_once_give_a_fraction_that_grows():
    told: list[float] = []
    inside: list[int] = []

    def report(fraction: float) -> None:
        inside.append(1)
        assert len(inside) == 1, "two threads at once"
        told.append(fraction)
        inside.pop()

    progress, went_wrong, answers = progress_of(report), [], []
    hammer(progress.handle, went_wrong, answers)
    progress.raise_failure()
    assert went_wrong == [] and all(answers)
    assert told == sorted(told) and 10 < len(told) <= 101 and told[-1] <= 1


@pytest.mark.parametrize("raised", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_what_a_report_raises_stays_inside_and_comes_after(raised):
    def report(fraction: float) -> None:
        raise raised

    progress, went_wrong, answers = progress_of(report), [], []
    hammer(progress.handle, went_wrong, answers)
    assert went_wrong == [], "it would have crossed C++"
    # The first hundredth of the build is done before anything is reported.
    assert not any(answers[len(answers) // 2 :]), "the build was not told to stop"
    with pytest.raises(type(raised)) as caught:
        progress.raise_failure()
    assert caught.value is raised


def test_what_the_library_says_wrongly_stays_inside_too():
    progress = progress_of(lambda fraction: None)
    progress.handle.phase_start("round", "about", 1)
    progress.handle.phase_start("about", "round", 1)
    progress.handle.phase_start("top", None, None)
    assert progress.handle.step_complete("top", 0) is False
    with pytest.raises(TypeError):
        progress.raise_failure()


def test_a_signal_that_waits_stops_the_build():
    progress = progress_of(lambda fraction: None, held=[2])
    assert progress.handle.step_complete("build", 0) is False
