"""The cache of engine sets and of file digests."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from ..durable import write_atomically
from ..errors import StreamDiffVSRError, option
from ..graphs.spec import DEFAULT_STEPS
from .manifest import MANIFEST, EngineKey, file_digest

ELSEWHERE = f"choose another folder with {option('out')}"


def cache_root() -> Path:
    """The user's cache for engine sets; `STREAMDIFFVSR_CACHE` overrides it."""
    override = os.environ.get("STREAMDIFFVSR_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("streamdiffvsr")


def default_folder(model_name: str, key: EngineKey) -> Path:
    """A readable folder name for a key.

    Keys that differ only in versions (of the library, the graphs) share it: the new set
    takes the old one's place, which nothing here could run any more.
    """
    model, gpu = plain_name(Path(model_name).name), plain_name(key.gpu)
    parts = (model, key.size, key.precision, key.backend, key.device, key.model_digest[:8])
    colour = key.colour and f"colour-{key.colour}"
    level = "" if key.optimization_level is None else f"level{key.optimization_level}"
    options = (
        f"steps{key.steps}" if key.steps != DEFAULT_STEPS else "",
        key.flow,
        key.tile,
        colour,
        gpu,
        level,
    )
    return engines_root() / "_".join(p for p in (*parts, *options) if p)


def engines_root() -> Path:
    """The folder of the cache that holds engine sets, one folder each."""
    return cache_root() / "engines"


def plain_name(text: str) -> str:
    """What of a text any file system takes as a name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the right to build `folder`; released when the holder ends, however it ends."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write to {folder.parent}",
            str(error),
            ELSEWHERE,
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def try_locked(folder: Path) -> Iterator[bool]:
    """Whether nobody builds `folder`; if so, nobody can as long as the body runs."""
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden empty folder that becomes `folder` if the body succeeds, and vanishes if not.

    Raises:
        StreamDiffVSRError: `folder` holds something that is not an engine set.
    """
    refuse_foreign(folder)
    _sweep(folder)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.building-", dir=folder.parent))
    try:
        yield stage
        _sync(stage)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(stage, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    """Raise unless `folder` can be replaced: absent, empty, or an engine set."""
    if folder.is_file():
        raise StreamDiffVSRError(f"{folder} is a file", remedy=ELSEWHERE)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise StreamDiffVSRError(
            f"{folder} is not replaced",
            "it is not empty and not an engine set",
            ELSEWHERE,
        )


def _sweep(folder: Path) -> None:
    """Remove what a killed build of this set left; the caller holds the lock."""
    for left in leftovers(folder.parent, folder.name):
        shutil.rmtree(left, ignore_errors=True)


def leftovers(root: Path, name: str | None = None) -> list[Path]:
    """What killed builds left in a folder, of one set or of all; unless a build runs still."""
    whose = "*" if name is None else glob.escape(name)
    return [left for kind in ("building", "old") for left in root.glob(f".{whose}.{kind}-*")]


def remove(folder: Path) -> None:
    """Remove an engine set that the caller has locked; a reader never finds half of it.

    Raises:
        StreamDiffVSRError: It cannot be removed.
    """
    try:
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
        os.replace(folder, old / folder.name)
        shutil.rmtree(old)
    except OSError as error:
        raise StreamDiffVSRError(f"cannot remove {folder}", str(error)) from error


def _sync(folder: Path) -> None:
    """Flush every file to disk before the rename makes the set visible."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


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
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as part:
            part.write_text(json.dumps(newest), encoding="utf-8")
