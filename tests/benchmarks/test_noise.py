"""A noisy machine is called one, with what gave it away."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from streamdiffvsr.benchmarks.statistics import NoiseWatch, quantiles, ratios, spread

ORPHAN = """
import subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], **quiet)
print(busy.pid)
"""


def test_rounds_that_disagree_are_told() -> None:
    watch = NoiseWatch()
    quiet = watch.report([[10.0, 10.2, 10.1]])
    assert not any("rounds" in line for line in quiet["why"]) and quiet["p50_spread"] < 0.03
    noisy = watch.report([[10.0, 10.1], [10.0, 12.0]])
    assert noisy["noisy"] and "rounds of one thing differ by 18 % at p50" in noisy["why"]


def test_others_that_take_the_processors_are_told() -> None:
    """A process that never rests, started by one that is gone: no child of this one."""
    started = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, check=True)
    other = psutil.Process(int(started.stdout))
    try:
        watch = NoiseWatch()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            watch.probe()
        report = watch.report([])
    finally:
        other.kill()
    assert report["others_cpu"] > 0.5 / (_cores() + 1)
    assert report["noisy"] and any("other processes" in line for line in report["why"])


def test_our_own_work_is_not_anothers() -> None:
    watch = NoiseWatch()
    own, started = time.process_time(), time.monotonic()
    while time.process_time() - own < 1:
        sum(range(1000))
    beside = watch.report([])["others_cpu"]
    elapsed = time.monotonic() - started
    # Had it been counted as another's, at least this share would be there.
    assert beside + 1 / (elapsed * _cores()) < 1.15


def test_quantiles_and_pairs() -> None:
    told = quantiles([float(ms) for ms in range(1, 101)])
    assert told is not None and (told["n"], told["p50"], told["max"]) == (100, 50.5, 100.0)
    assert quantiles([]) is None and spread([3.0]) == 0
    pairs = ratios([2.0, 4.0, 6.6], [1.0, 2.0, 3.0])
    assert pairs is not None and pairs["ratio"] == 2.0 and pairs["pairs"] == 3


def _cores() -> int:
    return psutil.cpu_count() or 1
