"""Reads files that others may have put there: only ordinary ones, and only as much as is expected.

A pipe in place of a file would block for ever, a device may do anything, a sparse file costs its
owner nothing, and a few kilobytes of brackets exceed Python's recursion limit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 4 * 2**20
MAX_DEPTH = 64  # of lists and objects within each other; real files have fewer than ten


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Opens an ordinary file to read its bytes; never waits, and never opens anything else.

    Args:
        follow: Whether it may be a link to such a file.

    Raises:
        OSError: It is missing, cannot be read, or is a folder, a pipe, a socket, a device or a
            link that is not followed.
    """
    _refuse_other(os.stat(path, follow_symlinks=follow).st_mode)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # it may have been replaced by a pipe meanwhile
    descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    try:
        _refuse_other(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_small(path: Path, most: int, *, follow: bool = True) -> bytes:
    """Returns the content of an ordinary file of at most `most` bytes.

    Raises:
        OSError: See `open_regular`.
        ValueError: It is larger.
    """
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else b""
    if max(size, len(data)) > most:
        raise ValueError(f"it has {max(size, len(data)):,} bytes, and at most {most:,} are read")
    return data


def read_json(path: Path, most: int, *, follow: bool = True) -> Any:
    """Returns the value in a JSON file of at most `most` bytes; see `read_small`, `parse_json`."""
    return parse_json(read_small(path, most, follow=follow))


def parse_json(text: bytes | str) -> Any:
    """Returns the value that a JSON text, as UTF-8 if it is bytes, stands for.

    Raises:
        ValueError: It is no such text, or nested too deeply.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        if not (level := list(_containers(level))):
            return value
    raise ValueError("it is nested too deeply")


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of an ordinary file's content, as 64 hexadecimal digits.

    Raises:
        OSError: See `open_regular`.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _containers(values: list[Any]) -> Iterator[Any]:
    """Yields the lists and objects that are directly in some."""
    for value in values:
        inside = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            yield from (each for each in inside if isinstance(each, (dict, list)))


def _refuse_other(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
