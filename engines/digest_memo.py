"""SHA-256 of large files, remembered between runs as long as the files stay as they were.

For finding out whether something must be built again, where reading gigabytes to learn "no" would
take longer than anything else. What is about to be loaded is always read: see `verify_files`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from .cache import cache_root
from .manifest import file_digest

MEMO = "digests.json"
MAX_MEMO_BYTES = 2**22
MAX_ENTRIES = 4096
SMALL_BYTES = 2**20  # read at once
# A file that was written just now may be written again without its times showing it.
SETTLED_NS = 2 * 10**9


def remembered_digest(path: Path) -> str:
    """SHA-256 of a file, not read again if its place, length and times are as they were.

    Raises:
        OSError: It cannot be read.
    """
    stat = path.stat()
    settled = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_NS
    if stat.st_size < SMALL_BYTES or not settled:
        return file_digest(path)
    key, known = _identity(path, stat), _read()
    if key not in known:
        known[key] = file_digest(path)
        _write(known)
    return known[key]


def remember_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Remember digests that were taken just now: of a folder's own files, by name."""
    stats = {name: (folder / name).stat() for name in digests}
    large = {name: stat for name, stat in stats.items() if stat.st_size >= SMALL_BYTES}
    _write(_read() | {_identity(folder / n, stat): digests[n] for n, stat in large.items()})


def _identity(path: Path, stat: os.stat_result) -> str:
    times = (stat.st_mtime_ns, stat.st_ctime_ns)
    return "|".join(map(str, (path.resolve(), stat.st_ino, stat.st_size, *times)))


def _read() -> dict[str, str]:
    path = cache_root() / MEMO
    try:
        if path.stat().st_size > MAX_MEMO_BYTES:
            return {}
        return {str(key): str(value) for key, value in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}  # missing or damaged: everything is read once more


def _write(known: dict[str, str]) -> None:
    path = cache_root() / MEMO
    newest = dict(list(known.items())[-MAX_ENTRIES:])
    part = path.with_name(f".{MEMO}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(newest), encoding="utf-8")
        os.replace(part, path)
