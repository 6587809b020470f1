"""Tests what is shown before a job and what is refused, on a real clip and a given disk."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.files import estimates, job_report
from streamdiffvsr.runtime.files.estimates import check_disk, look_at_disk
from streamdiffvsr.runtime.files.inputs import InOut
from streamdiffvsr.runtime.files.job import FileOptions
from streamdiffvsr.runtime.files.job_report import (
    JobReport,
    clock,
    described_input,
    expected,
    inspect_job,
    policies,
)
from streamdiffvsr.runtime.media.colour import Colour
from streamdiffvsr.runtime.media.encoders import ImageFormat
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.media.clips import Clip, write_image

GIB = 2**30


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    return Clip(pts=[i * 1001 for i in range(60)], sounds=[("aac", 48000)]).write(folder / "in.mp4")


@pytest.fixture(scope="module")
def info(clip):
    return probe(clip)


@pytest.fixture
def looked(clip, info, tmp_path, monkeypatch):
    """A look at the clip, which is probed once, with options and for an output of a name."""
    monkeypatch.setattr("streamdiffvsr.runtime.files.job.probe", lambda path, **keywords: info)
    told = SimpleNamespace(notes=())
    monkeypatch.setattr("streamdiffvsr.runtime.files.job.rehearse", lambda *arguments: told)

    def looks(name: str = "out.mp4", **options) -> JobReport:
        return inspect_job(InOut(clip, tmp_path / name), FileOptions(**options))

    return looks


def with_second_video(source: Path, path: Path) -> Path:
    with av.open(str(source)) as one, av.open(str(source)) as two, av.open(str(path), "w") as out:
        streams = [(one, stream) for stream in one.streams] + [(two, two.streams.video[0])]
        copies = [out.add_stream_from_template(stream) for _, stream in streams]
        for (container, stream), copy in zip(streams, copies, strict=True):
            container.seek(0)
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    return path


def with_info(seen: JobReport, **fields) -> JobReport:
    return replace(seen, job=replace(seen.job, info=replace(seen.job.info, **fields)))


@pytest.mark.parametrize(
    ("options", "frames", "seconds"),
    [
        ({}, 60, 2.002),
        ({"max_frames": 9}, 9, 0.3),
        ({"start": Fraction(1)}, 30, 1.002),
        ({"end": Fraction(1, 2)}, 15, 0.5),
        ({"start": Fraction(1), "end": Fraction(9)}, 30, 1.002),
        ({"start": Fraction(1), "max_frames": 100}, 30, 1.002),
    ],
)
def test_how_much_there_will_be(looked, options, frames, seconds):
    seen = looked(**options)
    assert seen.frames == pytest.approx(frames, abs=1)
    assert seen.seconds == pytest.approx(seconds, abs=0.05)


def test_an_unknown_length_is_not_made_up(looked):
    job = with_info(looked(), frames=None, duration_seconds=None).job
    assert expected(job) == (None, None)
    assert expected(replace(job, options=FileOptions(max_frames=7)))[0] == 7


def test_what_cannot_be_is_refused_at_once(looked, tmp_path):
    with pytest.raises(StreamDiffVSRError, match=r"it ends at 2.00 s, before start=2.5"):
        looked(start=Fraction(5, 2))
    with pytest.raises(UsageError, match="fps= does not fit"):
        looked(fps=Fraction(25))
    (tmp_path / "there.mp4").touch()
    with pytest.raises(StreamDiffVSRError, match="already exists"):
        looked("there.mp4")
    with pytest.raises(StreamDiffVSRError, match="cannot hold prores"):
        looked(codec="prores")


@pytest.mark.parametrize(
    ("fields", "options", "told"),
    [
        ({}, {}, []),
        ({"colour": Colour(transfer=16)}, {}, ["HDR (PQ)"]),
        ({"colour": Colour(transfer=18)}, {}, ["HDR (HLG)"]),
        ({"interlaced": True}, {}, ["deinterlaced first (deinterlace='off'"]),
        ({"interlaced": True}, {"deinterlace": "off"}, ["will comb"]),
        ({}, {"deinterlace": "tff"}, ["deinterlaced first, by deinterlace='tff'"]),
        ({"skewed": True}, {}, ["shown at an angle"]),
        ({"sample_aspect": Fraction(16, 15)}, {}, []),
        ({"alpha": True}, {}, ["shown on black"]),
        ({"depth": 10}, {}, ["8 bits of the input's 10"]),
        ({"interlaced": True, "alpha": True}, {}, ["deinterlaced", "shown on black"]),
    ],
)
def test_policies_are_told(looked, fields, options, told):
    notes = list(policies(with_info(looked(**options), **fields)))
    assert len(notes) == len(told)
    for note, part in zip(notes, told, strict=True):
        assert part in note


@pytest.mark.parametrize(("name", "kept"), [("out.mkv", False), ("out.mp4", True)])
def test_a_pixel_aspect_that_only_the_container_could_tell(looked, name, kept):
    seen = with_info(looked(name, codec="ffv1"), sample_aspect=Fraction(16, 15))
    told = [note for note in policies(seen) if "pixel aspect 16:15 left out" in note]
    assert bool(told) is not kept


def test_images_of_hdr_lose_its_tags_and_that_is_told(looked):
    notes = list(policies(with_info(looked("frames"), colour=Colour(transfer=16))))
    assert any("upscaled as they are but images do not say so" in note for note in notes)


def test_images_are_not_deinterlaced(tmp_path):
    write_image(tmp_path / "0.png", np.zeros((48, 64, 3), np.uint8))
    inspect_job(InOut(tmp_path, tmp_path.with_name("out.mkv")), FileOptions(deinterlace="off"))
    with pytest.raises(UsageError, match="deinterlace='bff' does not fit"):
        inspect_job(InOut(tmp_path, tmp_path.with_name("out.mkv")), FileOptions(deinterlace="bff"))


def test_images_have_no_sound_and_that_is_told(looked):
    assert list(policies(looked("frames"))) == ["audio left out: images hold none"]


def test_what_the_output_cannot_hold_is_told_before_the_work(tmp_path):
    sounds = Clip(sounds=[("aac", 48000), ("flac", 48000)]).write(tmp_path / "in.mkv")
    assert inspect_job(InOut(sounds, tmp_path / "out.mkv"), FileOptions()).left_out == ()
    with pytest.raises(StreamDiffVSRError, match=r"\.webm.*cannot hold aac.*ends in \.mkv"):
        inspect_job(InOut(sounds, tmp_path / "out.webm"), FileOptions())
    two = with_second_video(sounds, tmp_path / "two.mkv")
    notes = list(policies(inspect_job(InOut(two, tmp_path / "out.mp4"), FileOptions())))
    assert notes == ["another video stream was left out: one is upscaled"]


def test_a_disk_that_is_too_small_is_refused_before_the_work(looked, monkeypatch, tmp_path):
    seen = looked("out.mkv", codec="ffv1")

    def free(count):
        monkeypatch.setattr(
            estimates.shutil, "disk_usage", lambda folder: SimpleNamespace(free=count)
        )
        return look_at_disk(tmp_path / "out.mkv", seen.job.format, size=(2160, 3840), frames=3000)

    ample = free(2000 * GIB)
    assert not ample.tight and ample.needed > 2 * 2160 * 3840 * 3000, "lossless, and twice"
    assert ample.output < ample.needed < 2.1 * ample.output
    check_disk(ample, tmp_path / "out.mkv")
    short = free(ample.needed - 1)
    assert short.tight and "may not be enough" in short.describe()
    check_disk(short, tmp_path / "out.mkv")
    with pytest.raises(StreamDiffVSRError, match=r"out.mkv'.*at least .* GiB.*1024 MiB are free"):
        check_disk(free(GIB), tmp_path / "out.mkv")


def test_no_disk_is_too_small_for_what_is_only_claimed(looked, monkeypatch, tmp_path):
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda folder: SimpleNamespace(free=GIB))
    form = looked("out.mkv", codec="ffv1").job.format
    shape = {"size": (2160, 3840), "frames": 10**9}
    check_disk(look_at_disk(tmp_path / "o", form, **shape, least_frames=10), tmp_path / "o")
    with pytest.raises(StreamDiffVSRError, match="disk_check=False"):
        check_disk(look_at_disk(tmp_path / "o", form, **shape, least_frames=10**6), tmp_path / "o")


def test_a_disk_check_can_be_overruled(looked, monkeypatch):
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1))
    with pytest.raises(StreamDiffVSRError, match="are free there"):
        job_report.plan_job(looked(), None)
    plan = job_report.plan_job(looked(), None, disk_check=False)
    assert "may not be enough" in "\n".join(plan.lines())


def test_an_estimate_refuses_nothing_and_says_that_it_is_one(looked):
    seen = with_info(looked(), counted=False, least_frames=12)
    assert "about 60 frames" in described_input(seen) and seen.least_frames == 12
    later = replace(seen.job, options=FileOptions(start=Fraction(5, 2)))
    assert expected(later) == (None, None)


def test_what_an_interrupted_run_has_left_is_not_needed_again(looked, tmp_path):
    form, shape = looked().job.format, {"size": (1080, 1920), "frames": 1000}
    whole = look_at_disk(tmp_path / "out.mp4", form, **shape)
    part = tmp_path / "out.mp4.unfinished" / "part-000"
    part.mkdir(parents=True)
    (part / "0.mkv").write_bytes(bytes(1_000_000))
    left = look_at_disk(tmp_path / "out.mp4", form, **shape)
    assert whole.needed - left.needed == 1_000_000 and whole.output == left.output


def test_the_disk_estimate_follows_quality_and_kind(looked, tmp_path):
    def needed(form):
        return look_at_disk(tmp_path / "o", form, size=(720, 1280), frames=100).needed

    usual = needed(looked().job.format)
    assert needed(looked(crf=23).job.format) == pytest.approx(usual / 2, rel=0.01)
    raw = 720 * 1280 * 3 * 100
    assert raw / 4 < needed(ImageFormat(".png", deep=False)) <= raw
    assert needed(ImageFormat(".png", deep=True)) > raw
    unknown = look_at_disk(tmp_path / "o", looked().job.format, size=(720, 1280), frames=None)
    assert unknown.needed is None and "not known" in unknown.describe()


def test_a_plan_tells_all_that_matters(looked, parity_engines):
    plan = replace(job_report.plan_job(looked(), parity_engines), frame_seconds=0.5)
    lines = "\n".join(plan.lines())
    for part in (
        "64x48, 60 frames, 0:00:02, h264 8-bit, 1 of sound",
        "256x192, h264 by libx264, crf 17",
        "fp32, onnxruntime on cpu; flow: all-pairs",
        "whole frame",
        "MiB of ",
        "to decode and encode",
        "time: about 0:00:30 (2 frames a second)",
    ):
        assert part in lines
    assert re.search(r"^disk: about \d+ KiB of |^disk: \d+ KiB of ", lines, re.M)
    told = json.loads(json.dumps(plan.to_json()))
    assert (told["input_size"], told["output_size"], told["frames"]) == ("64x48", "256x192", 60)
    assert (told["codec"], told["backend"], told["seconds"]) == ("h264", "onnxruntime", 30)
    assert told["memory_bytes"] > told["memory"]["total"] > 0
    assert told["disk"]["free"] > told["disk"]["needed"] > 0


def test_before_engines_are_built_the_plan_says_so(looked):
    plan = job_report.plan_job(looked(), None)
    assert "built first" in "\n".join(plan.lines())
    assert plan.to_json()["memory"] is None and plan.seconds is None


def test_chunks_take_memory_each(looked, parity_engines, monkeypatch):
    one, four = (job_report.plan_job(looked(), parity_engines, chunks=n) for n in (1, 4))
    assert four.memory_bytes == 4 * one.memory_bytes
    monkeypatch.setattr(job_report, "free_host_bytes", lambda: 2 * one.memory_bytes)
    job_report.plan_job(looked(), parity_engines)
    with pytest.raises(StreamDiffVSRError, match=r"at least .* of memory.*smaller chunks="):
        job_report.plan_job(looked(), parity_engines, chunks=4)


def test_engines_that_are_open_are_not_counted_again(looked, parity_engines, monkeypatch):
    monkeypatch.setattr(job_report, "free_host_bytes", lambda: 120 * 2**20)
    job_report.plan_job(looked(), parity_engines, opened=True)
    with pytest.raises(StreamDiffVSRError, match="another codec="):
        job_report.plan_job(looked(), parity_engines)


def test_engines_of_another_size_are_refused(looked, parity_engines):
    with pytest.raises(StreamDiffVSRError, match="engines are made for 64x48"):
        job_report.plan_job(with_info(looked(), width=80), parity_engines)


class Timed:
    """Engines whose frames take times that are given, on a clock that is given too."""

    size = (48, 64)

    def __init__(self, monkeypatch, seconds):
        self._now, self._seconds, self.frames = 0.0, list(seconds), 0
        monkeypatch.setattr(estimates.time, "perf_counter", lambda: self._now)

    def stream_frames(self, frames, state=None):
        for frame, seconds in zip(frames, self._seconds, strict=False):
            assert frame.image.shape == (48, 64, 3)
            self._now += seconds
            self.frames += 1
            yield frame


def test_a_few_frames_tell_the_time_the_first_not_counted(monkeypatch):
    engines = Timed(monkeypatch, [5, 0.1, 0.3, 0.2, 9])
    assert estimates.seconds_per_frame(engines, 1000) == pytest.approx(0.2)
    slow = Timed(monkeypatch, [5, 20, 30, 40])
    assert estimates.seconds_per_frame(slow, None) == pytest.approx(20)
    assert slow.frames == 2, "of slow engines no more than needed"
    short = Timed(monkeypatch, [1] * 9)
    assert estimates.seconds_per_frame(short, 12) is None and short.frames == 0


def test_lengths_are_told_as_people_read_them():
    assert [clock(seconds) for seconds in (0, 59.6, 3725)] == ["0:00:00", "0:01:00", "1:02:05"]
