"""Tests what a player finds in a joined file, and what is left when joining fails."""

import json
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.formats import choose_format
from streamdiffvsr.runtime.media.info import Segment
from streamdiffvsr.runtime.media.join import join
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.runtime.media.writer import SegmentWriter
from streamdiffvsr.runtime.media.writer_child import write_image
from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip, moving, see
from streamdiffvsr.tests.media.copying import names
from streamdiffvsr.tests.media.segmenting import joined, written
from streamdiffvsr.tests.media.sounding import lengths_of_mp4

START = 10007
LAST = 4004
KEEPS_TIMES = [
    ("out.mp4", {}),
    pytest.param("out.mov", {}, marks=pytest.mark.slow),
    pytest.param("out.mp4", {"codec": "h265"}, marks=pytest.mark.slow),
    pytest.param("out.mp4", {"codec": "av1", "preset": "10"}, marks=pytest.mark.slow),
    pytest.param("out.mov", {"codec": "prores"}, marks=pytest.mark.slow),
    pytest.param("out.mp4", {"codec": "ffv1"}, marks=pytest.mark.slow),
]
ROUNDS_TIMES = [
    ("out.mkv", {"codec": "h265"}),
    pytest.param("out.ts", {}, marks=pytest.mark.slow),
    pytest.param("out.mkv", {}, marks=pytest.mark.slow),
    pytest.param("out.ts", {"codec": "h265"}, marks=pytest.mark.slow),
    pytest.param("out.mkv", {"codec": "prores"}, marks=pytest.mark.slow),
    pytest.param("out.mkv", {"codec": "av1", "preset": "10"}, marks=pytest.mark.slow),
    pytest.param("out.mkv", {"codec": "ffv1"}, marks=pytest.mark.slow),
]


def vfr_clip(tmp_path):
    clip = Clip(
        pts=[START + pts for pts in VFR],
        last_duration=LAST,
        options={"bf": "0"},
        sounds=[("aac", 48000), ("aac", 44100)],
        container_options={"movie_timescale": "2352000"},
        colour=(9, 1, 9, 16),
        sample_aspect=Fraction(4, 3),
        title="Ein Café",
    ).write(tmp_path / "clip.mp4")
    return probe(clip)


def h264(output, info):
    return choose_format(output, info=info, size=info.size, preset="ultrafast")


def planes(frame) -> np.ndarray:
    """The bytes of a frame, without what pads its rows."""
    deep = frame.format.components[0].bits > 8
    size = 4 if frame.format.name == "bgr0" else 2 if deep else 1
    rows = [
        np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width * size]
        for plane in frame.planes
    ]
    return np.concatenate([plane.ravel() for plane in rows])


def shown_for(output) -> Fraction:
    """Returns the length of the picture by a container that stores it exactly."""
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        return stream.duration * stream.time_base


def assert_pictures_are_those_of_the_segments(output, entries) -> None:
    alone = [
        planes(f) for folder, segment in entries for f in see(folder / segment.files[0]).images
    ]
    together = [planes(frame) for frame in see(output).images]
    assert len(alone) == len(together) == len(VFR)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "asked"), KEEPS_TIMES)
def test_times_sound_and_pictures_are_exactly_those_of_the_segments(tmp_path, name, asked):
    info = vfr_clip(tmp_path)
    entries, done = joined(info, tmp_path / name, **asked)
    before, after = see(info.path), see(tmp_path / name)
    assert after.times == before.times == [(START + pts) * NTSC for pts in VFR]
    assert after.sounds == before.sounds
    assert [len(packets) > 20 for packets in after.sounds] == [True, True]
    assert shown_for(tmp_path / name) == (VFR[-1] + LAST) * NTSC
    assert_pictures_are_those_of_the_segments(tmp_path / name, entries)
    assert (dict(done.copied), tuple(done.notes)) == ({"audio": 2}, ())
    assert done.bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize(("name", "asked"), ROUNDS_TIMES)
def test_other_containers_round_times_and_keep_lip_sync(tmp_path, name, asked):
    info = vfr_clip(tmp_path)
    entries, _ = joined(info, tmp_path / name, **asked)
    before, after = see(info.path), see(tmp_path / name)
    shift = after.times[0] - before.times[0]  # no time before zero in these containers
    limit = Fraction(1, 1000 if name.endswith("mkv") else 90000)
    for old, new in zip(before.times, after.times, strict=True):
        assert abs(new - old - shift) <= limit
    for (old, data), (new, copied) in zip(before.sounds[0], after.sounds[0], strict=True):
        assert abs(new - old - shift) <= 2 * limit
        assert copied.endswith(data)
    assert_pictures_are_those_of_the_segments(tmp_path / name, entries)


def test_frames_out_of_decoding_order_come_out_at_their_times(tmp_path):
    info = vfr_clip(tmp_path)
    entries, _ = joined(info, tmp_path / "out.mp4", begins=(0, 6))
    assert max(segment.reorder for _, segment in entries) > 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert [p.pts for p in packets] != sorted(p.pts for p in packets)
    assert all(p.dts <= p.pts for p in packets)
    assert all(a.dts < b.dts for a, b in pairwise(packets))
    assert see(tmp_path / "out.mp4").times == [(START + pts) * NTSC for pts in VFR]


@pytest.mark.parametrize("name", ["out.mp4", pytest.param("out.mkv", marks=pytest.mark.slow)])
def test_a_gap_of_hours_is_kept(tmp_path, name):
    clip = probe(Clip(pts=[0]).write(tmp_path / "clip.mp4"))
    info = replace(clip, time_base=Fraction(1, 90000))
    hours = 13 * 3600 * 90000  # more than MP4 counts between two frames
    times = [9000, 18000, hours, hours + 9000, 2 * hours, 2 * hours + 9000, 3 * hours]
    format = h264(tmp_path / name, info)
    with SegmentWriter(tmp_path, size=(48, 64), like=info, format=format) as writer:
        for index, pts in enumerate(times):
            if index in (0, 4):
                writer.begin(f"part{index}")
            writer.write(moving(index, 48, 64), pts, duration=9000)
    told = [Segment.from_json(json.loads(json.dumps(s.to_json()))) for s in writer.finished()]
    join([(tmp_path, s) for s in told], tmp_path / name, like=info, format=format)
    assert see(tmp_path / name).times == [pts * info.time_base for pts in times]


@pytest.mark.slow
def test_a_constant_rate_stays_one(tmp_path):
    info = probe(Clip(pts=[i * 1001 for i in range(30)]).write(tmp_path / "clip.mp4"))
    entries, _ = joined(info, tmp_path / "out.mp4", begins=(0, 12, 24))
    assert max(segment.reorder for _, segment in entries) > 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        times = [p.dts for p in container.demux(stream) if p.size]
        assert stream.average_rate == Fraction(30000, 1001)
    assert {b - a for a, b in pairwise(times)} == {1001}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("out.mov", {"codec": "prores"}),
        ("out.mp4", {"codec": "ffv1"}),
        ("out.mp4", {"codec": "av1", "preset": "12"}),
        ("out.mkv", {"preset": "ultrafast"}),
    ],
)
def test_the_shape_of_pixels_is_the_sources(tmp_path, name, asked):
    joined(vfr_clip(tmp_path), tmp_path / name, **asked)
    assert probe(tmp_path / name).sample_aspect == Fraction(4, 3)


def test_tags_colours_and_shape_are_the_sources(tmp_path):
    info = vfr_clip(tmp_path)
    joined(info, tmp_path / "out.mp4", codec="h265")
    made = probe(tmp_path / "out.mp4")
    colour = made.colour
    assert (colour.matrix, colour.range, colour.primaries, colour.transfer) == (9, 1, 9, 16)
    assert made.sample_aspect == Fraction(4, 3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["title"] == "Ein Café"
        assert container.streams.video[0].codec_tag == "hvc1"


def test_a_damaged_segment_is_one_clear_line_and_no_output(tmp_path):
    info = vfr_clip(tmp_path)
    format = h264(tmp_path / "out.mp4", info)
    entries = written(tmp_path, info, format, (0, 6))
    (folder, first), (_, second) = entries
    (folder / second.files[0]).write_bytes((folder / first.files[0]).read_bytes()[:500])
    before = names(tmp_path)
    with pytest.raises(StreamDiffVSRError, match=r"part006.mp4': .*; start again") as caught:
        join(entries, tmp_path / "out.mp4", like=info, format=format)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


def test_what_is_there_is_not_replaced_unless_asked_and_segments_stay(tmp_path):
    info = vfr_clip(tmp_path)
    format = h264(tmp_path / "out.mp4", info)
    entries = written(tmp_path, info, format, (0, 6))
    (tmp_path / "out.mp4").write_bytes(b"precious")
    before, seen = names(tmp_path), []
    with pytest.raises(StreamDiffVSRError, match="come into being meanwhile"):
        join(entries, tmp_path / "out.mp4", like=info, format=format)
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"
    join(
        entries,
        tmp_path / "out.mp4",
        like=info,
        format=format,
        overwrite=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(see(tmp_path / "out.mp4").times) == len(VFR)
    assert names(tmp_path) == before
    assert all(done <= total == len(VFR) for done, total in seen)


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit there")
def test_a_file_that_may_not_grow_is_one_clear_line_and_segments_stay(tmp_path):
    import resource

    info = vfr_clip(tmp_path)
    format = h264(tmp_path / "out.mp4", info)
    entries = written(tmp_path, info, format, (0, 6))
    before = names(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the child inherits it
    try:
        with pytest.raises(StreamDiffVSRError) as caught:
            join(entries, tmp_path / "out.mp4", like=info, format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the largest size allowed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


def test_images_become_a_video_with_nothing_copied(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(3):
        write_image(tmp_path / "in" / f"{index}.png", moving(index, 48, 64), quality=95)
    info = probe(tmp_path / "in")
    format = h264(tmp_path / "out.mp4", info)
    with SegmentWriter(tmp_path, size=(48, 64), like=info, format=format) as writer:
        for index in range(3):
            writer.begin(f"part{index}")
            writer.write(moving(index, 48, 64), index, info.time_base, 1)
    entries = [(tmp_path, segment) for segment in writer.finished()]
    done = join(entries, tmp_path / "out.mp4", like=info, format=format)
    assert (done.copied, list(done.notes)) == ({}, [])
    assert see(tmp_path / "out.mp4").times == [index * info.time_base for index in range(3)]


def still(index, height, width):
    """The first moving picture with a little noise: encoders take all the B-frames they may."""
    noise = np.random.default_rng(index).integers(0, 3, (height, width, 1), np.uint8)
    return np.minimum(moving(0, height, width), 250) + noise


GROWING = [0, *np.cumsum(np.linspace(500, 9000, 19).astype(int)).tolist()]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("out.mp4", {"preset": "veryslow"}),
        ("out.mov", {"preset": "ultrafast"}),
        pytest.param("out.mp4", {"codec": "h265", "preset": "fast"}, marks=pytest.mark.slow),
        pytest.param("out.mov", {"preset": "slower"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("last", [40, 20000])
def test_an_mp4_lasts_exactly_as_long_as_its_picture(tmp_path, name, asked, last):
    clip = Clip(pts=GROWING, last_duration=last, options={"bf": "0"}, image=still)
    clip.write(tmp_path / "clip.mp4")
    entries, _ = joined(probe(tmp_path / "clip.mp4"), tmp_path / name, begins=(0, 8), **asked)
    if asked["preset"] != "ultrafast":
        assert max(segment.reorder for _, segment in entries) > 1
    end = (GROWING[-1] + last) * NTSC
    assert see(tmp_path / name).times == [pts * NTSC for pts in GROWING]
    assert lengths_of_mp4(tmp_path / name) == (end, end, end)
    assert shown_for(tmp_path / name) == end


def test_a_frame_shown_last_is_shown_as_long_where_it_is_not_stored_last(tmp_path):
    clip = Clip(pts=GROWING, last_duration=30000, options={"bf": "0"}, image=still)
    clip.write(tmp_path / "clip.mp4")
    joined(probe(tmp_path / "clip.mp4"), tmp_path / "out.mkv", begins=(0, 8), preset="veryslow")
    end = (GROWING[-1] + 30000) * NTSC
    assert abs(see(tmp_path / "out.mkv").length - end) < 0.002


def test_what_was_made_is_kept_where_the_container_cannot_hold_the_sound(tmp_path):
    info = probe(Clip(sounds=[("wavpack", 48000)]).write(tmp_path / "clip.mkv"))
    with pytest.raises(StreamDiffVSRError, match=r"cannot hold wavpack .* in '.*out\.kept\.mkv'"):
        joined(info, tmp_path / "out.mp4", preset="ultrafast")
    assert not (tmp_path / "out.mp4").exists()
    assert len(see(tmp_path / "out.kept.mkv").times) == info.frames
