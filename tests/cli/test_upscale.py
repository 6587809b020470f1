"""`streamdiffvsr upscale`: what becomes of bad input, and that nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamdiffvsr.engines.registry import Choice
from streamdiffvsr.tests.media.clips import Clip, see, sound_only


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def clip(tmp_path) -> Path:
    return Clip(pts=[0, 1001, 2002], sounds=[("aac", 48000)]).write(tmp_path / "in.mp4")


def a_missing_file(path: Path) -> None:
    pass


def an_empty_file(path: Path) -> None:
    path.touch()


def a_text_file(path: Path) -> None:
    path.write_text("not a video\n" * 1000)


def a_truncated_file(path: Path) -> None:
    Clip().write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (a_missing_file, "there is no such file"),
        (an_empty_file, "the file is empty"),
        (a_text_file, "it is not a video file"),
        (a_truncated_file, "it is cut off"),
        (a_folder, "it is a folder"),
        (sound_only, "it has no video stream, only sound"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("engines", [(), ("--engines", "no-such-engines")], ids=["", "engines"])
def test_bad_inputs_are_told_before_any_engine_is_touched(cli, tmp_path, make, told, engines):
    source = tmp_path / "in.mp4"
    make(source)
    before = names(tmp_path)
    ran = cli("upscale", source, tmp_path / "out.mp4", *engines, "--json")
    assert ran.error.startswith(f"could not read '{source}': {told}")
    assert ran.json == {"error": ran.error, "exit_code": 1}
    assert ran.code == 1
    assert names(tmp_path) == before


def test_an_existing_output_is_refused(cli, clip, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"precious")
    ran = cli("upscale", clip, tmp_path / "out.mp4")
    assert "it already exists" in ran.error and "overwrite" in ran.error
    assert ran.code == 1
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("missing/out.mp4", "there is no folder"),
        ("in.mp4/out.mp4", "is not a folder"),
        ("out.avi", "use one of .mp4"),
        ("in.mp4", "it is the input file itself"),
    ],
)
def test_bad_outputs(cli, clip, tmp_path, output, told):
    ran = cli("upscale", clip, tmp_path / output, "--overwrite")
    assert told in ran.error
    assert ran.code == 1
    assert names(tmp_path) == {"in.mp4"}


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root writes anywhere")
def test_an_output_folder_that_cannot_be_written(cli, clip, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    ran = cli("upscale", clip, tmp_path / "closed/out.mp4")
    assert "no permission to write" in ran.error
    assert ran.code == 1


def test_engines_that_are_none(cli, clip, tmp_path):
    for engines, told in ((tmp_path, "is not an engine set"), ("nowhere", "no engine set nowhere")):
        ran = cli("upscale", clip, tmp_path / "out.mp4", "--engines", engines)
        assert told in ran.error
        assert ran.code == 1
    assert names(tmp_path) == {"in.mp4"}


def test_engines_for_another_size(cli, tmp_path, parity_engines):
    clip = Clip(size=(64, 48)).write(tmp_path / "tall.mp4")
    ran = cli("upscale", clip, tmp_path / "out.mp4", "--engines", parity_engines)
    assert "its frames are 48x64 and the engines are made for 64x48" in ran.error
    assert ran.code == 1
    assert names(tmp_path) == {"tall.mp4"}


def test_a_video_is_upscaled(cli, clip, tmp_path, parity_engines):
    output = tmp_path / "out.mp4"
    arguments = ("upscale", clip, output, "--engines", parity_engines)
    ran = cli(*arguments, "--seed", 3, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["output"] == str(output)
    assert (ran.json["frames"], ran.json["output_size"]) == (3, "256x192")
    assert (ran.json["seed"], ran.json["audio_streams"]) == (3, 1)
    seen, source = see(output), see(clip)
    assert seen.times == source.times and seen.sounds == source.sounds

    again = cli(*arguments, "--overwrite", "--max-frames", 1)
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith(f"{output}: 1 frames, 64x48 -> 256x192, made in ")
    assert re.search(r"made in [\d.]+ s, [\d.]+ frames/s\n$", again.out)
    assert len(see(output).times) == 1


def test_a_phone_video_needs_engines_for_what_is_displayed(cli, tmp_path, parity_engines):
    clip = Clip(size=(64, 48), rotation=-90, pts=[0]).write(tmp_path / "in.mp4")
    ran = cli("upscale", clip, tmp_path / "out.mp4", "--engines", parity_engines, "--json")
    assert (ran.code, ran.json["input_size"]) == (0, "64x48")


def start(*arguments: object, **keywords) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "streamdiffvsr.cli", "upscale", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **keywords)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "error: stopped by Ctrl-C\n"),
        (signal.SIGTERM, 143, "error: stopped by a signal\n"),
    ],
)
def test_stopping_leaves_nothing(tmp_path, parity_engines, number, code, told):
    clip = Clip(pts=[i * 1001 for i in range(300)]).write(tmp_path / "in.mp4")
    process = start(clip, tmp_path / "out.mp4", "--engines", parity_engines)
    deadline = time.monotonic() + 60
    while len(names(tmp_path)) < 2:  # the hidden file of the output in the making
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", told)
    assert names(tmp_path) == {"in.mp4"}


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.slow
def test_a_file_size_limit_leaves_nothing(tmp_path, parity_engines):
    import resource

    clip = Clip(pts=[i * 1001 for i in range(2)]).write(tmp_path / "in.mp4")
    limit = 4096
    process = start(
        clip,
        tmp_path / "out.mp4",
        "--engines",
        parity_engines,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: could not write") and "largest size allowed" in err
    assert err.count("\n") == 1
    assert names(tmp_path) == {"in.mp4"}


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except OSError:
        done = None
    if done is None or done.returncode != 0:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_an_output_folder_on_a_read_only_disk(cli, clip, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ran = cli("upscale", clip, small_disk / "out.mp4")
    assert "no permission to write" in ran.error
    assert ran.code == 1


def test_a_full_disk_leaves_nothing(cli, tmp_path, parity_engines, small_disk):
    clip = Clip(pts=[i * 1001 for i in range(2)]).write(tmp_path / "in.mp4")
    ran = cli("upscale", clip, small_disk / "out.mp4", "--engines", parity_engines, "--json")
    assert "the disk is full" in ran.error
    assert ran.json["exit_code"] == ran.code == 1
    assert names(small_disk) == set()


@pytest.mark.slow
def test_engines_for_a_full_disk_leave_nothing(cli, parity_model, small_disk):
    out = small_disk / "engines"
    ran = cli("engines", "--model", parity_model, "--size", "64x48", "--out", out, "--json")
    assert "No space left" in ran.error or "disk" in ran.error
    assert ran.json["exit_code"] == ran.code == 1
    assert not any(path.is_dir() for path in small_disk.iterdir())


def test_engines_that_could_not_run_here_are_not_built_first(
    cli, clip, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(
        "streamdiffvsr.building.provider.why_no_gpu", lambda ordinal: "no driver answers"
    )
    monkeypatch.setattr(
        "streamdiffvsr.building.request.BuildRequest.choice",
        lambda self: Choice("tensorrt-rtx", "fp16", "cuda"),
    )
    ran = cli("upscale", clip, tmp_path / "out.mp4", "--backend", "tensorrt-rtx")
    assert ran.code == 1 and "no driver answers" in ran.error
    assert "--backend onnxruntime" in ran.error and names(tmp_path) == {"in.mp4"}


def test_an_input_is_described_and_tried_once(cli, clip, tmp_path, parity_engines, monkeypatch):
    """Five processes: one describes it, one tries the join, and three read, write and join."""
    from streamdiffvsr.runtime.processes.child import Child

    tasks, opened, begin = [], [], Child.__init__

    def noted(self, task, arguments, **options):
        tasks.append(task.rpartition(".")[2])
        opened.append(str(clip) in (arguments.get("path"), arguments.get("source")))
        begin(self, task, arguments, **options)

    monkeypatch.setattr(Child, "__init__", noted)
    ran = cli("upscale", clip, tmp_path / "out.mp4", "--engines", parity_engines, "--json")
    assert (ran.code, ran.json["frames"]) == (0, 3)
    assert tasks == [
        *("reader_child", "join_child"),  # the rehearsal of the join
        *("reader_child", "writer_child", "join_child"),
    ]
    assert sum(opened) == 4  # the writer alone does without it
