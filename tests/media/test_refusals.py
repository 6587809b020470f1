"""Tests the error for a file without a picture: encrypted, cut off, or of another kind."""

import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.files.inputs import name_pairs
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.media.clips import Clip, sound_only, write_image

TICKS = {"time_base": Fraction(1, 25), "pts": range(6), "last_duration": 1}
PLAIN = Clip(**TICKS)
MPEG2 = Clip(**TICKS, codec="mpeg2video", options={})
FIRST_INDEX = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def told(path: Path) -> str:
    with pytest.raises(StreamDiffVSRError) as caught:
        probe(path)
    line = str(caught.value)
    assert line.startswith(f"could not read {str(path)!r}: ")
    assert "\n" not in line
    return line


def cut_behind(path: Path, mark: bytes, more: int, to: Path) -> Path:
    whole = path.read_bytes()
    to.write_bytes(whole[: whole.index(mark) + len(mark) + more])
    return to


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        (
            "intro.roq",
            Clip(**TICKS, size=(64, 64), codec="roqvideo", pix_fmt="yuvj444p", options={}),
        ),
        ("menu.swf", replace(PLAIN, codec="flv1", options={})),
        (
            "film.cpk",
            replace(PLAIN, codec="cinepak", pix_fmt="rgb24", container="film_cpk", options={}),
        ),
        ("call.h261", replace(PLAIN, size=(144, 176), codec="h261", options={})),
        (
            "loki.mjpg",
            replace(PLAIN, codec="mjpeg", pix_fmt="yuvj420p", container="smjpeg", options={}),
        ),
    ],
)
def test_formats_of_games_and_archives_are_read(tmp_path, name, clip):
    path = clip.write(tmp_path / name)
    with FileSource(path) as source:
        assert len(list(source)) == 6
    assert name_pairs([str(tmp_path)], str(tmp_path / "out")).pairs[0].input == path


def test_common_encryption_is_called_that(tmp_path):
    path = replace(PLAIN, container_options=CENC).write(tmp_path / "rented.mp4")
    assert "it is encrypted (Common Encryption)" in told(path)


def test_what_only_claims_to_be_encrypted_is_read(tmp_path):
    """Decrypted by a program that left the names of its samples as they were."""
    path = replace(PLAIN, container_options=FIRST_INDEX).write(tmp_path / "plain.mp4")
    data = bytearray(path.read_bytes())
    place = data.index(b"avc1", data.index(b"stsd"))
    sinf = box(b"sinf", box(b"frma", b"avc1"), box(b"schm", bytes(4), b"cenc", bytes(4)))
    data = grown(data, place, sinf)
    data[place : place + 4] = b"encv"
    path.write_bytes(data)
    assert probe(path).codec == "h264"


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def grown(data: bytearray, place: int, more: bytes) -> bytearray:
    """An MP4 whose sample entry at that place has one more box, and whose data has moved."""
    entry = place - 4
    end = entry + struct.unpack_from(">I", data, entry)[0]
    parents = [
        data.index(kind) - 4 for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    ]
    for at in [*parents, entry]:
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(more))
    chunk = data.index(b"stco") + 12
    struct.pack_into(">I", data, chunk, struct.unpack_from(">I", data, chunk)[0] + len(more))
    return data[:end] + bytearray(more) + data[end:]


def test_fairplay_is_called_encrypted(tmp_path):
    path = replace(PLAIN, container_options=FIRST_INDEX).write(tmp_path / "bought.m4v")
    data = path.read_bytes()
    place = data.index(b"avc1", data.index(b"stsd"))
    path.write_bytes(data[:place] + b"drmi" + data[place + 4 :])
    assert "it is encrypted (FairPlay)" in told(path)


def test_an_encrypted_webm_is_called_that(tmp_path):
    path = replace(PLAIN, codec="libvpx", options={}).write(tmp_path / "plain.webm")
    noise = np.random.default_rng(0).bytes
    with av.open(str(path)) as source, av.open(str(tmp_path / "made.webm"), "w") as output:
        copy = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                scrambled = av.Packet(b"\1" + noise(packet.size))
                scrambled.pts = scrambled.dts = packet.pts
                scrambled.time_base, scrambled.is_keyframe = packet.time_base, packet.is_keyframe
                scrambled.stream = copy
                output.mux(scrambled)
    data = (tmp_path / "made.webm").read_bytes()
    # An element that says nothing stands where the track's encoding would.
    encoding = bytes.fromhex("6d8091 62408e 5033 81 01 5035 88 47e181 05 47e282 0909")
    place = data.index(b"\x86\x85V_VP8")
    track = data.rindex(b"\xae", 0, place)
    path.write_bytes(data[:track] + encoding + data[track:])
    assert "it is encrypted (WebM encryption)" in told(path)


def test_a_recording_that_was_not_descrambled_is_called_encrypted(tmp_path):
    data = bytearray(MPEG2.write(tmp_path / "plain.ts").read_bytes())
    noise = np.random.default_rng(0).bytes
    for at in range(0, len(data), 188):
        if (data[at + 1] & 31) << 8 | data[at + 2] == 256:
            data[at + 3] |= 0x80
            data[at + 12 : at + 188] = noise(176)
    path = tmp_path / "pay.ts"
    path.write_bytes(data)
    assert "it is encrypted (scrambled by its broadcaster)" in told(path)


def test_a_dvd_that_was_copied_as_it_is_is_called_encrypted(tmp_path):
    data = bytearray(replace(MPEG2, container="vob").write(tmp_path / "plain.vob").read_bytes())
    noise = np.random.default_rng(0).bytes
    for at in range(0, len(data), 2048):
        place = data.find(b"\0\0\1\xe0", at, at + 2048)
        if place > 0:
            data[place + 6] |= 0x30
            data[at + 128 : at + 2048] = noise(1920)
    path = tmp_path / "VTS_01_1.VOB"
    path.write_bytes(data)
    assert "it is encrypted (CSS of DVDs)" in told(path)


def test_windows_media_drm_is_called_encrypted(tmp_path):
    path = replace(PLAIN, codec="wmv2", options={}).write(tmp_path / "plain.wmv")
    data = bytearray(path.read_bytes())
    protection = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + struct.pack("<Q", 24)
    struct.pack_into("<Q", data, 16, struct.unpack_from("<Q", data, 16)[0] + len(protection))
    struct.pack_into("<I", data, 24, struct.unpack_from("<I", data, 24)[0] + 1)
    packets = data.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"))
    body = data[packets : 50 + packets] + np.random.default_rng(0).bytes(len(data) - packets - 50)
    path.write_bytes(data[:30] + protection + data[30:packets] + body)
    assert "it is encrypted (Windows Media DRM)" in told(path)


@pytest.mark.parametrize(
    ("clip", "name", "mark", "more"),
    [
        (replace(PLAIN, codec="mpeg4", options={}), "cut.avi", b"movi", 4),
        (replace(PLAIN, container_options=FIRST_INDEX), "cut.mov", b"mdat", 30),
        (PLAIN, "cut.mkv", b"\x1f\x43\xb6\x75", 20),
        (
            replace(PLAIN, codec="wmv2", options={}),
            "cut.wmv",
            bytes.fromhex("3626b2758e66cf11"),
            60,
        ),
        (replace(MPEG2, size=(576, 720)), "cut.mxf", b"\x06\x0e+4\x01\x02\x01\x01\r\x01\x03", 4),
    ],
)
def test_a_file_that_is_cut_before_its_first_frame_is_called_cut(tmp_path, clip, name, mark, more):
    whole = clip.write(tmp_path / f"whole_{name}")
    path = cut_behind(whole, mark, more, tmp_path / name)
    assert "it is cut off before its first frame" in told(path)


def test_the_pieces_of_a_stream_are_told(tmp_path):
    whole = replace(PLAIN, container_options=FRAGMENTS).write(tmp_path / "whole.mp4").read_bytes()
    begin = whole.index(b"moof") - 4
    first, piece = tmp_path / "init.mp4", tmp_path / "1.m4s"
    first.write_bytes(whole[:begin])
    piece.write_bytes(whole[begin:])
    assert "only the beginning (initialisation segment)" in told(first)
    assert "without the beginning that they share" in told(piece)
    joined = tmp_path / "joined.mp4"
    joined.write_bytes(first.read_bytes() + piece.read_bytes())
    assert probe(joined).codec == "h264"


def test_a_format_that_is_not_read_is_named(tmp_path):
    path = tmp_path / "input"
    path.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nyou\n"
    )
    assert "it is not a video file, but subtitles (SubRip subtitle)" in told(path)
    sound_only(tmp_path / "song.m4a").rename(path)
    assert "it has no video stream, only sound" in told(path)
    write_image(path, np.zeros((8, 8, 3), np.uint8), "pcx")
    assert "it is an image of a kind that is not read here: PCX" in told(path)
    path.write_bytes(b"TWIN97012000" + bytes(200))
    assert "it is of a format that is not read here: Nippon Telegraph" in told(path)
    for text in (
        "#EXTM3U\nhttp://h/1.ts",
        "[playlist]\nFile1=a.mp4",
        "<?xml version='1.0'?>\n<MPD/>",
        "<ASX version='3'/>",
    ):
        path.write_text(text)
        assert "it is not a video file, but a list of others" in told(path)
