"""Checks whether memory grows with the number of frames: few against many, in a process each.

    python -m streamdiffvsr.research.memory --engines DIR --frames 50 500

The frames go through `Upscaler.stream` and nothing is kept, as in a file job. In addition to the
peak, the resident size is taken after every tenth of the run: a leak appears as a slope. The
estimate is the one that `streamdiffvsr` reports before such a run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

from ..benchmarks.machine import describe_machine, peak_memory_mb
from ..graphs.spec import MIB
from ..runtime.memory import footprint
from ..runtime.upscaler import load

MODULE = "streamdiffvsr.research.memory"


def main() -> None:
    """Runs both lengths in processes of their own and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--engines", required=True)
    parser.add_argument("--frames", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(_run(options.engines, options.frames[0])))
        return
    runs = [_child(options.engines, count) for count in options.frames]
    growth = runs[-1]["peak_mb"] / runs[0]["peak_mb"]
    result = {"benchmark": "memory", "runs": runs, "peak_ratio": round(growth, 4)}
    print(json.dumps(result | {"machine": describe_machine()}))


def _child(engines: str, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", MODULE, "--alone", "--engines", engines, "--frames"]
    done = subprocess.run([*command, str(count)], check=True, stdout=subprocess.PIPE, text=True)
    run: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return run


def _run(engines: str, count: int) -> dict[str, Any]:
    upscaler = load(engines)
    process, resident = psutil.Process(), []
    for i, _ in enumerate(upscaler.stream(_frames(upscaler.size, count))):
        if i % max(1, count // 10) == 0:
            resident.append(process.memory_info().rss // 2**20)
    return {
        "frames": count,
        "peak_mb": peak_memory_mb(),
        "estimate_mb": footprint(upscaler.manifest).total // MIB,
        "resident_mb": resident,
    }


def _frames(size: tuple[int, int], count: int) -> Iterator[Any]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 255, (*size, 3), dtype=np.uint8)


if __name__ == "__main__":
    main()
