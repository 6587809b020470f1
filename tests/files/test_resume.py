"""Tests that resuming an interrupted run gives the result of a single run."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

import streamdiffvsr
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.files.job import Job
from streamdiffvsr.runtime.files.journal import folder_of, frames_kept
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.state import StreamState
from streamdiffvsr.tests.files.doubles import Remembering
from streamdiffvsr.tests.files.films import film, pictures
from streamdiffvsr.tests.media.clips import see
from streamdiffvsr.tests.media.sounding import with_sound

CUTS = (70, 80, 150)
FRAMES = 330  # segments of 70, 80, 120 and 60 frames
OPTIONS = FileOptions(seed=5, preset="ultrafast")
RESUMED = dataclasses.replace(OPTIONS, resume=True)


class Stopping(Remembering):
    """Fails at a frame."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def raw(self, frame: np.ndarray, state: StreamState) -> np.ndarray:
        if state.frame_index == self.at:
            raise self.error
        return super().raw(frame, state)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "in.mp4", FRAMES, CUTS, options={"bf": "2"})


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out.mp4"
    report = upscale_file(source, output, Remembering(), OPTIONS)
    assert (report.frames, report.cuts, report.resumed_at) == (FRAMES, len(CUTS), 0)
    return output


def begun(source: Path, output: Path, at: int) -> int:
    """Frames kept of a run that fails at a frame."""
    failure = StreamDiffVSRError("the engine is gone", "", "switch it on")
    with pytest.raises(StreamDiffVSRError, match="the engine is gone; switch it on") as caught:
        upscale_file(source, output, Stopping(at, failure), OPTIONS)
    kept = frames_kept(output)
    assert not output.exists()
    assert (f"{kept} finished frames are kept: resume=True" in str(caught.value)) == (kept > 0)
    return kept


def assert_same(ours: Path, expected: Path) -> None:
    (times, images), (want_times, want_images) = pictures(ours), pictures(expected)
    assert times == want_times
    assert len(images) == len(want_images)
    wrong = [n for n, pair in enumerate(zip(images, want_images, strict=True)) if len({*pair}) > 1]
    assert wrong == []
    assert see(ours).sounds == see(expected).sounds


@pytest.mark.parametrize(
    ("at", "most"),
    [
        (155, 150),
        (329, 270),
        pytest.param(69, 0, marks=pytest.mark.slow),
        pytest.param(275, 270, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, source: Path, whole: Path, at: int, most: int
) -> None:
    output = tmp_path / "out.mp4"
    kept = begun(source, output, at)
    assert kept <= most
    report = upscale_file(source, output, Remembering(), RESUMED)
    assert (report.frames, report.cuts, report.resumed_at) == (FRAMES, len(CUTS), kept)
    assert_same(output, whole)
    assert not folder_of(output).exists()


def test_a_run_without_a_state_of_the_stream_would_differ(
    tmp_path: Path, source: Path, whole: Path
) -> None:
    """The state matters: were it not restored, the frames behind a long segment would differ."""
    output = tmp_path / "out.mp4"
    assert begun(source, output, 329) == 270  # 270 is no cut
    for path in folder_of(output).rglob("*.state"):
        state = StreamState.load(path)
        assert state.previous_hr is not None
        dataclasses.replace(state, previous_hr=np.zeros_like(state.previous_hr)).save(path)
    upscale_file(source, output, Remembering(), RESUMED)
    times, images = pictures(output)
    expected_times, expected = pictures(whole)
    assert times == expected_times and images[:270] == expected[:270]
    assert images[270] != expected[270]


def test_an_unfinished_run_is_not_overwritten_by_mistake(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.mp4"
    kept = begun(source, output, 160)
    with pytest.raises(
        StreamDiffVSRError, match=f"has left {kept} frames of it; go on with resume=True"
    ):
        upscale_file(source, output, Remembering(), OPTIONS)
    assert frames_kept(output) == kept
    anew = dataclasses.replace(OPTIONS, overwrite=True, max_frames=10)
    assert upscale_file(source, output, Remembering(), anew).resumed_at == 0


def test_another_job_does_not_go_on_with_it(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.mp4"
    kept = begun(source, output, 160)
    other = dataclasses.replace(RESUMED, seed=6)
    with pytest.raises(StreamDiffVSRError, match="another one: seed was 5, is 6"):
        upscale_file(source, output, Remembering(), other)
    os.utime(source)
    with pytest.raises(StreamDiffVSRError, match="another one: other input"):
        upscale_file(source, output, Remembering(), RESUMED)
    assert frames_kept(output) == kept


def test_to_resume_what_was_not_begun_is_to_begin(tmp_path: Path, source: Path) -> None:
    options = dataclasses.replace(RESUMED, max_frames=30)
    report = upscale_file(source, tmp_path / "out.mp4", Remembering(), options)
    assert (report.frames, report.resumed_at) == (30, 0)


def test_a_caller_may_want_nothing_kept(tmp_path: Path, source: Path) -> None:
    options = dataclasses.replace(OPTIONS, keep_unfinished=False)
    failing = Stopping(160, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        upscale_file(source, tmp_path / "out.mp4", failing, options)
    assert list(tmp_path.iterdir()) == []


# --- killed, as by a power cut

CHILD = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.tests.files.doubles import Remembering
options = FileOptions.from_json(json.loads(sys.argv[4]))
tell = lambda done, total: print(done, flush=True)
upscale_file(sys.argv[2], sys.argv[3], Remembering(), options, progress=tell)
"""


def run_until(frame: int, source: Path, output: Path) -> int | None:
    """Resume in a process and SIGKILL it at a frame; its exit code if it came to the end."""
    path = [str(Path(streamdiffvsr.__file__).parent / ".links"), *sys.path]
    options = json.dumps(RESUMED.to_json())
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(path), str(source), str(output), options],
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(120, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == frame:
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGKILL)
                process.wait()
                psutil.wait_procs(children, timeout=30)
                return None
        return process.wait()
    finally:
        timer.cancel()
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_at_twenty_points_it_is_that_of_one_run(
    tmp_path: Path, source: Path, whole: Path
) -> None:
    points = random.Random(4).sample(range(1, FRAMES), 20)
    for number, point in enumerate(points):
        output = tmp_path / f"{number}.mp4"
        code = run_until(point, source, output)
        assert code is None and not output.exists()
        report = upscale_file(source, output, Remembering(), RESUMED)
        assert report.resumed_at <= point
        assert_same(output, whole)
        assert [path.name for path in tmp_path.iterdir()] == [output.name]
        output.unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_again_and_again_it_still_comes_to_its_end(
    tmp_path: Path, source: Path, whole: Path
) -> None:
    output = tmp_path / "out.mp4"
    for point in (100, 160, 200, 290, 328):
        assert run_until(point, source, output) is None
    assert run_until(-1, source, output) == 0
    assert_same(output, whole)


def test_another_choice_for_the_sound_is_another_job(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert begun(source, output, 100)
    other = dataclasses.replace(RESUMED, audio="none")
    with pytest.raises(StreamDiffVSRError, match="another one: audio was copy, is none"):
        upscale_file(source, output, Remembering(), other)
    assert not output.exists()


def test_what_cannot_be_joined_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    source = with_sound(tmp_path / "in.mov", "adpcm_ima_qt")
    with pytest.raises(StreamDiffVSRError, match=r"cannot hold adpcm_ima_qt .* use audio='trans"):
        upscale_file(source, tmp_path / "out.mp4", Remembering(), OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mov"]


def test_a_join_that_fails_loses_no_frame_and_may_be_done_with_other_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_sound(tmp_path / "in.mov", "adpcm_ima_qt")
    output = tmp_path / "out.mp4"
    monkeypatch.setattr(Job, "left_out", lambda job: ())  # what no rehearsal has seen
    with pytest.raises(StreamDiffVSRError) as caught:
        upscale_file(source, output, Remembering(), OPTIONS)
    told = str(caught.value)
    assert "cannot hold adpcm_ima_qt sound" in told and "25 finished frames are kept" in told
    assert str(tmp_path / "out.kept.mkv") in told and not output.exists()
    assert len(see(tmp_path / "out.kept.mkv").times) == 25
    other = dataclasses.replace(RESUMED, audio="transcode")
    report = upscale_file(source, output, Remembering(), other)
    assert (report.frames, report.resumed_at, report.audio_streams) == (25, 25, 1)
    assert len(see(output).sounds[0]) > 20
    assert not folder_of(output).exists()
