"""Memory between two processes: what is written arrives, and nothing stays behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.processes import shared_frames
from streamdiffvsr.runtime.processes.shared_frames import SharedFrames

posix = pytest.mark.skipif(sys.platform == "win32", reason="there the memory has no file")
READER = """
import sys
from streamdiffvsr.runtime.processes.shared_frames import SharedFrames
memory = SharedFrames.open(sys.argv[1], 3, 1000)
sys.stdout.buffer.write(bytes(memory.slot(1)))
memory.slot(2)[:3] = b"end"
"""


def files(folder: Path) -> list[str]:
    return [entry.name for entry in folder.glob("streamdiffvsr-frames-*")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns the folder that holds only the shared files."""
    monkeypatch.setattr(shared_frames, "_MEMORY_DISK", tmp_path)
    return tmp_path


def test_another_process_sees_what_is_written(folder):
    memory = SharedFrames.create(3, 1000)
    memory.slot(1)[:] = bytes(range(250)) * 4
    read = subprocess.run(
        [sys.executable, "-c", READER, memory.name], capture_output=True, check=True, timeout=60
    )
    assert read.stdout == bytes(range(250)) * 4
    assert bytes(memory.slot(2)[:3]) == b"end"
    memory.close()


@posix
def test_the_file_has_no_name_once_both_have_it(folder):
    memory = SharedFrames.create(2, 10)
    assert len(files(folder)) == 1
    other = SharedFrames.open(memory.name, 2, 10)
    assert files(folder) == []
    memory.slot(0)[:2] = b"ok"
    assert bytes(other.slot(0)[:2]) == b"ok"
    memory.close()
    memory.close()
    other.close()


@posix
def test_memory_that_nobody_opened_is_removed_by_its_maker(folder):
    SharedFrames.create(2, 10).close()
    assert files(folder) == []


@pytest.mark.parametrize("index", [-1, 2])
def test_there_are_only_so_many_slots(folder, index):
    memory = SharedFrames.create(2, 10)
    with pytest.raises(ValueError, match=r"self\.slots = 2"):
        memory.slot(index)
    memory.close()


@pytest.mark.skipif(sys.platform != "linux", reason="room is claimed only there")
def test_a_full_memory_disk_gives_way_to_the_usual_one(tmp_path, monkeypatch):
    full, usual = tmp_path / "full", tmp_path / "usual"
    full.mkdir()
    usual.mkdir()
    monkeypatch.setattr(shared_frames, "_MEMORY_DISK", full)
    monkeypatch.setattr(shared_frames.tempfile, "gettempdir", lambda: str(usual))
    claim, refused = os.posix_fallocate, []

    def allocate(handle: int, offset: int, count: int) -> None:
        if not refused:
            refused.append(count)
            raise OSError(errno.ENOSPC, "No space left on device")
        claim(handle, offset, count)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    memory = SharedFrames.create(2, 10)
    assert (files(full), len(files(usual))) == ([], 1)
    memory.close()
    monkeypatch.setattr(shared_frames, "_MEMORY_DISK", tmp_path / "missing")
    refused.clear()
    with pytest.raises(StreamDiffVSRError, match=r"could not share .*No space left.*make room"):
        SharedFrames.create(2, 10)
    assert (files(full), files(usual)) == ([], [])
