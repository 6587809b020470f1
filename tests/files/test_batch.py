"""A batch: what is done is skipped, what fails stops no other, and sizes share their engines."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.files.inputs import InOut, Outcome, run_batch


@dataclass(frozen=True)
class Seen:
    pair: InOut
    group: str


def pairs(folder: Path, *names: str) -> list[InOut]:
    made = [InOut(folder / f"{name}.avi", folder / f"{name}.mkv") for name in names]
    for pair in made:
        pair.input.touch()
    return made


def look(pair: InOut) -> Seen:
    """The size of a clip is its first letter."""
    return Seen(pair, pair.input.stem[0])


def states(outcomes: list[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


def test_each_group_is_done_at_once_and_told_in_the_order_of_the_jobs(tmp_path):
    jobs, done, begun = pairs(tmp_path, "a1", "b1", "a2", "c1", "b2"), [], []

    def work(seen):
        done.append(seen.pair.input.stem)
        return {"frames": len(done)}

    outcomes = run_batch(jobs, look, work, begin=lambda number, pair: begun.append(number))
    assert done == ["a1", "a2", "b1", "b2", "c1"]
    assert begun == [1, 2, 3, 4, 5]
    assert [outcome.pair for outcome in outcomes] == jobs
    assert [outcome.to_json()["frames"] for outcome in outcomes] == [1, 3, 2, 5, 4]


def test_a_failure_stops_no_other(tmp_path):
    jobs, heard = pairs(tmp_path, "a1", "b1", "c1", "d1"), []

    def looks(pair):
        if pair.input.stem == "b1":
            raise StreamDiffVSRError("could not read 'b1'", "it is empty")
        return look(pair)

    def work(seen):
        if seen.pair.input.stem == "a1":
            raise StreamDiffVSRError("could not write 'a1'", "the disk is full")
        if seen.pair.input.stem == "c1":
            raise ZeroDivisionError("by\nzero")
        return {}

    outcomes = run_batch(jobs, looks, work, ended=heard.append)
    assert states(outcomes) == ["failed", "failed", "failed", "done"]
    assert [outcome.why for outcome in outcomes] == [
        "could not write 'a1': the disk is full",
        "could not read 'b1': it is empty",
        "unexpected ZeroDivisionError: by zero",
        "",
    ]
    assert outcomes[0].to_json() == {
        "state": "failed",
        "input": str(jobs[0].input),
        "output": str(jobs[0].output),
        "error": "could not write 'a1': the disk is full",
    }
    assert sorted(map(id, heard)) == sorted(map(id, outcomes))


def test_ctrl_c_ends_the_batch(tmp_path):
    def work(seen):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(pairs(tmp_path, "a1", "a2"), look, work)


def test_what_is_done_is_not_done_again(tmp_path):
    jobs, done = pairs(tmp_path, "new", "done", "old"), []
    for pair, age in zip(jobs[1:], (0, -10), strict=True):
        pair.output.touch()
        made = pair.input.stat().st_mtime_ns + age
        os.utime(pair.output, ns=(made, made))

    def work(seen):
        done.append(seen.pair.input.stem)
        return {}

    outcomes = run_batch(jobs, look, work)
    assert states(outcomes) == ["done", "skipped", "failed"]
    assert "older than its input" in outcomes[2].why and "overwrite=True" in outcomes[2].why
    assert outcomes[1].to_json()["reason"] == "done before"
    assert done == ["new"]
    assert states(run_batch(jobs, look, work, overwrite=True)) == ["done"] * 3
    assert done == ["new", "new", "done", "old"]


def test_a_folder_of_images_is_as_old_as_its_newest(tmp_path):
    pair = InOut(tmp_path / "in", tmp_path / "out")
    for folder, times in ((pair.input, (100, 300)), (pair.output, (200, 400))):
        folder.mkdir()
        for time in times:
            (folder / f"{time}.png").touch()
            os.utime(folder / f"{time}.png", (time, time))
    assert states(run_batch([pair], look, lambda seen: {})) == ["skipped"]
    os.utime(pair.input / "300.png", (500, 500))
    assert states(run_batch([pair], look, lambda seen: {})) == ["failed"]
    for image in pair.output.iterdir():
        image.unlink()
    assert states(run_batch([pair], look, lambda seen: {})) == ["done"], (
        "an empty folder is no work"
    )
