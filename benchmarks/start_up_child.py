"""Measures one start of the product in a child process, from its launch to the first frames.

Nothing of the benchmark is imported before the time is taken, as that would be counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError

FRAMES = 6  # after these, every buffer of a ring is in use


def main() -> None:
    """Measures a start, and prints its figures as JSON."""
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
    from ..engines.host import free_device_bytes
    from ..engines.interface import kind_of, ordinal_of
    from ..graphs.spec import MIB
    from ..runtime.memory import footprint
    from ..runtime.upscaler import load
    from .machine import peak_memory_mb
    from .statistics import endless

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
