"""Checks that many cameras share one service fairly: rates, tiles, memory, files and threads.

    python -m streamdiffvsr.research.many_cameras --minutes 10
    python -m streamdiffvsr.research.many_cameras --cameras 4 --source rtsp://127.0.0.1:8554/cam{}

Runs `streamdiffvsr serve` with one camera for a while, then with all of them, and watches its
processes from outside. Of memory, what is a process's own counts for each, and a file or shared
memory that several map counts once; unlike PSS, that does not depend on what else runs here. The
first fifth of each run is warm-up. Prints JSON as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ..benchmarks.machine import describe_machine
from ..graphs.spec import SCALE, parse_size

WARM_UP = 0.2  # of the samples
EVERY_S = 5.0  # between two samples, over which the status counts tiles
LEAST_RATE, MOST_APART, MOST_MEMORY = 0.9, 0.2, 1.5
_FRAMES = 12  # HR frames that a camera may hold: in the canvas, queues, encoders and the page


def main() -> None:
    """Runs both services and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--size", default="160x90", help="of the test pattern")
    parser.add_argument("--source", default="", help="for real ones; {} is the number, from 1")
    parser.add_argument("--to", default="null", help="output of each; {} is the number")
    options = parser.parse_args()
    source = options.source or f"testsrc={options.size}@{options.fps:g}"
    with tempfile.TemporaryDirectory() as folder:
        alone = _run(Path(folder), 1, source, options.to, max(1.0, options.minutes / 5))
        together = _run(Path(folder), options.cameras, source, options.to, options.minutes)
    height, width = parse_size(options.size, "--size")
    frames_mb = _FRAMES * 3 * SCALE**2 * height * width / 2**20
    found = judged(together, options.fps)
    result = {
        "benchmark": "many_cameras",
        "minutes": options.minutes,
        "cameras": options.cameras,
        **found,
        **memory_judged(alone, together, options.cameras, frames_mb),
        "load": [round(value, 2) for value in os.getloadavg()],
        "machine": describe_machine(),
    }
    print(json.dumps(result))


def judged(samples: Sequence[Mapping[str, Any]], fps: float) -> dict[str, Any]:
    """Returns rates, tiles and growth of a run, and for each promise whether it holds.

    Args:
        samples: `cameras` (a status each), `memory_mb`, `fds`, `threads`, `processes`; every
            `EVERY_S` seconds.
        fps: The rate of every source.
    """
    steady = samples[int(WARM_UP * len(samples)) :]
    names = [camera["name"] for camera in steady[-1]["cameras"]]
    of = {name: [_named(sample, name) for sample in steady] for name in names}
    frames = {name: of[name][-1]["frames"] - of[name][0]["frames"] for name in names}
    seconds = steady[-1]["at"] - steady[0]["at"]
    rates = {name: frames[name] / seconds for name in names}
    tiles = {
        name: float(np.mean([(one["adaptive"] or {}).get("tiles_per_s", 0.0) for one in of[name]]))
        for name in names
    }
    middle = float(np.mean(list(tiles.values())))
    apart = max(abs(value - middle) for value in tiles.values()) / max(middle, 1e-9)
    counts = {
        name: [int(steady[0][name]), int(max(s[name] for s in steady)), int(steady[-1][name])]
        for name in ("fds", "threads", "processes")
    }
    return {
        "fps": {name: round(value, 2) for name, value in rates.items()},
        "tiles_per_s": {name: round(value, 2) for name, value in tiles.items()},
        "tiles_apart": round(apart, 3),
        "latency_ms": {name: of[name][-1]["latency_ms"] for name in names},
        **counts,
        "holds": {
            "rate": min(rates.values()) >= LEAST_RATE * fps,
            "tiles": apart <= MOST_APART,
            "flat": all(last <= first for first, _, last in counts.values()),
        },
    }


def memory_judged(
    alone: Sequence[Mapping[str, Any]],
    together: Sequence[Mapping[str, Any]],
    cameras: int,
    frames_mb: float,
) -> dict[str, Any]:
    """Returns the memory of one camera and of all, and the ratio without the frames of the rest."""
    one, all_ = (
        float(np.median([sample["memory_mb"] for sample in run[int(WARM_UP * len(run)) :]]))
        for run in (alone, together)
    )
    without_frames = all_ - (cameras - 1) * frames_mb
    return {
        "memory_mb_one": round(one, 1),
        "memory_mb_all": round(all_, 1),
        "own_mb_by_process": together[-1]["own_mb"],
        "frames_mb_each": round(frames_mb, 1),
        "memory_ratio": round(without_frames / one, 3),
        "memory_holds": without_frames <= MOST_MEMORY * one,
    }


def _named(sample: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in sample["cameras"] if one["name"] == name)
    return found


def _run(folder: Path, cameras: int, source: str, to: str, minutes: float) -> list[dict[str, Any]]:
    file = folder / f"{cameras}.toml"
    lines = ["[server]", 'listen = "127.0.0.1:0"', "[defaults]", 'mode = "adaptive"']
    for number in range(1, cameras + 1):
        lines += [f"[camera.c{number}]", f'source = "{source.format(number)}"']
        lines += [f'to = "{to.format(number)}"']
    file.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "streamdiffvsr.cli", "serve", str(file), "--json"]
    process = subprocess.Popen(
        [*command, "--max-seconds", str(60 * minutes)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    samples: list[dict[str, Any]] = []
    due = time.monotonic() + EVERY_S
    last: dict[str, Any] = {}
    for line in process.stdout:
        last = json.loads(line)
        if last.get("event") == "status" and time.monotonic() >= due:
            due += EVERY_S
            taken = _taken(psutil.Process(process.pid))
            samples.append({"at": time.monotonic(), "cameras": last["cameras"], **taken})
    if process.wait() or len(samples) < 5:
        sys.exit(f"error: serve ended with {process.returncode}: {last.get('error', '')}")
    return samples[:-1]  # at the last one some may have ended


def _taken(process: psutil.Process) -> dict[str, Any]:
    """Returns what a process and its children use; those that end meanwhile do not count."""
    used: dict[str, Any] = {"fds": 0, "threads": 0, "processes": 0}
    anonymous: list[float] = []
    files: dict[str, float] = {}
    for one in [process, *process.children(recursive=True)]:
        try:
            maps = one.memory_maps(grouped=True)
            used["fds"] += one.num_fds()
            used["threads"] += one.num_threads()
            used["processes"] += 1
        except psutil.Error:
            continue
        own = 0.0
        for part in maps:
            backed = part.path.startswith("/")  # a file, or memory that processes share
            own += (part.anonymous if backed else part.rss) / 2**20
            if backed:
                shared = (part.rss - part.anonymous) / 2**20
                files[part.path] = max(shared, files.get(part.path, 0.0))
        anonymous.append(round(own, 1))
    memory = sum(anonymous) + sum(files.values())
    return {**used, "memory_mb": memory, "own_mb": anonymous}


if __name__ == "__main__":
    main()
