"""Files that others may have put there: read only if they are ordinary, small and shallow."""

from __future__ import annotations

import json
import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamdiffvsr.reading import file_digest, open_regular, parse_json, read_json, read_small

posix = pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
SPARSE = 3 * 10**9


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        before = os.getcwd()
        os.chdir(path.parent)  # the name of a socket may have 107 characters
        one.bind(path.name)
        os.chdir(before)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD: dict[str, Callable[[Path], None]] = {"pipe": pipe, "socket": listener, "device": device}


@contextmanager
def at_once() -> Iterator[None]:
    """The block takes less than a second and 64 MiB."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 1


@posix
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("read", [open_regular, file_digest, lambda path: read_json(path, 100)])
def test_what_is_no_ordinary_file_is_never_opened(tmp_path, kind, read):
    ODD[kind](tmp_path / "odd")
    with at_once(), pytest.raises(OSError, match="it is no ordinary file"):
        read(tmp_path / "odd")


@posix
def test_a_file_that_becomes_a_pipe_meanwhile_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "odd")
    (tmp_path / "ordinary").write_text("{}")
    before = os.stat(tmp_path / "ordinary")
    monkeypatch.setattr(os, "stat", lambda *args, **more: before)
    with at_once(), pytest.raises(OSError, match="it is no ordinary file"):
        open_regular(tmp_path / "odd")


def test_a_folder_and_a_missing_file_are_errors_of_the_system(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_small(tmp_path, 100)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none", 100)


@posix
def test_a_link_is_followed_only_where_it_may_be(tmp_path):
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_json(tmp_path / "link", 100) == [1]
    with pytest.raises(OSError, match="it is no ordinary file"):
        read_json(tmp_path / "link", 100, follow=False)


def test_a_large_file_is_not_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(SPARSE)
    with at_once(), pytest.raises(ValueError, match="3,000,000,000 bytes, and at most 1,000"):
        read_small(tmp_path / "sparse", 1000)
    (tmp_path / "fits").write_bytes(b"x" * 1000)
    assert len(read_small(tmp_path / "fits", 1000)) == 1000


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, "[" * 70 + "]" * 70, '{"a":[' * 40 + "]}" * 40],
    ids=["lists", "objects", "closed", "both"],
)
def test_deep_json_is_a_value_error(text):
    with at_once(), pytest.raises(ValueError, match="it is nested too deeply"):
        parse_json(text.encode())


def test_json_is_what_it_was():
    value = {"a": [1, {"b": [[[None, True, 1.5, "ä"]]]}], "c": {}}
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value
    assert parse_json("[" * 60 + "]" * 60)
    for wrong in (b"\xff", b"", b"{", b"\xef\xbb\xbf{}"):
        with pytest.raises(ValueError):
            parse_json(wrong)
