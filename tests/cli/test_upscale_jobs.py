"""`streamdiffvsr upscale`: plans, parts, resuming, batches, images and comparisons.

The engines are a stand-in that repeats pixels, where it does not matter what is in a picture.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.files.films import film, pictures
from streamdiffvsr.tests.media.clips import Clip, see

FAST = ("--preset", "ultrafast")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_pipe_is_refused_and_no_folder_made_for_it(cli, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for names_given in ((clip, "-"), ("-", "out.mkv"), (clip, clip, "-"), (clip, "-", "--plan")):
        ran = cli("upscale", *names_given)
        assert (ran.code, ran.out) == (1, "")
        assert "'-': it stands for standard" in ran.err
    assert names(tmp_path) == {"in.mp4"}


class Counted(Nearest):
    """Fails with `error` at frame `at`; knows how often it was opened."""

    at, error, opened = -1, RuntimeError(), 0

    def raw(self, frame, state):
        if state.frame_index == self.at:
            raise self.error
        return super().raw(frame, state)


@pytest.fixture
def engines(monkeypatch, parity_engines):
    """An engine set of 64x48, in whose place the stand-in is opened."""
    stand_in = type("StandIn", (Counted,), {})

    def load(folder, device, size):
        assert (folder, size) == (parity_engines, (48, 64))
        stand_in.device = device
        stand_in.opened += 1
        return stand_in()

    monkeypatch.setattr("streamdiffvsr.runtime.upscaler.load", load)
    stand_in.options = ("--engines", parity_engines)
    return stand_in


@pytest.fixture
def clip(tmp_path) -> Path:
    return Clip(pts=[i * 1001 for i in range(6)], sounds=[("aac", 48000)]).write(
        tmp_path / "in.mp4"
    )


def test_the_help_is_in_groups(cli):
    told = cli("upscale", "--help").out
    for heading in (
        "Reading the input",
        "Writing the output",
        "Long jobs",
        "Comparison",
        "Model and",
    ):
        assert heading in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--start", "soon"], "--start 'soon' is not a time; write seconds, or HH:MM:SS.fff"),
        (["--end", "1:75"], "--end '1:75' is not a time"),
        (["--end", "-1"], "--end '-1' is not a time"),
        (["--start", "5", "--end", "0:05"], "--end 0:05 is not after --start 5"),
        (["--deinterlace", "yes"], "'yes' is not one of 'auto', 'on', 'off', 'tff', 'bff'"),
        (["--fps", "0"], "--fps '0' is not a frame rate"),
        (["--fps", "30/0"], "--fps '30/0' is not a frame rate"),
        (["--fps", "25"], "--fps does not fit"),
        (["--codec", "mpeg9"], "no codec 'mpeg9'"),
        (["--encoder", "magic"], "no encoder 'magic'"),
        (["--crf", "99"], "CRF 99 is out of range"),
        (["--preset", "warp"], "no preset 'warp'"),
        (["--images", "bmp"], "'bmp' is no kind of image"),
        (["--chunks", "0"], "'--chunks'"),
        (["--compare-mode", "up"], "'--compare-mode'"),
        (["--compare-mode", "split"], "there is no --compare"),
    ],
)
def test_options_that_mean_nothing(cli, clip, tmp_path, arguments, told):
    ran = cli("upscale", clip, tmp_path / "out.mp4", *arguments)
    assert told in ran.error
    assert ran.code == 2
    assert names(tmp_path) == {"in.mp4"}


def test_a_plan_is_told_and_nothing_is_done(cli, clip, tmp_path, engines):
    ran = cli("upscale", clip, tmp_path / "out.mkv", *engines.options, "--plan")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    starts = ("input: ", "output: ", "engines: ", "memory: ", "disk: ")
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 5
    told = cli("upscale", clip, tmp_path / "out.mkv", *engines.options, "--plan", "--json").json
    assert (told["plan"]["frames"], told["plan"]["container"]) == (6, "matroska")
    assert names(tmp_path) == {"in.mp4"}


def test_a_disk_that_looks_too_small_is_used_if_asked(cli, clip, tmp_path, monkeypatch):
    free = SimpleNamespace(free=1)
    monkeypatch.setattr("streamdiffvsr.runtime.files.estimates.shutil.disk_usage", lambda _: free)
    arguments = ["upscale", clip, tmp_path / "out.mkv", "--plan"]
    refused = cli(*arguments)
    assert refused.code == 1 and "--no-disk-check" in refused.error
    begun = cli(*arguments, "--no-disk-check")
    assert begun.code == 0 and "that may not be enough" in begun.out


def test_sound_that_cannot_be_kept_is_told_before_the_work(cli, clip, tmp_path, engines):
    ran = cli("upscale", clip, tmp_path / "out.webm", *engines.options)
    assert "cannot hold aac sound; give the output a name that ends in .mkv" in ran.error
    assert (ran.code, engines.opened, names(tmp_path)) == (1, 0, {"in.mp4"})


@pytest.mark.parametrize(("audio", "streams"), [("transcode", 1), ("none", 0)])
def test_sound_is_encoded_anew_or_left_out_as_asked_for(cli, tmp_path, engines, audio, streams):
    clip = Clip(sounds=[("wavpack", 48000)]).write(tmp_path / "in.mkv")
    arguments = ("upscale", clip, tmp_path / "out.mp4", *engines.options, "--audio", audio)
    assert cli(*arguments, "--plan", "--json").json["plan"]["audio"] == audio
    ran = cli(*arguments, *FAST, "--json")
    assert (ran.code, ran.json["audio_streams"]) == (0, streams)
    assert len(see(tmp_path / "out.mp4").sounds) == streams
    assert ran.json["notes"] == ran.json["plan"]["notes"] != []


def test_a_plan_builds_no_engines(cli, clip, tmp_path, tmp_path_factory, monkeypatch):
    # Other tests build sets.
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path_factory.mktemp("cache")))
    ran = cli("upscale", clip, tmp_path / "out.mp4", "--plan", "--json")
    assert ran.code == 0 and ran.json["plan"]["engines"] is None
    assert names(tmp_path) == {"in.mp4"}


@pytest.mark.parametrize(("arguments", "device"), [((), None), (("--device", "cuda:1"), "cuda:1")])
def test_a_given_set_runs_on_the_device_that_is_named(
    cli, clip, tmp_path, engines, arguments, device
):
    ran = cli("upscale", clip, tmp_path / "out.mp4", *engines.options, *FAST, *arguments)
    assert (ran.code, engines.device) == (0, device)


def test_a_set_of_a_cpu_does_not_run_on_a_gpu(cli, clip, tmp_path, parity_engines):
    arguments = ("upscale", clip, tmp_path / "out.mp4", "--engines", parity_engines)
    ran = cli(*arguments, "--device", "cuda:1")
    assert ran.code == 2 and "are for cpu, not cuda:1; leave the device out" in ran.error
    assert names(tmp_path) == {"in.mp4"}
    ran = cli(*arguments, "--device", "gpu")
    assert ran.code == 2 and "unknown device 'gpu'; use cpu, cuda or cuda:1" in ran.error


def test_a_part_of_a_video_with_an_encoder_of_choice(cli, clip, tmp_path, engines):
    output = tmp_path / "out.mkv"
    times = ("--start", "0.05", "--end", "0:00.15")
    ran = cli("upscale", clip, output, *engines.options, *times, "--codec", "ffv1", "--json")
    assert (ran.code, ran.err) == (0, "")
    info = probe(output)
    assert (info.codec, ran.json["frames"], len(see(output).times)) == ("ffv1", 3, 3)
    assert ran.json["plan"]["codec"] == "ffv1"


def test_what_is_finished_is_kept_and_resumed(cli, tmp_path, engines):
    clip, output = film(tmp_path / "in.mp4", 36, [24]), tmp_path / "out.mp4"
    arguments = ("upscale", clip, output, *engines.options, *FAST)
    assert cli("upscale", clip, tmp_path / "whole.mp4", *arguments[3:]).code == 0

    engines.at, engines.error = 33, KeyboardInterrupt()
    ran = cli(*arguments, "--json")
    assert ran.error == (
        f"stopped by Ctrl-C; 24 finished frames are kept in {output}.unfinished: "
        "--resume continues after them"
    )
    assert (ran.code, ran.json["exit_code"]) == (130, 130)
    assert names(tmp_path) == {"in.mp4", "whole.mp4", "out.mp4.unfinished"}

    engines.error = StreamDiffVSRError("the engine is gone", "", "switch it on")
    ran = cli(*arguments, "--resume")
    assert ran.error.startswith("the engine is gone; switch it on; 24 finished frames are kept")
    assert "--resume" in ran.error and ran.code == 1

    engines.at = -1
    ran = cli(*arguments)
    assert "has left 24 frames" in ran.error and "--resume" in ran.error and ran.code == 1
    assert "kept: 24 frames" in cli(*arguments, "--resume", "--plan").out
    ran = cli(*arguments, "--resume")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.rstrip().endswith("; the first 24 of an earlier run")
    assert pictures(output) == pictures(tmp_path / "whole.mp4")
    assert names(tmp_path) == {"in.mp4", "whole.mp4", "out.mp4"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StreamDiffVSRError("it is gone")])
def test_where_nothing_is_finished_nothing_is_left(cli, clip, tmp_path, engines, error):
    engines.at, engines.error = 4, error
    ran = cli("upscale", clip, tmp_path / "out.mp4", *engines.options)
    assert ran.error in ("stopped by Ctrl-C", "it is gone")
    assert names(tmp_path) == {"in.mp4"}


def test_a_batch_does_what_it_can(cli, tmp_path, engines):
    source, out = tmp_path / "in", tmp_path / "made" / "out"
    source.mkdir()
    for name in ("c10.mp4", "c9.avi", "done.mp4"):
        Clip(pts=[0, 1001], sounds=[("aac", 48000)]).write(source / name)
    Clip(size=(64, 48)).write(source / "tall.mp4")
    (source / "broken.mkv").write_bytes(b"no video" * 100)
    out.mkdir(parents=True)
    (out / "done.mp4").write_bytes(b"precious")
    os.utime(source / "done.mp4", (1, 1))

    ran = cli("upscale", source, out, *engines.options, *FAST, "--json")
    assert (ran.code, engines.opened) == (1, 1)
    lines = ran.err.splitlines()  # of each failure one, beside JSON too
    assert len(lines) == 2 and all(line.startswith("error: could not ") for line in lines)
    told = ran.json
    assert (told["done"], told["skipped"], told["failed"], told["exit_code"]) == (2, 1, 2, 1)
    files = {Path(one["output"]).name: one for one in told["files"]}
    states = [(name, one["state"]) for name, one in files.items()]
    assert states == [
        ("broken.mkv", "failed"),
        ("c9.mkv", "done"),
        ("c10.mp4", "done"),
        ("done.mp4", "skipped"),
        ("tall.mp4", "failed"),
    ]
    assert "it is not a video file" in files["broken.mkv"]["error"]
    assert "its frames are 48x64" in files["tall.mp4"]["error"]
    assert (files["c9.mkv"]["frames"], files["c9.mkv"]["audio_streams"]) == (2, 1)
    assert names(out) == {"c9.mkv", "c10.mp4", "done.mp4"}
    assert (out / "done.mp4").read_bytes() == b"precious"

    again = cli("upscale", f"{source}/c*", out, *engines.options)
    table = again.out.splitlines()
    assert (again.code, again.err) == (0, "")
    assert [line.split()[0] for line in table[:-1]] == ["skipped", "skipped"]
    assert table[-1].startswith("2 inputs: 2 skipped; ")

    only = cli("upscale", f"{source}/c9*", out, *engines.options, *FAST, "--overwrite")
    assert only.code == 0 and only.out.startswith(f"done     {out / 'c9.mkv'}  2 frames, 64x48 -> ")
    assert " frames/s\n" in only.out


def test_failures_of_a_batch_are_told_as_they_come(cli, clip, tmp_path, engines):
    ran = cli("upscale", clip, tmp_path / "no.mp4", tmp_path / "out", *engines.options, *FAST)
    assert ran.code == 1
    assert ran.err.count("\n") == 1 and "there is no such file" in ran.err
    assert [line.split()[0] for line in ran.out.splitlines()] == ["done", "failed", "2"]
    assert names(tmp_path / "out") == {"in.mp4"}


def test_the_plan_of_a_batch_makes_no_folder(cli, clip, tmp_path, engines):
    other = Clip(pts=[0]).write(tmp_path / "b.mp4")
    out = tmp_path / "new" / "out"
    ran = cli("upscale", clip, other, out, *engines.options, "--plan", "--json")
    assert ran.code == 0 and ran.json["planned"] == 2
    assert [one["plan"]["frames"] for one in ran.json["files"]] == [6, 1]
    assert names(tmp_path) == {"in.mp4", "b.mp4"}


def test_a_batch_has_no_comparison(cli, clip, tmp_path):
    ran = cli("upscale", clip, clip, tmp_path / "b.mp4", tmp_path / "out", "--compare", "c.mp4")
    assert "--compare is for one input" in ran.error and ran.code == 2
    assert names(tmp_path) == {"in.mp4"}


def test_images_go_in_and_out(cli, clip, tmp_path, engines):
    frames = tmp_path / "frames.v1"
    ran = cli("upscale", clip, f"{frames}/", *engines.options, "--max-frames", 3)
    assert ran.code == 0 and ran.err == "note: audio left out: images hold none\n"
    assert [path.suffix for path in sorted(frames.iterdir())] == [".png"] * 3

    small = tmp_path / "small"
    small.mkdir()
    from PIL import Image

    for index in range(3):
        Image.new("RGB", (64, 48), (80 * index, 0, 0)).save(small / f"{index + 8}.png")
    ran = cli("upscale", small, tmp_path / "out.mp4", *engines.options, "--fps", "12", "--json")
    assert (ran.code, ran.err) == (0, "")
    seen = see(tmp_path / "out.mp4")
    assert [float(time) for time in seen.times] == pytest.approx([0, 1 / 12, 2 / 12])
    reds = [int(frame.to_ndarray(format="rgb24")[..., 0].mean()) for frame in seen.images]
    assert reds == sorted(reds), "8, 9, 10: in natural order"


def test_a_pattern_of_numbers_goes_in_and_can_be_resumed(cli, tmp_path, engines):
    from PIL import Image

    for index in (1, 2, 4):
        Image.new("RGB", (64, 48), (60 * index, 0, 0)).save(tmp_path / f"f_{index:03}.bmp")
    arguments = ("upscale", tmp_path / "f_%03d.bmp", tmp_path / "out.mkv", *engines.options)
    ran = cli(*arguments, "--plan", "--json")
    assert (ran.code, ran.json["plan"]["frames"]) == (0, 3)
    assert cli(*arguments, "--fps", "12", "--resume").code == 0
    seen = see(tmp_path / "out.mkv")
    assert [float(time) for time in seen.times] == pytest.approx([0, 1 / 12, 2 / 12], abs=1e-3)
    again = cli(*arguments, "--fps", "12", "--resume")
    assert (again.code, "done before" in again.out + again.err) == (0, True)
    ran = cli("upscale", tmp_path / "g_%03d.bmp", tmp_path / "b.mkv", *engines.options)
    assert ran.code != 0 and "no image has a name of that pattern" in ran.error


def test_a_comparison_is_made_beside_the_output(cli, clip, tmp_path, engines):
    seen = tmp_path / "seen.mp4"
    arguments = ("upscale", clip, tmp_path / "out.mp4", *engines.options, *FAST)
    ran = cli(*arguments, "--compare", seen, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["compare"] == {"video": str(seen), "sheet": str(tmp_path / "seen.png")}
    assert probe(seen).size == (192, 512) and len(see(seen).times) == 6
    refused = cli(*arguments[:2], tmp_path / "new.mp4", *arguments[3:], "--compare", seen)
    assert "seen.mp4" in refused.error and "already exists" in refused.error
    assert not (tmp_path / "new.mp4").exists()


def test_chunks_are_for_processes_with_engines_of_their_own(cli, clip, tmp_path, engines):
    output = tmp_path / "out.mp4"
    ran = cli("upscale", clip, output, *engines.options, "--chunks", 2, "--no-scene-cuts")
    assert "chunks begin at scene cuts" in ran.error
    assert engines.opened == 0 and names(tmp_path) == {"in.mp4"}
