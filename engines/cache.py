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
from ..reading import file_digest, read_json
from .manifest import MANIFEST, EngineKey
from .private import private_folder

PRIVATE = "remove it, or set STREAMDIFFVSR_CACHE to a folder of your own (mode 700)"
ELSEWHERE = f"choose another folder with {option('out')}"


def cache_path() -> Path:
    """Returns where the user's cache for engine sets is; `STREAMDIFFVSR_CACHE` overrides it."""
    override = os.environ.get("STREAMDIFFVSR_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("streamdiffvsr")


def cache_root() -> Path:
    """Returns the user's cache folder for engine sets, which is closed to all others.

    Raises:
        StreamDiffVSRError: It belongs to another user, or others can write to it.
    """
    return private_folder(cache_path(), "the engine cache", PRIVATE)


def default_folder(key: EngineKey) -> Path:
    """Returns the folder for a key's engine set in the cache, with a readable name.

    A model is known by its digest alone, so that a folder that was renamed is the same model. Keys
    that differ only in versions (of the library, of the graphs) share a folder: the new set
    replaces the old one, which this installation could no longer run.
    """
    gpu = plain_name(key.gpu)
    parts = (key.model_digest[:12], key.size, key.precision, key.backend, key.device)
    colour = key.colour and f"colour-{key.colour}"
    level = "" if key.optimization_level is None else f"level{key.optimization_level}"
    options = (
        f"steps{key.steps}" if key.steps != DEFAULT_STEPS else "",
        key.flow,
        key.tile,
        colour,
        gpu,
        level,
        key.sizes and f"sizes-{plain_name(key.sizes)}",
        f"batch{key.batch}" if key.batch > 1 else "",
    )
    return engines_root() / "_".join(p for p in (*parts, *options) if p)


def engines_root() -> Path:
    """Returns the folder of the cache that contains engine sets, one folder each."""
    return cache_root() / "engines"


def in_cache(folder: Path) -> bool:
    """Returns whether the folder of an engine set is in the user's cache."""
    return folder.resolve().parent == (cache_path() / "engines").resolve()


def plain_name(text: str) -> str:
    """Returns a text with "-" for each character that some file system refuses in a name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock for building `folder`; it is released even if this process is killed."""
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
    """Tries to lock `folder` for the body without waiting; yields whether it succeeded."""
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
    """Yields a hidden empty folder that becomes `folder` only if the body succeeds.

    Raises:
        StreamDiffVSRError: `folder` contains something other than an engine set.
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


def unshare(folder: Path) -> None:
    """Gives a folder copies of the files that it has in common with others by hard links.

    Raises:
        StreamDiffVSRError: A file cannot be copied.
    """
    try:
        for path in list(folder.iterdir()):
            if path.is_file() and path.stat().st_nlink > 1:
                with write_atomically(path) as part:
                    shutil.copyfile(path, part)
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write to {folder.parent}", str(error), ELSEWHERE
        ) from error


def refuse_foreign(folder: Path) -> None:
    """Raises unless `folder` can be replaced: it is absent, empty, or an engine set."""
    if folder.is_file():
        raise StreamDiffVSRError(f"{folder} is a file", remedy=ELSEWHERE)
    if folder.is_dir() and any(folder.iterdir()) and not os.path.lexists(folder / MANIFEST):
        raise StreamDiffVSRError(
            f"{folder} is not replaced",
            "it is not empty and not an engine set",
            ELSEWHERE,
        )


def _sweep(folder: Path) -> None:
    """Removes the folders that a killed build of this set left; the caller holds the lock."""
    for left in leftovers(folder.parent, folder.name):
        shutil.rmtree(left, ignore_errors=True)


def leftovers(root: Path, name: str | None = None) -> list[Path]:
    """Returns the hidden folders that builds of one set, or of all sets, left in `root`.

    One may belong to a build that is still running; the set's lock shows whether it does.
    """
    whose = "*" if name is None else glob.escape(name)
    return [left for kind in ("building", "old") for left in root.glob(f".{whose}.{kind}-*")]


def remove(folder: Path) -> None:
    """Removes an engine set that the caller has locked; readers never see a part of it.

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
    """Flushes every file to disk before the rename makes the set visible."""
    for path in folder.iterdir():
        # A link to weights that are installed read-only is on the disk already.
        with contextlib.suppress(PermissionError), path.open("rb+") as file:
            os.fsync(file.fileno())


MEMO = "digests.json"
MAX_MEMO_BYTES = 2**22
MAX_ENTRIES = 4096
SMALL_BYTES = 2**20  # a smaller file is always read again
# A file that has just been written may be written again without a change in its times.
SETTLED_NS = 2 * 10**9


def remembered_digest(path: Path) -> str:
    """Returns the SHA-256 of a file; an unchanged path, length and times mean it is not read again.

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
    """Remembers digests that have just been computed, of a folder's own files by name."""
    stats = {name: (folder / name).stat() for name in digests}
    large = {name: stat for name, stat in stats.items() if stat.st_size >= SMALL_BYTES}
    _write(_read() | {_identity(folder / n, stat): digests[n] for n, stat in large.items()})


def _identity(path: Path, stat: os.stat_result) -> str:
    # Weights are linked into many sets, and each new link changes the times of all.
    linked = stat.st_nlink > 1 and stat.st_ino
    place = f"device {stat.st_dev}" if linked else path.resolve()
    return "|".join(
        map(str, (place, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    )


def _read() -> dict[str, str]:
    path = cache_root() / MEMO
    try:
        return {str(k): str(v) for k, v in read_json(path, MAX_MEMO_BYTES, follow=False).items()}
    except (OSError, ValueError, AttributeError):
        return {}  # missing or damaged: everything is read once more


def _write(known: dict[str, str]) -> None:
    path = cache_root() / MEMO
    newest = dict(list(known.items())[-MAX_ENTRIES:])
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as part:
            part.write_text(json.dumps(newest), encoding="utf-8")
