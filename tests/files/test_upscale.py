"""A user's view of upscaling a file: what is in the output, in the report, and left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from queue import Queue

import numpy as np
import psutil
import pytest

import streamdiffvsr
from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.files.inputs import InOut
from streamdiffvsr.runtime.files.job import Job
from streamdiffvsr.runtime.files.job_report import inspect_job
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file, upscale_job
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip, see

ROOT = Path(streamdiffvsr.__file__).resolve().parent


class ReadingAhead(Nearest):
    """Takes frames in a thread of its own, up to three before it gives one back."""

    identity = "reading ahead"

    def stream_frames(self, frames, state=None):
        return super().stream_frames(ahead(frames), state)


def ahead(frames):
    queue = Queue(maxsize=3)

    def read():
        for frame in frames:
            queue.put(frame)
        queue.put(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    while (frame := queue.get()) is not None:
        yield frame
    thread.join()


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("upscaler", [Nearest, ReadingAhead])
def test_frames_times_and_sound_arrive(tmp_path, upscaler):
    clip = Clip(pts=VFR, options={"bf": "2"}, sounds=[("aac", 48000)]).write(tmp_path / "in.mp4")
    report = upscale_file(clip, tmp_path / "out.mp4", upscaler(), FileOptions(seed=3))
    before, after = see(clip), see(tmp_path / "out.mp4")
    assert after.times == before.times == [pts * NTSC for pts in VFR]
    assert after.sounds == before.sounds
    assert (report.frames, report.audio_streams, report.damaged, report.retimed) == (12, 1, 0, 0)
    assert (report.input_size, report.output_size) == ((48, 64), (192, 256))
    assert children() == []


def test_the_picture_is_the_upscaled_one(tmp_path):
    clip = Clip(sample_aspect=Fraction(4, 3)).write(tmp_path / "in.mp4")
    upscale_file(clip, tmp_path / "out.mp4", Nearest())
    with FileSource(clip) as low, FileSource(tmp_path / "out.mp4") as high:
        assert high.info.sample_aspect == Fraction(4, 3)
        for small, large in zip(low, high, strict=True):
            expected = small.image.repeat(4, 0).repeat(4, 1).astype(int)
            assert np.abs(large.image - expected).mean() < 2


@pytest.mark.parametrize(("matrix", "full"), [(1, 1), (6, 2)])
def test_flat_colours_survive_the_round_trip(tmp_path, matrix, full):
    clip = Clip(
        colour=(matrix, full, matrix, matrix),
        pts=[0, 1001],
        options={"qp": "0", "preset": "ultrafast"},
        image=lambda index, h, w: np.full((h * 3 // 2, w), 90 + 40 * index, np.uint8),
    ).write(tmp_path / "in.mp4")
    upscale_file(clip, tmp_path / "out.mp4", Nearest())
    with FileSource(clip) as low, FileSource(tmp_path / "out.mp4") as high:
        assert high.info.colour == low.info.colour
        for small, large in zip(low, high, strict=True):
            assert np.abs(large.image[96, 128].astype(int) - small.image[24, 32]).max() <= 2


def test_the_report_is_json(tmp_path):
    clip = Clip().write(tmp_path / "in.mp4")
    report = upscale_file(clip, tmp_path / "out.mp4", Nearest())
    told = json.loads(json.dumps(report.to_json()))
    assert told["output"] == str(tmp_path / "out.mp4")
    assert (told["input_size"], told["output_size"]) == ("64x48", "256x192")
    assert told["frames"] == 12
    assert told["fps"] == pytest.approx(12 / told["seconds"], rel=0.01)


def test_progress_counts_every_frame(tmp_path):
    clip = Clip().write(tmp_path / "in.mp4")
    seen = []
    upscale_file(clip, tmp_path / "out.mp4", Nearest(), progress=lambda *now: seen.append(now))
    assert seen == [(index + 1, 12) for index in range(12)]


@pytest.mark.parametrize("upscaler", [Nearest, ReadingAhead])
def test_stopping_early_ends_the_sound_too(tmp_path, upscaler):
    clip = Clip(
        pts=[i * 1001 for i in range(90)], options={"bf": "0"}, sounds=[("aac", 48000)]
    ).write(tmp_path / "in.mp4")
    seen = []
    report = upscale_file(
        clip,
        tmp_path / "out.mp4",
        upscaler(),
        FileOptions(max_frames=5),
        progress=lambda *now: seen.append(now),
    )
    after = see(tmp_path / "out.mp4")
    assert report.frames == len(after.times) == 5
    assert seen[-1] == (5, 5)
    assert after.sounds[0] == [p for p in see(clip).sounds[0] if p[0] < 5 * 1001 * NTSC]
    assert children() == []


def test_asking_for_no_frames_is_a_mistake():
    with pytest.raises(ValueError, match="max_frames = 0"):
        FileOptions(max_frames=0)


def test_damage_is_reported_and_does_not_stop_it(tmp_path):
    whole = Clip(pts=[i * 1001 for i in range(60)], options={"g": "10"}).write(
        tmp_path / "whole.ts"
    )
    data = bytearray(whole.read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 97):
        data[place] ^= 0x55
    (tmp_path / "bad.ts").write_bytes(data)
    report = upscale_file(tmp_path / "bad.ts", tmp_path / "out.mp4", Nearest())
    assert report.damaged > 0
    assert report.frames == len(see(tmp_path / "out.mp4").times) > 30


# --- failures: one line, and nothing under the final name


def test_another_size_than_the_engines_is_refused(tmp_path):
    clip = Clip().write(tmp_path / "in.mp4")
    with pytest.raises(StreamDiffVSRError, match="are 64x48 and the engines are made for 32x16"):
        upscale_file(clip, tmp_path / "out.mp4", Nearest((16, 32)))
    assert names(tmp_path) == {"in.mp4"}


def test_a_change_of_size_is_refused_with_its_time(tmp_path):
    first = Clip(pts=[0, 1001]).write(tmp_path / "1.ts")
    second = Clip(size=(32, 96), pts=[30000, 31001]).write(tmp_path / "2.ts")
    (tmp_path / "in.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(StreamDiffVSRError, match=r"change from 64x48 to 96x32 at 1\.\d\d s"):
        upscale_file(tmp_path / "in.ts", tmp_path / "out.mp4", Nearest())
    assert names(tmp_path) == {"1.ts", "2.ts", "in.ts"}
    assert children() == []


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_upscaler_that_fails_leaves_nothing_behind(tmp_path, error):
    class Failing(Nearest):
        def step(self, frame, state):
            if state.frame_index == 3:
                raise error
            return super().step(frame, state)

    clip = Clip().write(tmp_path / "in.mp4")
    with pytest.raises(type(error)):
        upscale_file(clip, tmp_path / "out.mp4", Failing())
    assert names(tmp_path) == {"in.mp4"}
    assert children() == []


def test_the_upscaler_is_told_when_the_output_fails(tmp_path):
    class Watching(Nearest):
        closed = False

        def stream_frames(self, frames, state=None):
            try:
                yield from super().stream_frames(frames, state)
            finally:
                self.closed = True

    def kill_the_encoder(done: int, total: int | None) -> None:
        if done == 3:
            for child in children():
                child.kill()

    clip = Clip(pts=[i * 1001 for i in range(60)]).write(tmp_path / "in.mp4")
    upscaler = Watching()
    with pytest.raises(StreamDiffVSRError, match="ended unexpectedly") as caught:
        upscale_file(clip, tmp_path / "out.mp4", upscaler, progress=kill_the_encoder)
    assert upscaler.closed  # at once, not when the error and its frames are collected
    assert caught.value.why
    assert names(tmp_path) == {"in.mp4"}


def test_an_existing_output_is_refused_before_the_input_is_read(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"precious")
    with pytest.raises(StreamDiffVSRError, match="it already exists"):
        upscale_file(tmp_path / "missing.mp4", tmp_path / "out.mp4", Nearest())
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of POSIX")
def test_a_named_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "in.mp4")
    with pytest.raises(StreamDiffVSRError, match="it is not a plain file"):
        upscale_file(tmp_path / "in.mp4", tmp_path / "out.mp4", Nearest())
    assert names(tmp_path) == {"in.mp4"}


CTRL_C = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "streamdiffvsr", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["streamdiffvsr"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from streamdiffvsr.runtime.files.upscale import upscale_file

from streamdiffvsr.tests.files.doubles import Nearest

def progress(done, total):
    if done == 2: print("running", flush=True)

class Once(Nearest):
    def step(self, frame, state):
        if state.frame_index == 3: sys.stdin.read()
        return super().step(frame, state)

try:
    upscale_file("in.mp4", "out.mp4", Once(), progress=progress)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_in_a_terminal_is_silent_and_leaves_nothing(tmp_path):
    Clip().write(tmp_path / "in.mp4")
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", CTRL_C, str(ROOT)],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a group of its own, as a terminal gives a command
        text=True,
    )
    assert process.stdout.readline() == "running\n"
    encoders = psutil.Process(process.pid).children(recursive=True)
    assert len(encoders) == 2
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("stopped\n", "", 0)
    assert names(tmp_path) == {"in.mp4"}
    assert psutil.wait_procs(encoders, timeout=5)[1] == []


def test_a_phone_video_is_upscaled_as_displayed(tmp_path):
    clip = Clip(rotation=-90).write(tmp_path / "phone.mp4")
    report = upscale_file(clip, tmp_path / "out.mp4", Nearest((64, 48)))
    assert report.output_size == probe(tmp_path / "out.mp4").size == (256, 192)


def test_a_job_that_was_inspected_is_opened_again_only_if_its_input_has_changed(tmp_path):
    clip, output = Clip(pts=VFR).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    job = inspect_job(InOut(clip, output), FileOptions(overwrite=True)).job
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert job.renewed() is job
    assert upscale_job(job, Nearest()).frames == len(VFR)
    Clip(pts=VFR[:5], sounds=[("aac", 48000)]).write(clip)
    report = upscale_job(job, Nearest())
    assert (report.frames, report.audio_streams) == (5, 1)
    clip.unlink()
    with pytest.raises(StreamDiffVSRError, match="there is no such file"):
        upscale_job(job, Nearest())


def test_an_output_that_came_into_being_after_the_inspection_is_kept(tmp_path):
    clip, output = Clip().write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    job = inspect_job(InOut(clip, output), FileOptions()).job
    output.write_bytes(b"precious")
    with pytest.raises(StreamDiffVSRError, match="it already exists"):
        upscale_job(job, Nearest())
    assert output.read_bytes() == b"precious"
