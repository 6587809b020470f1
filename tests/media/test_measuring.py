"""Tests the length reported before any frame is made: by the file's packets, not its claims."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from streamdiffvsr.runtime.media import frame_times_child, libav
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.media.clips import Clip
from streamdiffvsr.tests.media.test_display_times import BASE, RATE, clip


def delayed(path: Path, begin: float, frames: int = 12) -> Path:
    first = round(begin * RATE)
    return clip(path, pts=range(first, first + frames), options={"bf": "0"})


@pytest.mark.parametrize("begin", [36_000, 1_700_000_000], ids=["ten hours", "wall clock"])
@pytest.mark.parametrize("ending", ["mkv", "nut", "mov", "ts"])
def test_a_clock_that_starts_late_makes_a_film_no_longer(tmp_path, ending, begin):
    if ending == "ts" and begin > 1e6:
        pytest.skip("its clock ends at 26 hours")
    info = probe(delayed(tmp_path / f"in.{ending}", begin))
    assert (info.frames, info.counted, info.least_frames) == (12, True, 12)
    assert info.duration_seconds == pytest.approx(12 / RATE, abs=2e-3)
    assert info.average_rate == RATE


@pytest.mark.parametrize(
    "flags",
    [
        "frag_keyframe",
        "frag_keyframe+empty_moov",
        "frag_keyframe+delay_moov",
        "frag_every_frame+empty_moov",
        "faststart",
        "",
    ],
)
def test_all_fragments_of_an_mp4_count(tmp_path, flags):
    options = {"movflags": flags} if flags else {}
    path = clip(tmp_path / "in.mp4", 40, options={"g": "6"}, container_options=options)
    info = probe(path)
    assert (info.frames, info.counted) == (40, True)
    assert info.duration_seconds == pytest.approx(40 / RATE, abs=2e-3)
    with FileSource(path) as source:
        assert len(list(source)) == 40


def test_a_rate_that_a_demuxer_makes_up_is_not_believed(tmp_path):
    path = clip(
        tmp_path / "in.dv",
        25,
        codec="dvvideo",
        container="dv",
        size=(576, 720),
        time_base=Fraction(1, 25),
        options={},
    )
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate > 1000
    info = probe(path)
    assert (info.frames, info.average_rate) == (25, 25)
    assert info.duration_seconds == pytest.approx(1)


def test_a_variable_rate_is_the_mean_of_its_frames(tmp_path):
    pts = [0, 40, 80, 500, 520, 1000, 1040, 1500, 2000, 2900]
    path = Clip(pts=pts, time_base=Fraction(1, 1000), last_duration=100, options={"bf": "0"}).write(
        tmp_path / "in.mkv"
    )
    info = probe(path)
    assert info.frames == 10 and info.duration_seconds == pytest.approx(3, abs=0.05)
    assert float(info.average_rate) == pytest.approx(9 / 2.9, rel=0.02)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(50)])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
def test_a_usual_rate_is_told_exactly(tmp_path, ending, rate):
    if ending == "mkv" and rate.denominator > 1:
        pytest.skip("the clip is tagged with another")
    path = tmp_path / f"in.{ending}"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(30):
            output.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        output.mux(stream.encode(None))
    assert probe(path).average_rate == rate


def test_files_that_were_joined_are_as_long_as_both(tmp_path):
    one = clip(tmp_path / "one.ts", 45, options={"bf": "0"}).read_bytes()
    (tmp_path / "joined.ts").write_bytes(one + one)
    info = probe(tmp_path / "joined.ts")
    assert info.frames == 90 and info.average_rate == RATE
    assert info.duration_seconds == pytest.approx(90 / RATE, abs=0.05)


def test_a_pipe_is_not_read_for_it(tmp_path):
    import os
    import threading

    path = clip(tmp_path / "in.mkv", 20)
    pipe = tmp_path / "pipe"
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    with FileSource(pipe) as source:
        assert (source.info.counted, source.info.least_frames) == (False, 0)
        assert len(list(source)) == 20
    writer.join()


def in_parts(path: Path, monkeypatch, head: int = 20_000) -> frame_times_child.Measured:
    """Measures the file as if it were a film too long to be read whole."""
    monkeypatch.setattr(frame_times_child, "WHOLE_BYTES", 0)
    monkeypatch.setattr(frame_times_child, "_END_BYTES", head)
    monkeypatch.setattr(libav, "_BUFFER_BYTES", 4096)
    with libav.open_input(path) as container:
        return frame_times_child.measure(path, container, libav.moving_picture(container))


@pytest.mark.parametrize("name", ["in.mkv", "in.ts", "in.avi", "in.nut", "in.mpg", "in.flv"])
def test_of_a_long_film_the_ends_are_measured(tmp_path, monkeypatch, name):
    path = clip(tmp_path / name, 600, codec="mpeg4" if name != "in.flv" else "libx264", options={})
    found = in_parts(path, monkeypatch)
    assert found.frames == pytest.approx(600, rel=0.1)
    assert found.seconds == pytest.approx(20, rel=0.1)
    assert found.rate == RATE
    assert found.counted == (name == "in.avi"), "elsewhere it is an estimate"
    assert 0 < found.least <= 600


def test_a_long_film_that_starts_late_is_no_longer(tmp_path, monkeypatch):
    path = clip(tmp_path / "in.mkv", pts=range(1_080_000, 1_080_600), codec="mpeg4", options={})
    found = in_parts(path, monkeypatch)
    assert found.seconds == pytest.approx(20, rel=0.1)
    assert found.frames == pytest.approx(600, rel=0.1)


def test_a_gap_of_days_makes_no_frames(tmp_path, monkeypatch):
    pts = [*range(300), *range(24 * 3600 * RATE, 24 * 3600 * RATE + 600)]
    path = clip(tmp_path / "in.mkv", pts=pts, codec="mpeg4", options={})
    found = in_parts(path, monkeypatch)
    assert found.least <= 900 and found.frames < 3000
    assert found.seconds == pytest.approx(86_420, rel=0.01)


def test_a_raw_stream_is_measured_by_its_bytes(tmp_path, monkeypatch):
    path = clip(tmp_path / "in.m2v", 600, codec="mpeg2video", container="mpeg2video", options={})
    found = in_parts(path, monkeypatch)
    assert found.frames == pytest.approx(600, rel=0.5) and not found.counted
    assert found.least <= 600


def test_an_index_is_believed_no_further_than_the_file_goes(tmp_path):
    path = clip(
        tmp_path / "in.mp4",
        200,
        options={"bf": "0", "g": "10"},
        container_options={"movflags": "faststart"},
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with FileSource(path) as source:
        claimed, given = source.info.frames, len(list(source))
    assert given < 150 and claimed == pytest.approx(given, abs=2)


def test_a_last_picture_is_part_of_the_length(tmp_path):
    path = clip(tmp_path / "in.mp4", 12, last_duration=90)
    assert probe(path).duration_seconds == pytest.approx(11 / RATE + 3, abs=2e-3)


def test_plain_films_cost_no_reading(tmp_path, monkeypatch):
    path = clip(tmp_path / "in.mp4", 60)
    with libav.open_input(path) as container:
        monkeypatch.setattr(libav, "open_input", lambda *arguments: pytest.fail("opened again"))
        found = frame_times_child.measure(path, container, libav.moving_picture(container))
    assert (found.frames, found.seconds, found.counted) == (60, pytest.approx(60 * BASE), True)
