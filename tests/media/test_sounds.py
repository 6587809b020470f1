"""Tests what becomes of sound: copied at its times where players find it, or encoded again."""

import gc
import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media import join_child
from streamdiffvsr.runtime.media.formats import choose_format
from streamdiffvsr.runtime.media.join import JoinFailedError, join, rehearse
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.runtime.media.stream_copy_child import StreamCopier
from streamdiffvsr.runtime.media.stream_rules_child import CopiedStream, TimeWindow
from streamdiffvsr.tests.media.clips import Clip, see
from streamdiffvsr.tests.media.segmenting import bars
from streamdiffvsr.tests.media.sounding import (
    heard,
    lag,
    noise,
    of_two_programmes,
    retimed,
    samples_of,
    with_sound,
)

MS = Fraction(1, 1000)


def made(source, output, count=25, **options):
    info = probe(source)
    preset = "12" if output.suffix == ".webm" else "ultrafast"
    format = choose_format(output, info=info, size=(48, 64), preset=preset)
    entries = bars(output.parent, info, format, count, 0)
    return join(entries, output, like=info, format=format, **options)


def tried(source, output, **options):
    info = probe(source)
    return rehearse(source, output, choose_format(output, info=info, size=(48, 64)), **options)


def codecs(path):
    with av.open(str(path)) as container:
        return [stream.codec_context.codec.canonical_name for stream in container.streams.audio]


@pytest.mark.parametrize(
    ("codec", "ending", "rate"),
    [
        ("wmav2", "wmv", 44100),
        ("wmav1", "wmv", 44100),
        ("adpcm_ms", "avi", 44100),
        ("adpcm_ima_wav", "avi", 44100),
        ("adpcm_yamaha", "avi", 44100),
        ("pcm_mulaw", "avi", 8000),
        ("pcm_alaw", "avi", 8000),
    ],
)
def test_matroska_takes_every_codec_that_its_muxer_does(tmp_path, codec, ending, rate):
    container = "asf" if ending == "wmv" else None
    source = with_sound(tmp_path / f"in.{ending}", codec, rate, container=container)
    done = made(source, tmp_path / "out.mkv")
    assert codecs(tmp_path / "out.mkv") == [codec]
    before, after = see(source).sounds[0], see(tmp_path / "out.mkv").sounds[0]
    assert b"".join(data for _, data in after) == b"".join(data for _, data in before)
    np.testing.assert_array_equal(samples_of(tmp_path / "out.mkv"), samples_of(source))
    assert (dict(done.copied), list(done.notes)) == ({"audio": 1}, [])


@pytest.mark.parametrize(
    ("codec", "ending", "rate"), [("pcm_dvd", "vob", 48000), ("adpcm_ima_qt", "mov", 44100)]
)
def test_what_matroska_cannot_hold_is_kept_there_sample_for_sample(tmp_path, codec, ending, rate):
    picture = "mpeg2video" if ending == "vob" else "mpeg4"
    source = with_sound(
        tmp_path / f"in.{ending}", codec, rate, 1 + (rate == 48000), picture=picture
    )
    done = made(source, tmp_path / "out.mkv")
    assert codecs(tmp_path / "out.mkv") == ["flac"]
    assert list(done.notes) == [f"sound ({codec}) is stored as flac: .mkv cannot hold it as it is"]
    np.testing.assert_array_equal(samples_of(tmp_path / "out.mkv"), samples_of(source))


def test_a_refusal_names_only_what_works(tmp_path):
    source = with_sound(tmp_path / "in.mov", "adpcm_ima_qt")
    with pytest.raises(StreamDiffVSRError) as caught:
        tried(source, tmp_path / "out.mp4")
    told = str(caught.value)
    assert "cannot hold adpcm_ima_qt sound; give the output a name that ends in .mkv" in told
    assert "or use audio='transcode'" in told
    assert not tried(source, tmp_path / "out.mp4", audio="none").copied
    for name, audio in (("out.mkv", "copy"), ("out.mp4", "transcode")):
        assert tried(source, tmp_path / name, audio=audio).copied == {"audio": 1}


def test_what_a_muxer_takes_and_nothing_plays_is_not_written(tmp_path):
    source = with_sound(tmp_path / "in.wmv", "wmav2", container="asf")  # .mov loses its parameters
    with pytest.raises(StreamDiffVSRError, match=r"cannot hold wmav2 sound; .* \.mkv"):
        tried(source, tmp_path / "out.mov")


def test_packets_shorter_than_a_tick_are_not_pushed_on(tmp_path):
    source = with_sound(tmp_path / "in.mkv", "pcm_s16le", 48000, count=40)
    times = [time for time, _ in see(source).sounds[0]]
    assert len(times) == 1200 > len(set(times))
    for name in ("out.mkv", "out.mov"):
        made(source, tmp_path / name)
        after = see(tmp_path / name).sounds[0]
        assert after[-1][0] + len(after[-1][1]) * Fraction(1, 96000) <= times[-1] + 2 * MS
        assert b"".join(data for _, data in after) == noise(48000).tobytes()


def test_packets_of_a_block_that_share_a_time_follow_each_other(tmp_path):
    plain = with_sound(tmp_path / "in.mp4", "ac3", 48000, picture="libx264")
    retimed(plain, tmp_path / "in.mkv", lambda number: 320 * (number // 10))
    made(tmp_path / "in.mkv", tmp_path / "out.mp4")
    after = [time for time, _ in see(tmp_path / "out.mp4").sounds[0]]
    assert all(abs(b - a - 32 * MS) <= MS for a, b in pairwise(after))


def copied(source, output, change):
    """Copy the sound alone, its packets changed on the way; (seconds, duration) of each."""
    with av.open(str(source)) as original, av.open(str(output), "w") as made:
        stream = CopiedStream(original.streams.audio[0], TimeWindow())
        stream.join(made, {})
        made.start_encoding()
        for number, packet in enumerate(original.demux(audio=0)):
            if packet.size:
                change(number, packet)
                made.mux(stream.placed(packet))
    with av.open(str(output)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [(p.pts * p.time_base, p.duration * p.time_base) for p in packets]


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4", "out.ts"])
def test_a_clock_that_jumps_goes_on_and_one_wrong_time_changes_nothing_else(tmp_path, name):
    source = with_sound(tmp_path / "in.mp4", "ac3", 48000, picture="libx264")

    def change(number, packet):
        wrong = {5: -48000, 16: -48000}.get(number, 0)
        packet.pts = packet.dts = 1536 * number + wrong - (19200 if number > 20 else 0)

    after = [time for time, _ in copied(source, tmp_path / name, change)]
    assert all(abs(b - a - 32 * MS) <= 2 * MS for a, b in pairwise(after))


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4", "out.ts"])
@pytest.mark.parametrize("wrong", [4294967280, -16, 48000 * 3600])
def test_no_packet_claims_to_last_for_hours(tmp_path, name, wrong):
    source = with_sound(tmp_path / "in.mp4", "ac3", 48000, picture="libx264")

    def change(number, packet):
        if number >= 30:
            packet.duration = wrong

    after = copied(source, tmp_path / name, change)
    assert len(after) == 32
    with av.open(str(tmp_path / name)) as container:
        assert container.duration < 1_100_000


def test_sound_that_is_declared_and_not_there_is_left_out(tmp_path):
    path = tmp_path / "in.ts"
    whole = with_sound(tmp_path / "whole.ts", "aac", picture="libx264")
    data = whole.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    path.write_bytes(b"".join(p for p in packets if (p[1] & 0x1F) << 8 | p[2] != 0x101))
    for name in ("out.mkv", "out.mp4", "out.mov"):
        told = tried(path, tmp_path / name)
        assert told.copied == {}
        assert list(told.notes) == ["sound left out: the file declares it, and holds none of it"]


def test_a_cut_off_packet_at_the_beginning_costs_only_itself(tmp_path):
    source = with_sound(tmp_path / "in.ts", "aac", picture="libx264")
    data = bytearray(source.read_bytes())
    data[data.index(b"\xff\xf1")] = 0
    source.write_bytes(data)
    whole = len(see(source).sounds[0])
    done = made(source, tmp_path / "out.mkv")
    assert list(done.notes) == ["damaged packets left out: 1"]
    assert (codecs(tmp_path / "out.mkv"), len(see(tmp_path / "out.mkv").sounds[0])) == (
        ["aac"],
        whole - 1,
    )


@pytest.mark.parametrize("audio", ["copy", "transcode"])
def test_sound_from_before_a_clock_wraps_around_is_no_reason_to_refuse_it(tmp_path, audio):
    # The clock of MPEG-TS wraps after 2^33 ticks; what lies before that is read as below zero.
    options = {"output_ts_offset": "95441", "mpegts_copyts": "1"}
    source = with_sound(tmp_path / "in.ts", "aac", picture="libx264", options=options)
    with av.open(str(source)) as container:
        assert container.streams.audio[0].start_time < 0
    made(source, tmp_path / "out.mp4", audio=audio)
    assert codecs(tmp_path / "out.mp4") == ["aac"]


def test_sound_of_another_programme_is_left_out_and_told(tmp_path):
    plain = Clip(sounds=[("aac", 48000), ("aac", 48000)]).write(tmp_path / "plain.ts")
    source = of_two_programmes(tmp_path / "in.ts", plain, [(0x100, 0x101), (0x102,)])
    done = made(source, tmp_path / "out.mkv", count=12)
    assert dict(done.copied) == {"audio": 1}
    assert list(done.notes) == ["sound of another programme left out: 1"]
    assert see(tmp_path / "out.mkv").sounds[0][0][1] == see(plain).sounds[0][0][1][7:]


def test_sound_is_left_out_as_asked_for(tmp_path):
    source = with_sound(tmp_path / "in.mp4", "aac", picture="libx264")
    done = made(source, tmp_path / "out.mp4", audio="none")
    assert (dict(done.copied), codecs(tmp_path / "out.mp4")) == ({}, [])
    assert list(done.notes) == ["sound left out, as asked for"]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("out.mp4", "aac"),
        ("out.mkv", "flac"),
        pytest.param("out.ts", "aac", marks=pytest.mark.slow),
        ("out.webm", "opus"),
    ],
)
def test_what_is_encoded_anew_is_heard_at_its_times(tmp_path, name, codec):
    source = with_sound(tmp_path / "in.avi", "pcm_s16le", 44100)
    done = made(source, tmp_path / name, count=3, audio="transcode")
    assert codecs(tmp_path / name) == [codec]
    assert list(done.notes) == [f"sound (pcm_s16le) is re-encoded as {codec}"]
    assert_in_step(source, tmp_path / name)


@pytest.mark.parametrize(("name", "audio"), [("out.mp4", "copy"), ("out.webm", "transcode")])
def test_eight_loudspeakers_are_kept(tmp_path, name, audio):
    source = with_sound(tmp_path / "in.mkv", "aac", 48000, 8, picture="libx264")
    made(source, tmp_path / name, audio=audio)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.audio[0].layout.name == "7.1"
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 48000


def assert_in_step(source, output, tolerance=48):
    """To a millisecond, as those containers count."""
    (before, one), (after, other) = heard(source), heard(output)
    late = lag(one, other) + (after - before) * 48000
    assert abs(late) <= tolerance
    assert np.abs(other.astype(float)).std() > 0.5 * np.abs(one.astype(float)).std()


def test_gaps_and_what_is_damaged_move_nothing_behind_them(tmp_path):
    plain = with_sound(tmp_path / "in.mp4", "ac3", 48000, picture="libx264")
    retimed(plain, tmp_path / "in.mkv", lambda n: 32 * n + (300 if n > 12 else 0))
    data = bytearray((tmp_path / "in.mkv").read_bytes())
    at = -1
    for _ in range(20):
        at = data.index(b"\x0b\x77", at + 1)
    data[at : at + 40] = bytes(40)
    (tmp_path / "in.mkv").write_bytes(data)
    done = made(tmp_path / "in.mkv", tmp_path / "out.mp4", audio="transcode")
    assert "damaged packets left out: 1" in done.notes
    before, after = heard(tmp_path / "in.mkv"), heard(tmp_path / "out.mp4")
    for begin in (9600, 28800, 43200):  # before the gap, behind it, behind the damage
        one, other = (line[begin - round(at * 48000) :][:9600] for at, line in (before, after))
        assert abs(lag(one, other)) <= 48


def test_what_is_encoded_anew_is_cut_to_the_sample(tmp_path):
    source = with_sound(tmp_path / "in.avi", "pcm_s16le", 44100)
    start, end = Fraction(2, 5), Fraction(4, 5)
    span = {"shift": start, "span": (start, end)}
    made(source, tmp_path / "out.mkv", count=10, audio="transcode", **span)
    samples = samples_of(tmp_path / "out.mkv")
    expected = noise(44100)[round(start * 44100) : round(end * 44100), 0]
    np.testing.assert_array_equal(samples, expected)


def test_a_picture_whose_sound_cannot_be_joined_is_kept_beside_the_output(tmp_path):
    source = with_sound(tmp_path / "in.mov", "adpcm_ima_qt")
    for kept in ("out.kept.mkv", "out.kept-2.mkv"):
        with pytest.raises(JoinFailedError, match=rf"adpcm_ima_qt sound; .*{kept}'; resume=True"):
            made(source, tmp_path / "out.mp4")
        assert len(see(tmp_path / kept).times) == 25
        assert codecs(tmp_path / kept) == ["flac"]
    assert not (tmp_path / "out.mp4").exists()


def test_it_is_kept_beside_an_output_of_the_longest_name_too(tmp_path):
    source = with_sound(tmp_path / "in.mov", "adpcm_ima_qt")
    with pytest.raises(JoinFailedError, match=r"\.kept\.mkv'; resume=True"):
        made(source, tmp_path / ("o" * 251 + ".mp4"))
    (kept,) = tmp_path.glob("*.kept.mkv")
    assert len(see(kept).times) == 25


class Refusing(StreamCopier):
    """Sound that a muxer has had enough of in the middle."""

    taken = 0
    error: Exception

    def copy_until(self, output, seconds):
        for _ in super().copy_until(output, seconds):
            self.taken += 1
            if self.taken > 10:
                raise self.error
            yield


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (av.error.ArgumentError(22, "Invalid argument"), "Invalid argument"),
        (OverflowError("a time beyond 64 bits"), "a time beyond 64 bits"),
    ],
)
def test_a_muxer_that_fails_at_last_leaves_a_picture_that_plays(tmp_path, monkeypatch, error, why):
    source = with_sound(tmp_path / "in.mp4", "aac", picture="libx264")
    info = probe(source)
    form = choose_format(tmp_path / "out.mp4", info=info, size=(48, 64), preset="ultrafast")
    entries = bars(tmp_path, info, form, 25, 0)
    monkeypatch.setattr(Refusing, "error", error, raising=False)
    monkeypatch.setattr(join_child, "StreamCopier", Refusing)
    told = join_child._written(
        tmp_path / "out.part",
        entries,
        {
            **dict.fromkeys(("start", "end", "shift", "rate")),
            **{"container": "mp4", "suffix": ".mp4", "tag": "", "codec": "h264"},
            **{"audio": "copy", "copy_rest": True, "source": str(source)},
        },
        io.BytesIO(),
    )
    assert (told["alone"], told["failed"]) == (True, [why, ""])
    gc.collect()
    assert len(see(tmp_path / "out.part").times) == 25
    assert codecs(tmp_path / "out.part") == []


def test_makers_tags_and_titles_of_tracks_are_kept(tmp_path):
    tags = {f"com.apple.quicktime.{name}": f"the {name}" for name in ("make", "creationdate")}
    tags |= {"title": "Alles", "com.apple.quicktime.location.ISO6709": "+48.1-011.5/"}
    options = {"movflags": "use_metadata_tags"}
    source = with_sound(tmp_path / "in.mov", "aac", picture="libx264", tags=tags, options=options)
    for name in ("out.mov", "out.mp4", "out.mkv"):
        made(source, tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            found = {key.lower(): value for key, value in container.metadata.items()}
        assert {key.lower(): value for key, value in tags.items()}.items() <= found.items()


@pytest.mark.parametrize(("first", "second"), [("mp4", "mkv"), ("mkv", "mp4"), ("mov", "mov")])
def test_the_title_of_a_track_is_one_in_every_container(tmp_path, first, second):
    source = tmp_path / f"in.{first}"
    plain = with_sound(tmp_path / "plain.mp4", "aac", picture="libx264")
    with av.open(str(plain)) as original, av.open(str(source), "w") as output:
        copies = [output.add_stream_from_template(stream) for stream in original.streams]
        copies[1].metadata["title"] = "Main mix"
        for packet in original.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    made(source, tmp_path / f"out.{second}")
    with av.open(str(tmp_path / f"out.{second}")) as container:
        tags = container.streams.audio[0].metadata
    assert tags.get("title" if second == "mkv" else "name") == "Main mix"
    assert second != "mkv" or "NAME" not in tags
