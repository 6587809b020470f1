"""Remembered digests: a file that stays is not read twice, one that changes always is."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from streamdiffvsr.engines import cache
from streamdiffvsr.engines.cache import MEMO, remember_files, remembered_digest

CONTENT = bytes(2**20)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were read; the memo is in a cache of its own."""
    seen: list[Path] = []
    real = cache.file_digest

    def file_digest(path: Path) -> str:
        seen.append(path)
        return real(path)

    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "file_digest", file_digest)
    return seen


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written long ago."""
    (tmp_path / "weights").write_bytes(CONTENT)
    now = time.time_ns()
    monkeypatch.setattr(cache.time, "time_ns", lambda: now + 3 * 10**9)
    return tmp_path / "weights"


def test_a_file_that_stays_is_read_once(reads, settled):
    wanted = hashlib.sha256(CONTENT).hexdigest()
    assert [remembered_digest(settled) for _ in range(3)] == [wanted] * 3
    assert reads == [settled]


def test_a_changed_file_is_read_again_even_if_its_time_is_set_back(reads, settled):
    before = settled.stat()
    first = remembered_digest(settled)
    settled.write_bytes(b"\x01" + CONTENT[1:])
    os.utime(settled, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered_digest(settled) != first and len(reads) == 2


def test_a_file_of_just_now_and_a_small_one_are_always_read(reads, tmp_path):
    (tmp_path / "new").write_bytes(CONTENT)
    (tmp_path / "small").write_bytes(b"x")
    for name in ("new", "small"):
        for _ in range(2):
            remembered_digest(tmp_path / name)
    assert len(reads) == 4 and not (tmp_path / "cache").exists()


def test_what_was_built_is_not_read_for_the_first_question_either(reads, settled, tmp_path):
    (tmp_path / "small").write_bytes(b"x")
    remember_files(tmp_path, {"weights": "of the build", "small": "too"})
    assert remembered_digest(settled) == "of the build" and reads == []
    assert remembered_digest(tmp_path / "small") == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_memo_is_forgotten(reads, settled, tmp_path, text):
    wanted = remembered_digest(settled)
    (tmp_path / "cache" / MEMO).write_bytes(text)
    assert [remembered_digest(settled) for _ in range(2)] == [wanted] * 2
    assert len(reads) == 2


def test_a_memo_that_cannot_be_kept_is_done_without(reads, settled, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "file"))
    assert remembered_digest(settled) == remembered_digest(settled)
    assert len(reads) == 2
