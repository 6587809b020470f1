"""The journal: what is in it is on the disk, and nothing else is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.files.checkpoint import Checkpoint, Times
from streamdiffvsr.runtime.files.journal import (
    Journal,
    clear,
    differing,
    folder_of,
    frames_kept,
    locked,
    note_job,
)
from streamdiffvsr.runtime.state import StreamState

HR, LR = np.arange(3 * 64 * 32, dtype=np.float32).reshape(1, 3, 64, 32), np.ones((16, 8, 3), "u1")


def point(frames: int, *, guided: bool = True) -> Checkpoint:
    previous = {"previous_hr": HR * frames, "previous_lr": LR} if guided else {}
    state = StreamState(seed=7, frame_index=frames, **previous)
    cuts = np.full((2, 2, 3), frames, np.float32) if guided else None
    return Checkpoint(frames, state, cuts, 1001 * frames, Times(5, 1001 * frames, 1001), 2, 1)


def add(journal: Journal, frames: int, *, guided: bool = True) -> None:
    name = f"{frames:03d}.mp4"
    (journal.folder / name).write_bytes(b"x" * frames)
    there = point(frames, guided=guided)
    journal.save_point(there)
    journal.commit({"name": name, "files": [name], "bytes": frames}, there)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    journal = Journal.open(tmp_path / "part-000")
    for frames in (10, 20, 30, 40):
        add(journal, frames)
    return tmp_path / "part-000"


def test_what_was_committed_is_read_back(written: Path) -> None:
    journal, expected = Journal.open(written), point(40)
    assert [segment["bytes"] for segment in journal.segments] == [10, 20, 30, 40]
    found = journal.point
    assert found is not None and journal.frames == 40
    assert found.state.previous_hr is not None and found.cuts is not None
    np.testing.assert_array_equal(found.state.previous_hr, HR * 40)
    np.testing.assert_array_equal(found.cuts, expected.cuts)
    assert (found.pts, found.times, found.found_cuts, found.damaged) == (
        expected.pts,
        expected.times,
        2,
        1,
    )
    assert (found.state.seed, found.state.frame_index) == (7, 40)


def test_states_do_not_pile_up(written: Path) -> None:
    assert len(list(written.glob("*.state"))) == len(list(written.glob("*.cuts"))) <= 3


@pytest.mark.parametrize("bytes_left", range(1, 60, 7))
def test_a_torn_last_line_is_no_line(written: Path, bytes_left: int) -> None:
    text = (written / "journal").read_bytes().splitlines(keepends=True)
    (written / "journal").write_bytes(b"".join(text[:3]) + text[3][:bytes_left])
    assert Journal.open(written).frames == 30
    assert not (written / "040.mp4").exists()  # nothing refers to it


def test_a_segment_that_is_gone_or_cut_off_ends_it(written: Path) -> None:
    (written / "040.mp4").write_bytes(b"x" * 39)
    assert Journal.open(written).frames == 30
    (written / "030.mp4").unlink()
    assert Journal.open(written).frames == 20


def test_a_damaged_state_costs_one_segment(written: Path) -> None:
    path = written / "000000040.state"
    path.write_bytes(path.read_bytes()[:-1])
    assert Journal.open(written).frames == 30


def test_a_segment_that_ends_a_scene_needs_no_state(written: Path) -> None:
    journal = Journal.open(written)
    add(journal, 50, guided=False)
    for path in written.glob("*.state"):
        path.unlink()
    found = Journal.open(written).point
    assert found is not None and found.frames == 50 and not found.state.has_previous


def test_frames_of_all_parts_are_counted(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert frames_kept(output) == 0
    for part, frames in (("part-000", 10), ("part-001", 25)):
        add(Journal.open(folder_of(output) / part), frames)
    assert frames_kept(output) == 35
    clear(folder_of(output))
    assert frames_kept(output) == 0


def test_another_job_is_told_by_what_differs(tmp_path: Path) -> None:
    note_job(tmp_path, {"input": ["a", 1], "engines": "e", "options": {"seed": 0}})
    assert differing(tmp_path, {"input": ["a", 1], "engines": "e", "options": {"seed": 0}}) == []
    other = {"input": ["a", 2], "engines": "e", "options": {"seed": 1}}
    assert differing(tmp_path, other) == ["other input", "seed was 0, is 1"]
    other["format"] = {"crf": 20}  # follows from the options
    assert differing(tmp_path, other) == ["other input", "seed was 0, is 1"]
    (tmp_path / "job.json").write_text("{")
    assert differing(tmp_path, other) == ["its description is damaged"]


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    with (
        locked(output),
        pytest.raises(StreamDiffVSRError, match="another run is making it"),
        locked(output),
    ):
        pass
    assert not folder_of(output).exists()  # nothing was in it
