"""Whether a build can fit in memory at all, told before minutes of work.

An estimate from the size of the weights, on the low side: it refuses what cannot work, and does not
promise that the rest does. Measured peaks are in docs/engines.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import prod
from pathlib import Path

from ..engines.backends import BACKENDS
from ..engines.free_memory import free_host_bytes
from ..engines.manifest import EngineKey
from ..errors import StreamDiffVSRError

GIB = 2**30
BASE_BYTES = int(0.6 * GIB)  # torch, the exporter, an engine library
EXPORT_FACTOR = 1.1  # of the weights as float32, which torch holds once
# Of the same: the graph, what the compiler makes of it, and the plan.
COMPILE_FACTOR = {"fp32": 2.5, "fp16": 1.6, "fp8": 2.5}
MAX_HEADER_BYTES = 10_000_000


def estimated_bytes(weights: Iterable[Path], key: EngineKey) -> int:
    """The least memory that a build takes, in bytes."""
    total = sum(_float32_bytes(path) for path in weights)
    compiles = BACKENDS[key.backend].compile is not None
    compiled = COMPILE_FACTOR[key.precision] if compiles else 0.0
    return BASE_BYTES + int(total * max(EXPORT_FACTOR, compiled))


def check_memory(weights: Iterable[Path], key: EngineKey) -> None:
    """Raise `StreamDiffVSRError` where a build would take more than there is, swap included."""
    needed = estimated_bytes(weights, key)
    free = free_host_bytes()
    if needed > free:
        raise StreamDiffVSRError(
            f"the engines cannot be built in {free / GIB:.1f} GiB of free memory",
            f"it takes at least {needed / GIB:.1f}",
            "free some, add swap, or build them on another machine and copy the folder",
        )


def _float32_bytes(path: Path) -> int:
    """What the tensors of a file take as float32; the file's own bytes where it does not say."""
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(MAX_HEADER_BYTES, length)))
        wide = sum(
            4 * int(prod(entry["shape"])) for name, entry in header.items() if name[:2] != "__"
        )
        return min(wide, 4 * size)  # a header may lie, until the weights are read
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return size  # a damaged file is refused when it is read
