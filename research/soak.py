"""Checks whether a live session grows: memory, files, threads, processes over minutes or days.

    python -m streamdiffvsr.research.soak --minutes 30
    python -m streamdiffvsr.research.soak --minutes 1440 --source rtsp://camera/stream

Runs `streamdiffvsr live` with the arguments after `--`, and watches all of its processes from
outside. The first tenth of the time is warm-up. Prints JSON as its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ..benchmarks.machine import describe_machine

WARM_UP = 0.1  # of the samples


def main() -> None:
    """Runs the session and prints what grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--source", default="testsrc=160x90@30")
    parser.add_argument("live", nargs="*", help="after --: further arguments of `live`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sinks = ["--to", "null", "--to", str(Path(folder) / "hls.m3u8")]
        limit = ["--max-seconds", str(60 * options.minutes), "--json"]
        samples, last = _follow(["live", options.source, *sinks, *limit, *options.live])
    result = {"benchmark": "live_soak", "minutes": options.minutes, **judged(samples)}
    keys = ("frames", "dropped", "resets", "reason")
    result |= {key: last.get(key) for key in keys} | {"machine": describe_machine()}
    print(json.dumps(result))


def judged(samples: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Returns the growth in a series of samples.

    Args:
        samples: `seconds`, `frames`, `rss_mb`, `fds`, `threads` and `processes` at each status.
    """
    steady = samples[int(WARM_UP * len(samples)) :]
    frames = np.array([sample["frames"] for sample in steady])
    rss = np.array([sample["rss_mb"] for sample in steady])
    slope = float(np.polyfit(frames, rss, 1)[0]) if np.ptp(frames) else 0.0
    counts = {
        name: [int(steady[0][name]), int(max(s[name] for s in steady)), int(steady[-1][name])]
        for name in ("fds", "threads", "processes")
    }
    return {
        "rss_mb": [round(float(rss[0]), 1), round(float(rss.max()), 1), round(float(rss[-1]), 1)],
        "rss_mb_per_10000_frames": round(10_000 * slope, 3),
        **counts,
        "samples": len(samples),
    }


def _follow(arguments: list[str]) -> tuple[list[dict[str, float]], dict[str, Any]]:
    command = [sys.executable, "-m", "streamdiffvsr.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    samples: list[dict[str, float]] = []
    last: dict[str, Any] = {}
    started = time.monotonic()
    for line in process.stdout:
        last = json.loads(line)
        if last.get("event") == "status":
            seconds = time.monotonic() - started
            sample = {"seconds": seconds, "frames": float(last["frames"])}
            samples.append(sample | _taken(psutil.Process(process.pid)))
    if process.wait():
        sys.exit(f"error: live ended with {process.returncode}: {last.get('error', '')}")
    return samples, last


def _taken(process: psutil.Process) -> dict[str, float]:
    """Returns what a process and its children use; those that end meanwhile do not count."""
    used = {"rss_mb": 0.0, "fds": 0.0, "threads": 0.0, "processes": 0.0}
    for one in [process, *process.children(recursive=True)]:
        try:
            used["rss_mb"] += one.memory_info().rss / 2**20
            used["fds"] += one.num_handles() if sys.platform == "win32" else one.num_fds()
            used["threads"] += one.num_threads()
            used["processes"] += 1
        except psutil.Error:
            continue
    return used


if __name__ == "__main__":
    main()
