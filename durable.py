"""Writes files that are either complete or absent, and puts disk errors into words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
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
_NAME_MAX = 255  # on nearly every file system: bytes, or UTF-16 units on Windows


def why(error: OSError) -> str:
    """Returns why the system refused to read or write, in words."""
    return CAUSES.get(error.errno or 0) or error.strerror or str(error)


def beside(path: Path, before: str = "", after: str = "") -> Path:
    """Returns the path of a companion in the file's folder: its name with a prefix and a suffix.

    Where the disk takes no name of that length, a digest replaces the end of the file's own name,
    so that the same file always has the same companion, and another file another one.
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
    """Returns whether the disk takes no path or name of that length."""
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
    """Waits until the bytes of a file are on the disk."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_to_disk(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the platform supports it."""
    with contextlib.suppress(OSError):  # Windows opens no folders; some network disks sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish(part: Path, final: Path) -> None:
    """Gives a finished file its name, and waits until both are on the disk."""
    to_disk(part)
    os.replace(part, final)
    folder_to_disk(final.parent)


@contextmanager
def write_atomically(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Gives the block a file to write, which takes the name `path` when the block ends.

    Readers find the old file or the new one, even after the process was killed. Any error in the
    block removes what it wrote.

    Args:
        path: The final name, in an existing folder.
        sync: Whether to wait until the bytes are on the disk, so that a power cut leaves no empty
            file.

    Raises:
        OSError: The disk is full, or the file cannot be renamed.
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


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the disk cannot; keeps a target that exists.

    Raises:
        OSError: It cannot be copied either.
    """
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, another owner, or a disk without links
        shutil.copyfile(source, target)
