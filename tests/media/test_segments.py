"""Segments: what they hold, what is left of them when writing ends early, and that runs agree."""

import os
import sys

import numpy as np
import psutil
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.formats import choose_format
from streamdiffvsr.runtime.media.info import Segment
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.runtime.media.writer import SegmentWriter
from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip, see
from streamdiffvsr.tests.media.copying import names

SIZE = (96, 128)


@pytest.fixture
def info(tmp_path):
    return probe(Clip(pts=[0, 1001]).write(tmp_path / "clip.mp4"))


def opened(tmp_path, info, codec="h264", **options) -> SegmentWriter:
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    preset = {"h264": "ultrafast", "h265": "ultrafast", "av1": "10"}.get(codec)
    format = choose_format(
        tmp_path / "o.mkv",
        info=info,
        size=SIZE,
        codec=codec,
        preset=preset,
        crf=options.pop("crf", None),
    )
    return SegmentWriter(folder, size=SIZE, like=info, format=format, **options)


def noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (*SIZE, 3), np.uint8)


def test_a_segment_holds_its_frames_and_is_told_when_whole(tmp_path, info):
    told: list[Segment] = []
    with opened(tmp_path, info) as writer:
        for index, pts in enumerate(VFR):
            if index in (0, 5):
                writer.begin(f"part{index}")
            writer.write(noise(index), 10007 + pts, NTSC, 2002)
            told += writer.finished()
        assert [segment.name for segment in told] == ["part0"]
    told += writer.finished()
    assert writer.finished() == []
    assert [(s.frames, s.first_pts, s.end_pts) for s in told] == [
        (5, 10007, 10007 + VFR[4] + 2002),
        (7, 10007 + VFR[5], 10007 + VFR[-1] + 2002),
    ]
    assert [Segment.from_json(segment.to_json()) for segment in told] == told
    assert names(tmp_path / "out") == {file for segment in told for file in segment.files}
    for segment, first in zip(told, (0, 5), strict=True):
        times = see(tmp_path / "out" / segment.files[0]).times
        expected = VFR[first : first + segment.frames]
        assert times == [(pts - expected[0]) * NTSC for pts in expected]


def test_a_time_that_does_not_advance_is_moved_and_counted(tmp_path, info):
    with opened(tmp_path, info, after_pts=5000) as writer:
        for index, pts in enumerate((4000, 6006, 6006, 500, 9009)):
            if index in (0, 2):
                writer.begin(f"part{index}")
            writer.write(noise(index), pts)
    first, second = writer.finished()
    assert (writer.retimed, first.retimed, second.retimed) == (3, 1, 2)
    assert (first.first_pts, second.first_pts) == (5001, 6007)
    assert see(tmp_path / "out" / second.files[0]).times == [0, NTSC, (9009 - 6007) * NTSC]


def test_a_killed_encoder_leaves_whole_segments_only(tmp_path, info):
    writer = opened(tmp_path, info)
    with pytest.raises(StreamDiffVSRError, match="ended unexpectedly") as caught:
        for index in range(200):
            if index % 10 == 0:
                writer.begin(f"part{index:03d}")
            writer.write(noise(index), index * 1001)
            if index == 25:
                (encoder,) = psutil.Process(os.getpid()).children()
                encoder.kill()
    assert "\n" not in str(caught.value)
    whole = writer.finished()
    assert [segment.name for segment in whole] == ["part000", "part010"]
    assert names(tmp_path / "out") == {"part000.mp4", "part010.mp4"}
    assert all(len(see(tmp_path / "out" / s.files[0]).times) == 10 for s in whole)


def test_an_error_in_the_block_removes_what_is_not_whole(tmp_path, info):
    with pytest.raises(KeyError):  # noqa: SIM117
        with opened(tmp_path, info) as writer:
            for index in range(12):
                if index % 5 == 0:
                    writer.begin(f"part{index}")
                writer.write(noise(index), index)
            raise KeyError
    assert names(tmp_path / "out") == {"part0.mp4", "part5.mp4"}


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit there")
def test_a_segment_that_may_not_grow_is_one_clear_line(tmp_path, info):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the child inherits it
    try:
        writer = opened(tmp_path, info, crf=1)
        with pytest.raises(StreamDiffVSRError) as caught, writer:
            for index in range(60):
                if index in (0, 1):
                    writer.begin(f"part{index}")
                writer.write(noise(index), index)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the largest size allowed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [segment.name for segment in writer.finished()] == ["part0"]
    assert names(tmp_path / "out") == {"part0.mp4"}


def test_a_frame_of_another_kind_is_a_mistake_of_the_caller(tmp_path, info):
    with opened(tmp_path, info) as writer:
        with pytest.raises(ValueError, match="no segment was begun"):
            writer.write(noise(0), 0)
        writer.begin("part0")
        with pytest.raises(ValueError, match="not uint8"):
            writer.write(noise(0).astype(np.uint16), 0)
        with pytest.raises(ValueError, match=r"image.shape = \(128, 96, 3\)"):
            writer.write(noise(0).transpose(1, 0, 2), 0)
        writer.write(noise(0), 0)
    assert len(writer.finished()) == 1


@pytest.mark.parametrize(
    "codec",
    ["h264", *(pytest.param(c, marks=pytest.mark.slow) for c in ("h265", "av1", "prores", "ffv1"))],
)
def test_a_run_that_was_interrupted_writes_the_same_segments(tmp_path, info, codec):
    """Also on fewer cores, where the platform lets a process choose them."""

    def run(first: int, last: int) -> dict[str, bytes]:
        after = None if first == 0 else (first - 1) * 1001
        with opened(tmp_path, info, codec, after_pts=after) as writer:
            for index in range(first, last):
                if index % 9 == 0:
                    writer.begin(f"part{index:03d}")
                writer.write(noise(index), index * 1001, duration=1001)
        folder = tmp_path / "out"
        return {s.name: (folder / s.files[0]).read_bytes() for s in writer.finished()}

    whole = run(0, 27)
    pinned = psutil.Process() if hasattr(psutil.Process, "cpu_affinity") else None
    cores = pinned.cpu_affinity() if pinned else []
    try:
        if pinned:
            pinned.cpu_affinity(cores[:1])
        again = run(0, 18) | run(18, 27)
    finally:
        if pinned:
            pinned.cpu_affinity(cores)
    assert list(again) == list(whole) == ["part000", "part009", "part018"]
    assert again == whole
