"""Tests what a user learns of a file before anything is upscaled, and the error if it is bad."""

import json
import os
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.colour import Colour
from streamdiffvsr.runtime.media.info import OtherStream, VideoInfo
from streamdiffvsr.runtime.media.reader import probe, receive_info
from streamdiffvsr.tests.media.clips import NTSC, Clip, moving, sound_only, with_cover


def test_a_plain_clip_is_described(tmp_path):
    path = Clip(
        sounds=[("aac", 48000), ("aac", 44100)],
        colour=(5, 2, 5, 6),
        sample_aspect=Fraction(4, 3),
    ).write(tmp_path / "clip.mp4")
    info = probe(path)
    assert (info.path, info.size) == (path, (48, 64))
    assert (info.codec, info.frames, info.audio_streams) == ("h264", 12, 2)
    assert (info.time_base, info.average_rate, info.start_time) == (NTSC, Fraction(30000, 1001), 0)
    assert info.duration_seconds == pytest.approx(12 * 1001 / 30000, abs=1e-3)
    assert info.colour == Colour(matrix=5, range=2, primaries=5, transfer=6)
    assert (info.rotation, info.sample_aspect) == (0, Fraction(4, 3))


def test_a_rotated_clip_is_described_as_displayed(tmp_path):
    path = Clip(rotation=-90, sample_aspect=Fraction(4, 3)).write(tmp_path / "phone.mp4")
    info = probe(path)
    assert (info.size, info.rotation, info.sample_aspect) == ((64, 48), 270, Fraction(3, 4))


@pytest.mark.parametrize("name", ["clip.txt", "http:clip.mkv"])
def test_the_content_counts_and_not_the_name(tmp_path, name):
    made = Clip().write(tmp_path / "made.mp4")
    assert probe(made.rename(tmp_path / name)).frames == 12


def test_what_lies_beside_the_picture_is_told(tmp_path):
    path = with_company(tmp_path / "film.mkv")
    info = probe(path)
    assert info.others == (
        OtherStream("audio", "aac", "eng"),
        OtherStream("subtitle", "ass", "ger"),
        OtherStream("video", "h264", ""),
    )
    assert (info.container, info.chapters, info.audio_streams) == ("matroska,webm", 2, 1)
    assert (info.depth, info.interlaced, info.alpha, info.hdr, info.images) == (
        8,
        False,
        False,
        "",
        False,
    )


def test_a_cover_is_told_as_one(tmp_path):
    info = probe(with_cover(Clip().write(tmp_path / "plain.mp4"), tmp_path / "cover.mp4"))
    assert [other.kind for other in info.others] == ["cover"]


def test_a_description_survives_the_pipe(tmp_path):
    info = probe(with_company(tmp_path / "film.mkv"))
    assert VideoInfo.from_wire(json.loads(json.dumps(info.to_wire()))) == info


def test_a_slow_start_is_no_failure(tmp_path):
    """The reader reports that it lives before it has an answer; that is not the answer."""
    path = Clip().write(tmp_path / "clip.mp4")
    told = [{"kind": "beat"}, {"kind": "beat"}, {"kind": "info", "info": probe(path).to_wire()}]
    child = SimpleNamespace(receive=lambda deadline_s: (told.pop(0), memoryview(b"")))
    assert receive_info(child, path, 60) == probe(path)


def test_the_codec_is_named_and_not_its_decoder(tmp_path):
    clip = Clip(codec="libsvtav1", options={"preset": "12"}, pts=[0, 1001])
    assert probe(clip.write(tmp_path / "clip.mp4")).codec == "av1"


def with_company(path):
    """A picture with sound, subtitles, a second picture and chapters."""
    with av.open(str(path), "w") as output:
        picture = output.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        sound = output.add_stream("aac", rate=48000, layout="stereo")
        words = output.add_stream("ass")
        words.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n"
        second = output.add_stream("libx264", rate=25, width=32, height=32, pix_fmt="yuv420p")
        sound.metadata["language"], words.metadata["language"] = "eng", "ger"
        chapter = {"time_base": Fraction(1, 1000), "metadata": {}}
        output.set_chapters(
            [{"id": n, "start": n * 500, "end": n * 500 + 500, **chapter} for n in range(2)]
        )
        for stream, height, width in ((picture, 48, 64), (second, 32, 32)):
            frame = av.VideoFrame.from_ndarray(moving(0, height, width), format="rgb24")
            output.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def test_an_estimate_stands_in_for_a_frame_count_the_container_lacks(tmp_path):
    info = probe(Clip().write(tmp_path / "clip.ts"))
    assert info.frames == 12


def test_sound_alone_is_not_a_video(tmp_path):
    with pytest.raises(StreamDiffVSRError, match="it has no video stream, only sound"):
        probe(sound_only(tmp_path / "song.m4a"))


def test_a_song_with_a_cover_is_not_a_video(tmp_path):
    song = with_cover(sound_only(tmp_path / "plain.mp4"), tmp_path / "song.mp4")
    with av.open(str(song)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(StreamDiffVSRError, match="it has no video stream, only sound"):
        probe(song)


def write(text: bytes):
    return lambda path: path.write_bytes(text)


def cut(share: float):
    def make(path):
        whole = Clip().write(path.with_name("whole.mp4")).read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return make


BAD_FILES = {
    "missing": (lambda path: None, "there is no such file"),
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "empty": (write(b""), "the file is empty"),
    "text": (write(b"hello\n" * 500), "it is not a video file"),
    "random": (write(os.urandom(20_000)), "it is not a video file"),
    "without its index": (cut(0.5), "it is cut off: the index at the end"),
    "one byte short of nothing": (write(b"\0"), "it is not a video file"),
    "a playlist": (
        write(b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n"),
        "it is not a video file",
    ),
    "a script": (write(b"ffconcat version 1.0\nfile whole.ts\n"), "it is not a video file"),
    "a session": (
        write(
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5 RTP/AVP 96\n"
        ),
        "it is not a video file",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_clear_line(tmp_path, kind):
    make, why = BAD_FILES[kind]
    Clip().write(tmp_path / "whole.ts")  # what a playlist would open if it could
    path = tmp_path / "bad.mp4"
    make(path)
    with pytest.raises(StreamDiffVSRError) as caught:
        probe(path)
    line = str(caught.value)
    assert line.startswith(f"could not read {str(path)!r}: {why}")
    assert "\n" not in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_an_unreadable_file_is_one_clear_line(tmp_path):
    path = Clip().write(tmp_path / "clip.mp4")
    path.chmod(0)
    with pytest.raises(StreamDiffVSRError, match="no permission to read it"):
        probe(path)


def test_the_name_is_shown_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StreamDiffVSRError, match=r"could not read 'gone\.mp4'"):
        probe("gone.mp4")


def test_a_way_to_code_colours_that_nothing_here_converts_is_refused(tmp_path):
    clip = Clip(codec="ffv1", options={}, pts=[0], colour=(8, 1, 1, 1))
    with pytest.raises(StreamDiffVSRError, match="its colours are coded as YCgCo"):
        probe(clip.write(tmp_path / "clip.mkv"))


def test_an_absurd_size_is_refused(tmp_path):
    path = Clip(size=(16, 20000), codec="ffv1", pts=[0]).write(tmp_path / "wide.mkv")
    with pytest.raises(StreamDiffVSRError, match="its frames are 20000x16, and at most 16384"):
        probe(path)
