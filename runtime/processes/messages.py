"""Sends and receives messages on a pipe: a small JSON header and, for frames, raw bytes.

Both ends use this module, so it imports nothing but the standard library: the child must be able
to load it before it knows where numpy and av are. It never unpickles.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from io import RawIOBase
from typing import Any

Header = dict[str, Any]
Payload = bytes | bytearray | memoryview

MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 30  # one RGB frame of 16384 x 16384 is 0.75 GiB

_PREFIX = struct.Struct("<IQ")  # bytes of header, bytes of payload


class WireError(ValueError):
    """Raised when the bytes on the pipe are not a message."""


def send(pipe: RawIOBase, header: Mapping[str, Any], payload: Payload = b"") -> None:
    """Writes one message; returns when the pipe has taken all of it.

    Raises:
        OSError: The other end is gone (``BrokenPipeError`` on POSIX).
    """
    text = json.dumps(header).encode()
    view = memoryview(payload).cast("B")
    if len(text) > MAX_HEADER_BYTES or len(view) > MAX_PAYLOAD_BYTES:
        raise WireError(f"message too large: {len(text) = }, {len(view) = }")
    _write_all(pipe, memoryview(_PREFIX.pack(len(text), len(view)) + text))
    _write_all(pipe, view)


def receive(
    pipe: RawIOBase, allocate: Callable[[int], memoryview] | None = None
) -> tuple[Header, memoryview]:
    """Reads one message.

    Args:
        pipe: A raw (unbuffered) binary file.
        allocate: Returns writable memory for a payload of that many bytes. The default is new
            memory for each message.

    Raises:
        EOFError: The other end is gone.
        WireError: The bytes are not a message.
    """
    prefix = memoryview(bytearray(_PREFIX.size))
    _read_all(pipe, prefix)
    header_bytes, payload_bytes = _PREFIX.unpack(prefix)
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise WireError(f"not a message: {header_bytes = }, {payload_bytes = }")
    text = memoryview(bytearray(header_bytes))
    _read_all(pipe, text)
    header: Header = json.loads(bytes(text))
    payload = allocate(payload_bytes) if allocate else memoryview(bytearray(payload_bytes))
    _read_all(pipe, payload)
    return header, payload


def end_with_parent(inbox: RawIOBase) -> None:
    """End this process when its inbox ends, for a child to which the parent sends nothing more.

    The pipe is open as long as the parent lives, and a thread waits for its end.
    """

    def wait() -> None:
        inbox.read(1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def pack(value: Fraction | None) -> list[int] | None:
    """Returns a fraction in a form for JSON."""
    return None if value is None else [value.numerator, value.denominator]


def unpack(value: list[int] | None) -> Fraction | None:
    """Returns the fraction that :func:`pack` packed."""
    return None if value is None else Fraction(*value)


def _write_all(pipe: RawIOBase, view: memoryview) -> None:
    while len(view):
        view = view[pipe.write(view) or 0 :]


def _read_all(pipe: RawIOBase, view: memoryview) -> None:
    while len(view):
        count = pipe.readinto(view)
        if not count:
            raise EOFError("the other end closed the pipe")
        view = view[count:]
