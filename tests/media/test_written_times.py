"""Tests what a player finds in the written file: times, sound and tags."""

from fractions import Fraction

import av
import pytest

from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip, moving, see
from streamdiffvsr.tests.media.copying import copy, video


@pytest.mark.parametrize(
    ("name", "start", "preset"),  # a fast preset has no B-frames, a slower one has
    [("out.mp4", 0, "medium"), ("out.mp4", 10007, "ultrafast"), ("out.mov", 10007, "medium")],
)
def test_times_and_sound_are_carried_exactly(tmp_path, name, start, preset):
    clip = Clip(
        pts=[start + pts for pts in VFR],
        last_duration=4004,
        options={"bf": "0"},
        sounds=[("aac", 48000), ("aac", 44100)],
        container_options={"movie_timescale": "2352000"},
    ).write(tmp_path / "clip.mp4")
    writer, done = copy(clip, tmp_path / name, preset=preset)
    before, after = see(clip), see(tmp_path / name)
    assert after.times == before.times == [(start + pts) * NTSC for pts in VFR]
    assert after.sounds == before.sounds
    assert [len(packets) > 20 for packets in after.sounds] == [True, True]
    assert (done.copied["audio"], writer.frames, writer.retimed) == (2, len(VFR), 0)


def test_the_last_frame_keeps_its_duration(tmp_path):
    clip = Clip(pts=VFR, options={"bf": "0"}, last_duration=4004).write(tmp_path / "clip.mp4")
    copy(clip, tmp_path / "plain.mp4")
    assert see(tmp_path / "plain.mp4").last_duration == 4004 * NTSC
    copy(clip, tmp_path / "plain.mkv")
    assert see(tmp_path / "plain.mkv").last_duration == Fraction(133, 1000)
    copy(clip, tmp_path / "reordered.mp4", preset="medium")
    length = float((VFR[-1] + 4004) * NTSC)
    assert see(tmp_path / "reordered.mp4").length == pytest.approx(length, abs=1e-6)


def test_matroska_keeps_the_times_of_matroska(tmp_path):
    pts = [pts for pts in VFR if pts != 9010]  # not two frames in one millisecond
    clip = Clip(pts=pts, sounds=[("libopus", 48000)]).write(tmp_path / "clip.mkv")
    copy(clip, tmp_path / "out.mkv", preset="medium")
    before, after = see(clip), see(tmp_path / "out.mkv")
    assert after.times == before.times
    assert after.sounds == before.sounds
    assert len(before.sounds[0]) > 20


@pytest.mark.parametrize(("name", "resolution"), [("out.mkv", 1000), ("out.ts", 90000)])
def test_other_containers_round_to_their_resolution_and_keep_lip_sync(tmp_path, name, resolution):
    clip = Clip(pts=VFR, sounds=[("aac", 48000)]).write(tmp_path / "clip.mp4")
    copy(clip, tmp_path / name)
    before, after = see(clip), see(tmp_path / name)
    shift = after.times[0] - before.times[0]  # no time before zero in these containers
    limit = Fraction(1, resolution)
    assert len(after.times) == len(before.times)
    for old, new in zip(before.times, after.times, strict=True):
        assert abs(new - old - shift) <= limit
    assert len(after.sounds[0]) == len(before.sounds[0])
    for (old, data), (new, copied) in zip(before.sounds[0], after.sounds[0], strict=True):
        assert abs(new - old - shift) <= 2 * limit
        assert copied.endswith(data)  # MPEG-TS puts a header of its own before it


def test_sound_from_a_transport_stream_fits_into_mp4(tmp_path):
    clip = Clip(sounds=[("aac", 48000)]).write(tmp_path / "clip.ts")
    copy(clip, tmp_path / "out.mp4")
    before, after = see(clip), see(tmp_path / "out.mp4")
    assert after.times == before.times
    assert len(before.sounds[0]) > 15
    for (old, data), (new, copied) in zip(before.sounds[0], after.sounds[0], strict=True):
        assert abs(new - old) <= Fraction(1, 48000)  # MP4 counts sound in samples
        assert data.endswith(copied)  # MP4 does without the header of MPEG-TS


def test_picture_and_sound_lie_beside_each_other(tmp_path):
    pts = [i * 1001 for i in range(120)]
    clip = Clip(pts=pts, sounds=[("aac", 48000)]).write(tmp_path / "clip.mp4")
    copy(clip, tmp_path / "out.mp4", preset="medium")
    furthest = {0: Fraction(0), 1: Fraction(0)}
    with av.open(str(tmp_path / "out.mp4")) as container:
        for packet in sorted((p for p in container.demux() if p.size), key=lambda p: p.pos):
            furthest[packet.stream_index] = packet.dts * packet.time_base
            assert abs(furthest[0] - furthest[1]) < Fraction(1, 2)


def test_sound_that_is_longer_than_the_picture_is_kept_or_cut(tmp_path):
    clip = Clip(pts=[i * 1001 for i in range(60)], sounds=[("aac", 48000)]).write(
        tmp_path / "c.mp4"
    )
    whole = see(clip).sounds[0]
    end = 60 * 1001 * NTSC / 2
    copy(clip, tmp_path / "kept.mp4")
    copy(clip, tmp_path / "cut.mp4", span=(None, end))
    assert see(tmp_path / "kept.mp4").sounds[0] == whole
    assert see(tmp_path / "cut.mp4").sounds[0] == [packet for packet in whole if packet[0] < end]


def test_sound_can_be_left_out(tmp_path):
    clip = Clip(sounds=[("aac", 48000)]).write(tmp_path / "clip.mp4")
    assert copy(clip, tmp_path / "out.mp4", audio="none")[1].copied == {}
    assert see(tmp_path / "out.mp4").sounds == []


def test_a_time_that_does_not_advance_is_moved_and_counted(tmp_path):
    with video(tmp_path / "out.mp4", (48, 64), time_base=NTSC) as writer:
        for pts in (0, 1001, 1001, 500, 3003):
            writer.write(moving(0, 48, 64), pts)
    assert writer.retimed == 2
    assert see(tmp_path / "out.mp4").times == [pts * NTSC for pts in (0, 1001, 1002, 1003, 3003)]


def test_tags_of_file_and_streams_are_carried(tmp_path):
    clip = Clip(title="Ein Café", sounds=[("aac", 48000)]).write(tmp_path / "clip.mkv")
    copy(clip, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["title"] == "Ein Café"
        assert "DURATION" not in container.streams.video[0].metadata
