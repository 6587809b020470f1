"""Files that are whole or not there: they are written under another name, and then renamed.

Why a disk refuses one is said in words.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file has grown to the largest size allowed here",
    errno.EACCES: "no permission",
    errno.EROFS: "the disk is read-only",
    errno.ENAMETOOLONG: "its name is too long for the disk",
}
_NAME_MAX = 255  # of nearly every file system: bytes, and on Windows UTF-16 units


def why(error: OSError) -> str:
    """What the system had against reading or writing, in words."""
    return CAUSES.get(error.errno or 0) or error.strerror or str(error)


def beside(path: Path, before: str = "", after: str = "") -> Path:
    """A name of ours beside a file: its own with something before and behind it.

    Where the disk takes no name of that length, the end of the file's own gives way to a digest of
    it: the same file has the same companion always, and another file another one.
    """
    name = f"{before}{path.name}{after}"
    limit = _longest_name(path.parent)
    if _length(name) > limit:
        digest = f"-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}"
        kept = path.name
        while kept and _length(f"{before}{kept}{digest}{after}") > limit:
            kept = kept[:-1]
        name = f"{before}{kept}{digest}{after}"
    return path.with_name(name)


def is_too_long(path: Path) -> bool:
    """Whether its disk takes no path or name of that length."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return True
    return any(_length(part) > _NAME_MAX for part in path.parts)


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows; a folder that is not there yet
        return _NAME_MAX


def _length(name: str) -> int:
    if sys.platform == "win32":
        return len(name.encode("utf-16-le", "surrogatepass")) // 2
    return len(os.fsencode(name))


def to_disk(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_to_disk(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the platform can be asked to."""
    with contextlib.suppress(OSError):  # Windows opens no folders; some network disks sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish(part: Path, final: Path) -> None:
    """Give a finished file its name: after this, it is there and whole, whatever happens."""
    to_disk(part)
    os.replace(part, final)
    folder_to_disk(final.parent)


@contextmanager
def write_atomically(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Gives the block a file to write, which takes the name `path` when the block ends.

    A reader, or whoever comes after a process that was killed, finds the old file or the new one.
    Any error in the block removes what it wrote.

    Args:
        path: In a folder that is there.
        sync: Wait until the bytes are on the disk: a power cut does not leave an empty file then.

    Raises:
        OSError: The disk takes no more, or the name cannot be changed.
    """
    part = beside(path, ".", f".{secrets.token_hex(4)}.part")
    try:
        yield part
        if sync:
            to_disk(part)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
