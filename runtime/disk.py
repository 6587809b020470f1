"""Getting a file onto the disk for certain, so that a name never points at bytes that may be lost.

Why a disk refuses one is said in words. It knows nothing of what is in the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file has grown to the largest size allowed here",
    errno.EACCES: "no permission",
    errno.EROFS: "the disk is read-only",
}


def why(error: OSError) -> str:
    """What the system had against reading or writing, in words."""
    return CAUSES.get(error.errno or 0) or error.strerror or str(error)


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
