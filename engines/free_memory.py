"""How much memory is free: of this machine, of the container that this process is in, of a GPU."""

from __future__ import annotations

from pathlib import Path

from ..errors import StreamDiffVSRError
from .cuda_driver import primary_context

CGROUP = Path("/sys/fs/cgroup")  # version 2; of the container, seen from inside


def free_host_bytes() -> int:
    """Memory that this process could still take, swap included, within its container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available + psutil.swap_memory().free)
    limit = _container_free_bytes()
    return free if limit is None else min(free, limit)


def free_device_bytes(ordinal: int = 0) -> int | None:
    """Free memory of a GPU by its number; None where there is none to ask."""
    try:
        free, _ = primary_context(ordinal).call("cuMemGetInfo")
        return int(free)
    except StreamDiffVSRError:
        return None


def _container_free_bytes() -> int | None:
    """What a control group leaves; files that it has read count as used, and give way."""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        given_back = next(int(s.split()[1]) for s in lines if s.startswith("inactive_file "))
        return None if limit == "max" else max(0, int(limit) - used + given_back)
    except (OSError, ValueError, IndexError, StopIteration):
        return None  # no control groups, or of version 1
