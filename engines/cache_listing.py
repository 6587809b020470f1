"""Lists the engine sets of a cache, finds those that nothing here can use, and removes them.

Only engine sets and what killed builds left are removed, and never while a build holds their lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..graphs.spec import GRAPH_VERSION
from .cache import leftovers, remove, try_locked
from .engine_set import ACCEPTANCE
from .manifest import MANIFEST, Manifest, manifest_bytes, odd_file, parse_manifest
from .registry import BACKENDS
from .trust import SIGNED, check_keys, why_refused

DAY_S = 86400.0
KEY_UNUSABLE = "the key cannot be used"
SUFFIXES = (".onnx", ".data", ".plan", ".safetensors", ".kernels", SIGNED)


@dataclass(frozen=True, slots=True)
class CachedSet:
    """One engine set in the cache; the text fields of an unreadable set are empty.

    Attributes:
        age_days: Days since it was built.
        stale: Why nothing here can use it, or an empty string.
        untrusted: Why it is not loaded unless the user trusts it, or an empty string.
        flow: RAFT's lookup and the flow scale, such as "all-pairs-2".
        tile: The size of its tiles, or an empty string.
        batch: The number of frames that it takes at once.
    """

    path: Path
    bytes: int
    age_days: float
    stale: str
    untrusted: str = ""
    model: str = ""
    size: str = ""
    precision: str = ""
    backend: str = ""
    device: str = ""
    gate: str = ""
    steps: int = 0
    flow: str = ""
    tile: str = ""
    batch: int = 1

    def to_json(self) -> dict[str, Any]:
        """Returns the set's entry in the output of `--json`."""
        return asdict(self) | {"path": str(self.path), "age_days": round(self.age_days, 2)}


def list_sets(root: Path) -> list[CachedSet]:
    """Returns the engine sets directly in a folder, sorted by name."""
    if not root.is_dir():
        return []
    return [_inspected(folder) for folder in sorted(root.iterdir()) if is_engine_set(folder)]


def is_engine_set(folder: Path) -> bool:
    """Returns whether a folder has a manifest and only names that the files of a set may have.

    Pipes, links and the like under such names make it a set that cannot be used.
    """
    if folder.is_symlink() or not folder.is_dir() or not os.path.lexists(folder / MANIFEST):
        return False
    return all(
        (path.name in (MANIFEST, ACCEPTANCE) or path.suffix in SUFFIXES)
        and (path.is_symlink() or not path.is_dir())
        for path in folder.iterdir()
        if not path.name.startswith(f".{ACCEPTANCE}")
    )


def prune(
    root: Path, *, older_than_days: float | None = None, everything: bool = False, dry_run: bool
) -> list[CachedSet]:
    """Removes the stale sets of a folder, and the folders that killed builds left there.

    A set that is not trusted is not stale: it may be trusted yet.

    Args:
        older_than_days: Also removes the sets that were built longer ago than this.
        everything: Removes every set.
        dry_run: Removes nothing.

    Returns:
        The sets that were removed, or that would have been, each with its reason in `stale`.

    Raises:
        StreamDiffVSRError: A set cannot be removed, or a key cannot be used: nothing is removed.
    """
    check_keys()

    def reason(entry: CachedSet) -> str:
        if older_than_days is not None and entry.age_days > older_than_days:
            return entry.stale or f"built {entry.age_days:.1f} days ago"
        return entry.stale or ("all were asked for" if everything else "")

    removed = []
    for found in [*list_sets(root), *_left_by_builds(root)]:
        if not reason(found):
            continue
        with try_locked(_locked_as(found.path)) as free:
            # A build may have replaced it since it was inspected.
            entry = _inspected(found.path) if is_engine_set(found.path) else found
            if not (free and entry.path.exists() and reason(entry)):
                continue
            if not dry_run:
                remove(entry.path)
        removed.append(replace(entry, stale=reason(entry)))
    return removed


def _inspected(folder: Path) -> CachedSet:
    stats = [path.lstat() for path in folder.iterdir()]
    # Sets of one model share their weights: each has its part of such a file.
    bytes_ = sum(stat.st_size // max(1, stat.st_nlink) for stat in stats)
    age_days = (time.time() - (folder / MANIFEST).lstat().st_mtime) / DAY_S
    try:
        content = manifest_bytes(folder)
        manifest = parse_manifest(folder, content)
    except StreamDiffVSRError as error:
        return CachedSet(folder, bytes_, age_days, stale=error.why or error.what)
    try:
        untrusted = why_refused(folder, content)
    except StreamDiffVSRError:
        untrusted = KEY_UNUSABLE
    key = manifest.key
    return CachedSet(
        folder,
        bytes_,
        age_days,
        stale=odd_file(folder) or _why_stale(folder, manifest),
        untrusted=untrusted,
        model=Path(manifest.model_name).name,
        size=key.size,
        precision=key.precision,
        backend=f"{key.backend} {key.library}".strip(),
        device=key.gpu or key.device,
        gate=manifest.gate,
        steps=key.steps,
        flow=key.flow,
        tile=key.tile,
        batch=key.batch,
    )


def _why_stale(folder: Path, manifest: Manifest) -> str:
    key = manifest.key
    if key.graph_version != GRAPH_VERSION:
        return f"its graphs have version {key.graph_version}, the current one is {GRAPH_VERSION}"
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (length := path.stat().st_size) != entry.bytes:
            return f"{name} has {length:,} bytes instead of {entry.bytes:,}"
    if key.backend not in BACKENDS:
        return f"there is no backend {key.backend}"
    return _why_library_missing(key.backend, key.library)


def _why_library_missing(backend: str, built_with: str) -> str:
    """Returns why the library version that compiled a set is not here, or an empty string.

    A library that fails to load gives no reason, because it may be repaired.
    """
    row = BACKENDS[backend]
    if not built_with or row.library is None:
        return ""
    if find_spec(row.module) is None:
        return f"{row.module} is not installed any more"
    try:
        installed = row.library()
    except StreamDiffVSRError:
        return ""
    return "" if installed == built_with else f"built with {built_with}, installed is {installed}"


def _left_by_builds(root: Path) -> Iterator[CachedSet]:
    for path in leftovers(root):
        files: Iterable[Path] = (p for p in path.rglob("*") if p.is_file())
        age_days = (time.time() - path.stat().st_mtime) / DAY_S
        yield CachedSet(path, sum(p.stat().st_size for p in files), age_days, "left by a build")


def _locked_as(path: Path) -> Path:
    """Returns the set whose lock covers a folder: itself, or the set whose build left it."""
    if not path.name.startswith("."):
        return path
    name = path.name[1:].rpartition(".")[0]
    return path.with_name(name)
