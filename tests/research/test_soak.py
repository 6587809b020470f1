"""The soak test: what it calls growth, and that a short live session shows none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamdiffvsr.research.soak import judged

SLOPE_FRAMES = 20_000  # eleven minutes: from here on growth per frame stands out from noise
MINUTES = float(os.environ.get("STREAMDIFFVSR_SOAK_MINUTES", "3"))


def samples(mb_per_frame: float, fds: int = 20) -> list[dict[str, float]]:
    return [
        {
            "seconds": n,
            "frames": 30.0 * n,
            "rss_mb": 100 + (60 if n < 5 else 0) + mb_per_frame * 30 * n,  # a start that is dear
            "fds": fds + (n > 80),
            "threads": 9,
            "processes": 3,
        }
        for n in range(100)
    ]


def test_growth_is_the_slope_behind_the_warm_up() -> None:
    assert judged(samples(0.0))["rss_mb_per_10000_frames"] == pytest.approx(0, abs=1e-6)
    assert judged(samples(0.001))["rss_mb_per_10000_frames"] == pytest.approx(10, rel=1e-3)
    assert judged(samples(0.0))["fds"] == [20, 21, 21]


@pytest.mark.slow
@pytest.mark.timeout(120 + 90 * MINUTES)
def test_a_live_session_does_not_grow(parity_engines: Path, request: pytest.FixtureRequest) -> None:
    assert request.session.items[0] is request.node, "at the end it would be half an hour more"
    command = [sys.executable, "-m", "streamdiffvsr.research.soak"]
    command += ["--minutes", str(MINUTES), "--source", "testsrc=96x64@30"]
    done = subprocess.run(
        [*command, "--", "--engines", str(parity_engines)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    # Beside other load frames are dropped; that they go on coming and going is what is asked.
    frames = found["frames"]
    assert frames + found["dropped"] > 0.7 * 30 * 60 * MINUTES
    assert frames > 0.2 * 30 * 60 * MINUTES
    first, most, last = found["rss_mb"]
    assert most - first < 15, found["rss_mb"]
    if frames < SLOPE_FRAMES:  # a step of a megabyte would be a slope
        assert last - first < 5, found["rss_mb"]
    else:
        assert found["rss_mb_per_10000_frames"] < 1, found
    for name in ("fds", "threads", "processes"):
        first, most, last = found[name]
        assert most - first <= 2 and last <= first + 1, (name, found[name])
