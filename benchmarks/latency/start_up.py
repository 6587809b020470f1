"""Start-up and memory of a run, each in a process of its own: from nothing to the first frame.

    python -m streamdiffvsr.benchmarks.latency.start_up DIR --device cpu --since 1700000000.0

"Cold" is with the engines' files out of the page cache, where the system allows that; libraries
stay in it, and so do kernels that TensorRT-RTX compiled at an earlier start. "Warm" is once more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError

MODULE = "streamdiffvsr.benchmarks.latency.start_up"
FRAMES = 6  # by then every buffer of a ring is in use


def measure_start_up(engines: Path, device: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """`start_up` and `memory_mb` of a result's subject, on "cpu", "cuda" or "cuda:1".

    Raises:
        StreamDiffVSRError: The process failed; with its own line.
    """
    _forget(engines)
    tell("cold start")
    cold = _start(engines, device)
    tell("warm start")
    warm = _start(engines, device)
    return {
        "start_up": {"cold_s": cold["seconds"], "warm_s": warm["seconds"]},
        "memory_mb": warm["memory_mb"],
    }


def _forget(engines: Path) -> None:
    """Ask the system to drop the files' pages; a hint, and only where there is such a call."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in engines.rglob("*"):
        if path.is_file():
            with path.open("rb") as file, contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(engines: Path, device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", MODULE, str(engines), "--device", device]
    command += ["--since", str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        told = (done.stderr or done.stdout).strip().splitlines()
        why = told[-1] if told else f"its process ended with {done.returncode}"
        raise StreamDiffVSRError(f"could not start {engines}", why)
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def main() -> None:
    """One start, told as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", type=Path)
    parser.add_argument("--device", required=True, help="cpu, cuda, cuda:1")
    parser.add_argument("--since", type=float, required=True, help="when it was started")
    options = parser.parse_args()
    try:
        print(json.dumps(_first_frames(options.engines, options.device, options.since)))
    except StreamDiffVSRError as error:
        sys.exit(str(error))


def _first_frames(engines: Path, device: str, since: float) -> dict[str, Any]:
    from ...engines.device import kind_of, ordinal_of
    from ...engines.free_memory import free_device_bytes
    from ...runtime.footprint import MIB, footprint
    from ...runtime.upscaler import load
    from ..machine import peak_memory_mb
    from .frames import endless

    imported = time.time()
    gpu = 0 if kind_of(device) == "cpu" else ordinal_of(device)
    free = free_device_bytes(gpu)
    upscaler = load(engines, device)
    opened = time.time()
    stream = upscaler.stream(endless(upscaler.size))
    next(stream)
    first = time.time()
    for _ in islice(stream, FRAMES):
        pass
    left = free_device_bytes(gpu)
    seconds = {
        "import": imported - since,
        "open": opened - imported,
        "first_frame": first - opened,
        "all": first - since,
    }
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "memory_mb": {
            "host_peak": peak_memory_mb(),
            "device_peak": None if free is None or left is None else (free - left) // MIB,
            "estimate": footprint(upscaler.manifest).total // MIB,
        },
    }


if __name__ == "__main__":
    main()
