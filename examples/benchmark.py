"""Measures frame times from Python: python examples/benchmark.py [RESULT.json]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import streamdiffvsr
from streamdiffvsr.benchmarks.run import Benchmark, Settings


def main(target: str = "benchmark.json") -> None:
    """Writes what `streamdiffvsr bench --quick --json` writes, and prints the median times."""
    engines = streamdiffvsr.build("tiny", size=(48, 64), progress=print)
    settings = Settings(frames=4, rounds=2, around=False)  # use more of both to quote figures
    benchmark = Benchmark(settings, tell=print)
    benchmark.run([engines])
    result = benchmark.result()
    Path(target).write_text(json.dumps(result, indent=1), encoding="utf-8")
    for name, mode in result["subjects"][0]["modes"].items():
        print(f"{name}: {mode['frame_ms']['p50']:.0f} ms a frame")
    print(f"noisy: {result['noise']['noisy']}")  # do not quote a noisy result


if __name__ == "__main__":
    main(*sys.argv[1:])
