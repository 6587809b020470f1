"""Tests what a joined file keeps of its source in addition to the picture."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import pytest

from streamdiffvsr.runtime.media.formats import choose_format
from streamdiffvsr.runtime.media.join import join
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.media.clips import Clip, see
from streamdiffvsr.tests.media.rich import CHAPTERS, FONT, LINES, Rich, held
from streamdiffvsr.tests.media.segmenting import bars

FULL = Rich(subtitles=("subrip", "ass"), attachment=True, cover=True)


def made(info, output, count=50, first=0, **options):
    format = choose_format(output, info=info, size=(48, 64), preset="ultrafast")
    entries = bars(output.parent, info, format, count, first)
    return join(entries, output, like=info, format=format, **options)


def test_matroska_keeps_everything(tmp_path):
    source = FULL.write(tmp_path / "in.mkv")
    done = made(probe(source), tmp_path / "out.mkv")
    before, after = held(source), held(tmp_path / "out.mkv")
    assert before.chapters == list(CHAPTERS)
    assert before.lines == [list(LINES), list(LINES)]
    assert before.attachments == [("a.ttf", "font/ttf", FONT)]
    assert after == before
    assert dict(done.copied) == {
        "audio": 2,
        "subtitle": 2,
        "cover": 1,
        "attachment": 1,
        "chapter": 2,
    }
    assert not done.notes


def test_mp4_keeps_what_it_can_and_tells_the_rest(tmp_path):
    source = FULL.write(tmp_path / "in.mkv")
    done = made(probe(source), tmp_path / "out.mp4")
    before, after = held(source), held(tmp_path / "out.mp4")
    assert after.codecs == ["aac:ger", "aac:eng", "mov_text:ger"]
    assert after.sounds == before.sounds
    assert (after.lines, after.forced) == ([list(LINES)], [True])
    assert (after.chapters, after.covers) == (before.chapters, before.covers)
    assert list(done.notes) == [
        "subtitles (ass) left out: .mp4 cannot hold them; .mkv can",
        "attachments left out: .mp4 cannot hold them; .mkv can",
    ]


@pytest.mark.slow
def test_subtitles_of_mp4_become_those_of_matroska(tmp_path):
    source = Rich(subtitles=("mov_text",), cover=True).write(tmp_path / "in.mp4")
    done = made(probe(source), tmp_path / "out.mkv")
    after = held(tmp_path / "out.mkv")
    assert after.codecs == ["aac:ger", "aac:eng", "subrip:ger"]
    late = round(see(tmp_path / "out.mkv").times[0] * 1000)  # sound begins before zero in the MP4
    assert after.lines == [[(a + late, b + late, words) for a, b, words in LINES]]
    assert (after.covers, after.chapters) == (held(source).covers, list(CHAPTERS))
    assert not done.notes


@pytest.mark.parametrize("name", ["out.mkv", pytest.param("out.mp4", marks=pytest.mark.slow)])
def test_a_part_of_a_file_has_that_part_of_all(tmp_path, name):
    source = Rich(attachment=True).write(tmp_path / "in.mkv")
    start, end = Fraction(1), Fraction(3, 2)
    made(probe(source), tmp_path / name, count=12, first=25, shift=start, span=(start, end))
    whole, part = held(source), held(tmp_path / name)
    assert see(tmp_path / name).times[:2] == [0, Fraction(1, 25)]
    for all_of_it, kept in zip(whole.sounds, part.sounds, strict=True):
        expected = [packet for packet in all_of_it if start <= packet[0] < end]
        assert [data for _, data in kept] == [data for _, data in expected]
        assert kept[0][0] == expected[0][0] - start
    assert part.lines == [[(0, 500, "Zwei")]]
    assert part.chapters == [(0, 500, "Ende")]


def test_sound_that_jumps_back_goes_on_where_it_was(tmp_path):
    clip = Clip(pts=[i * 1001 for i in range(30)], sounds=[("aac", 48000)])
    once = clip.write(tmp_path / "once.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    before = see(tmp_path / "once.ts").sounds[0]
    made(probe(tmp_path / "twice.ts"), tmp_path / "out.mp4")
    after = held(tmp_path / "out.mp4").sounds[0]
    assert len(after) == 2 * len(before)
    steps = [b - a for (a, _), (b, _) in pairwise(after)]
    assert all(Fraction(1, 100) < step < Fraction(1, 20) for step in steps)


@pytest.mark.slow
def test_another_picture_is_told_and_left_out(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=25, options={"bf": "0"}) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream in streams:
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = 0
            output.mux([*stream.encode(frame), *stream.encode(None)])
    done = made(probe(path), tmp_path / "out.mkv", count=3)
    assert list(done.notes) == ["another video stream was left out: one is upscaled"]
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert len(container.streams.video) == 1


def test_sound_that_is_damaged_is_left_out_where_it_is(tmp_path):
    clip = Clip(pts=[i * 1001 for i in range(30)], sounds=[("aac", 48000)])
    source = clip.write(tmp_path / "in.ts")
    whole = len(see(source).sounds[0])
    data = bytearray(source.read_bytes())
    middle = data.index(b"\xff\xf1", len(data) // 2)  # the header of a packet of sound
    data[middle + 2] = 0xFF  # a rate that there is not
    source.write_bytes(data)
    done = made(probe(source), tmp_path / "out.mp4", count=24)
    assert [note for note in done.notes if "damaged" in note] == ["damaged packets left out: 1"]
    assert whole - 4 <= len(held(tmp_path / "out.mp4").sounds[0]) < whole


@pytest.mark.parametrize(
    ("rate", "code", "kept"),
    [
        (Fraction(25), "01:00:00:00", True),
        (Fraction(24000, 1001), "01:00:00;00", False),
        pytest.param(Fraction(1234, 100), "01:00:00:00", False, marks=pytest.mark.slow),
    ],
)
def test_a_time_code_is_kept_where_it_has_a_meaning(tmp_path, rate, code, kept):
    info = replace(probe(Clip(pts=[0, 1001]).write(tmp_path / "in.mp4")), average_rate=rate)
    with av.open(str(tmp_path / "in.mp4")) as old, av.open(str(tmp_path / "in.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.metadata["timecode"] = code
        for packet in old.demux():
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    done = made(replace(info, path=tmp_path / "in.mkv"), tmp_path / "out.mov", count=3)
    with av.open(str(tmp_path / "out.mov")) as container:
        found = container.streams.video[0].metadata.get("timecode")
    assert found == (code if kept else None)
    assert [note.split(" left out")[0] for note in done.notes] == ([] if kept else ["time code"])
