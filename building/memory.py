"""Estimates the memory that a build takes, and refuses one that does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

from ..engines.host import free_host_bytes
from ..engines.manifest import EngineKey
from ..engines.registry import BACKENDS
from ..errors import StreamDiffVSRError
from ..graphs.spec import GIB, format_bytes
from ..reading import open_regular, parse_json

BASE_BYTES = int(0.6 * GIB)  # torch, the exporter and an engine library
EXPORT_FACTOR = 1.1  # times the weights as float32, of which torch keeps one copy
# Times the same: the graph, the compiler's copies of it, and the plan.
COMPILE_FACTOR = {"fp32": 2.5, "fp16": 1.6, "fp8": 2.5}
MAX_HEADER_BYTES = 10_000_000


def estimated_bytes(weights: Iterable[Path], key: EngineKey) -> int:
    """Returns the least memory that a build takes, in bytes."""
    total = sum(_float32_bytes(path) for path in weights)
    compiles = BACKENDS[key.backend].compile is not None
    compiled = COMPILE_FACTOR[key.precision] if compiles else 0.0
    return BASE_BYTES + int(total * max(EXPORT_FACTOR, compiled))


def check_memory(weights: Iterable[Path], key: EngineKey) -> None:
    """Raises `StreamDiffVSRError` if a build takes more memory than is free, swap included."""
    needed = estimated_bytes(weights, key)
    free = free_host_bytes()
    if needed > free:
        raise StreamDiffVSRError(
            f"the engines cannot be built in {format_bytes(free, 'GiB')} of free memory",
            f"it takes at least {needed / GIB:.1f}",
            "free some, add swap, or build them on another machine and copy the folder",
        )


def _float32_bytes(path: Path) -> int:
    """Returns the bytes of a file's tensors as float32, or of the file if that is unknown."""
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return size
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(min(MAX_HEADER_BYTES, length)))
        wide = sum(
            4 * int(prod(entry["shape"])) for name, entry in header.items() if name[:2] != "__"
        )
        return min(wide, 4 * size)  # a header may be wrong, which shows when weights are read
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return size  # a damaged file is refused when it is read
