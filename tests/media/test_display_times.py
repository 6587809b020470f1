"""Tests when frames are shown: in order in any container, and the last one to its end."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.tests.media.clips import Clip, moving

RATE = 30
BASE = Fraction(1, RATE)


def clip(path: Path, frames: int = 30, **keywords) -> Path:
    told = {"pts": range(frames), "time_base": BASE, "last_duration": 1, **keywords}
    return Clip(**told).write(path)


def remuxed(source: Path, path: Path, change: Callable[[int, av.Packet], av.Packet | None]) -> Path:
    """The picture with each packet as that changes it, and in place of it None leaves it out."""
    with av.open(str(source)) as before, av.open(str(path), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        packets = [packet for packet in before.demux(stream) if packet.size]
        for index, packet in enumerate(packets):
            changed = change(index, packet)
            if changed is not None:
                changed.stream = copy
                after.mux(changed)
    return path


def in_decoding_order(index: int, packet: av.Packet) -> av.Packet:
    packet.pts = packet.dts = index
    packet.time_base = BASE
    return packet


def frames_of(
    path: Path, damaged: bool = False, **keywords
) -> list[tuple[float, float, np.ndarray]]:
    with FileSource(path, **keywords) as source:
        found = [(f.seconds, float((f.duration or 0) * f.time_base), f.image) for f in source]
        assert damaged or source.damaged == 0
    return found


def seconds(path: Path, damaged: bool = False) -> list[float]:
    return [at for at, _, _ in frames_of(path, damaged)]


def held(path: Path) -> float:
    """From the first frame to when the last one is no longer shown."""
    frames = frames_of(path)
    return frames[-1][0] + frames[-1][1] - frames[0][0]


@pytest.mark.parametrize("frames", [1, 3, 61])
@pytest.mark.parametrize("b_frames", ["0", "3"])
@pytest.mark.parametrize("ending", ["avi", "asf", "mxf"])
def test_h264_is_shown_evenly_where_only_decoding_is_timed(tmp_path, ending, b_frames, frames):
    options = {"preset": "ultrafast", "bf": b_frames, "b-pyramid": "normal", "crf": "4"}
    path = clip(tmp_path / f"in.{ending}", frames, options=options)
    with FileSource(path) as source:
        for index, frame in enumerate(source):
            assert frame.seconds == pytest.approx(index / RATE, abs=1e-3)
            picture = frame.image[:, :, 0].astype(int) - moving(index, 48, 64)[:, :, 0]
            assert np.abs(picture).mean() < 12, "times are moved, and not pictures"
    assert index + 1 == frames


@pytest.mark.parametrize(
    ("codec", "ending"),
    [(codec, "mkv") for codec in ("libx264", "libx265", "mpeg4", "mpeg2video")]
    + [("libx264", "ts"), ("mpeg2video", "ts"), ("libx265", "mov")],
)
def test_times_in_decoding_order_are_put_in_order(tmp_path, codec, ending):
    options = {"x265-params": "bframes=3:log-level=none"} if codec == "libx265" else {"bf": "3"}
    plain = clip(tmp_path / "plain.mkv", codec=codec, options=options)
    path = remuxed(plain, tmp_path / f"in.{ending}", in_decoding_order)
    times = seconds(path)
    assert len(times) == 30
    assert [at - times[0] for at in times] == pytest.approx([i / RATE for i in range(30)], abs=2e-3)


def test_a_run_that_begins_later_has_the_same_times(tmp_path):
    plain = clip(tmp_path / "plain.mkv", 60, options={"bf": "2", "g": "12"})
    path = remuxed(plain, tmp_path / "in.mkv", in_decoding_order)
    whole = frames_of(path)
    for begin in (0.3, 1.0, 1.9):
        part = frames_of(path, begin=begin)
        assert part[0][0] <= begin
        for (at, lasts, image), (same_at, same_lasts, same) in zip(
            part, whole[-len(part) :], strict=True
        ):
            assert (at, lasts) == (same_at, same_lasts)
            np.testing.assert_array_equal(image, same)


def test_a_raw_stream_that_forgets_its_b_frames_is_put_in_order(tmp_path):
    path = clip(tmp_path / "in.m4v", codec="mpeg4", container="m4v", options={"bf": "2"})
    data = bytearray(path.read_bytes())
    header = data.index(b"\0\0\1\x20") + 4
    bits = "".join(f"{byte:08b}" for byte in data[header : header + 12])
    place = 21 if bits[9] == "1" else 14  # behind a version, and the aspect of a pixel
    place += 16 * (bits[place - 4 : place] == "1111")
    assert bits[place : place + 4] == "1010", "control parameters, 4:2:0, frames out of order"
    place += 3
    data[header + place // 8] |= 0x80 >> place % 8  # low delay: no frame is out of order
    path.write_bytes(data)
    times = seconds(path)
    assert times == sorted(times) and times[:5] == pytest.approx([i / RATE for i in range(5)])


def test_a_clock_that_jumps_back_is_left_as_it_is(tmp_path):
    one = clip(tmp_path / "one.ts", options={"bf": "2"}).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(one + one)
    times = seconds(path, damaged=True)  # where they were joined
    steps = [after - before for before, after in pairwise(times)]
    assert len(times) == 60 and sum(step < 0 for step in steps) == 1
    assert steps[:29] == pytest.approx([1 / RATE] * 29)


def test_a_frame_that_is_lost_moves_no_other(tmp_path):
    plain = clip(tmp_path / "plain.mkv", 60, options={"bf": "0", "g": "30"})

    def lost(index: int, packet: av.Packet) -> av.Packet | None:
        return None if index in (7, 8, 40) else packet

    times = seconds(remuxed(plain, tmp_path / "in.mkv", lost), damaged=True)
    assert times == pytest.approx([i / RATE for i in range(60) if i not in (7, 8, 40)], abs=1e-3)


@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("name", ["in.mp4", "in.mov", "in.mkv", "fragmented.mp4"])
def test_the_last_picture_is_held_as_long_as_its_track(tmp_path, name, b_frames):
    flags = {"movflags": "frag_keyframe+empty_moov"} if name.startswith("frag") else {}
    path = clip(
        tmp_path / name, 12, last_duration=90, options={"bf": b_frames}, container_options=flags
    )
    assert held(path) == pytest.approx(11 / RATE + 3, abs=2e-3)


@pytest.mark.parametrize("name", ["in.mp4", "in.mov", "in.mkv", "in.ts"])
def test_sound_that_goes_on_does_not_hold_the_last_picture(tmp_path, name):
    short = clip(tmp_path / "short.mkv", 10, options={"bf": "0"})
    long = clip(tmp_path / "long.mkv", 100, sounds=[("aac", 48000)])
    path = tmp_path / name
    with av.open(str(short)) as one, av.open(str(long)) as two, av.open(str(path), "w") as out:
        streams = [(one, one.streams.video[0]), (two, two.streams.audio[0])]
        copies = [out.add_stream_from_template(stream) for _, stream in streams]
        for (container, stream), copy in zip(streams, copies, strict=True):
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    assert held(path) == pytest.approx(10 / RATE, abs=2e-3)


def test_a_track_that_claims_days_holds_its_last_picture_for_none(tmp_path):
    path = clip(tmp_path / "in.mkv", 12, options={"bf": "2"})
    data, claim = path.read_bytes(), b"00:00:00.400000000"
    assert data.count(claim) == 1
    path.write_bytes(data.replace(claim, b"99:00:00.400000000"))
    assert held(path) == pytest.approx(12 / RATE, abs=2e-3)


@pytest.mark.parametrize("sound", [(), (("pcm_s16le", 48000),)], ids=["silent", "sound"])
@pytest.mark.parametrize("codec", ["huffyuv", "mpeg4"])
def test_chunks_without_bytes_at_the_end_of_an_avi_hold_the_last_picture(tmp_path, codec, sound):
    pix_fmt = "yuv422p" if codec == "huffyuv" else "yuv420p"
    path = clip(tmp_path / "in.avi", 20, codec=codec, pix_fmt=pix_fmt, options={}, sounds=sound)
    without_content(path, range(6, 20))
    times = seconds(path)
    assert len(times) == 6 and times == pytest.approx([i / RATE for i in range(6)])
    assert held(path) == pytest.approx(20 / RATE)


def test_chunks_without_bytes_inside_an_avi_keep_the_times_behind_them(tmp_path):
    path = clip(tmp_path / "in.avi", 20, codec="huffyuv", pix_fmt="yuv422p", options={})
    without_content(path, [3, 4, 9])
    kept = [i for i in range(20) if i not in (3, 4, 9)]
    assert seconds(path) == pytest.approx([i / RATE for i in kept])


def without_content(path: Path, which) -> None:
    """Empty chunks of the picture, and in the index, as capture programs write repeats."""
    data = path.read_bytes()
    start = data.index(b"movi") + 4
    place, video, body, index = start, 0, bytearray(), bytearray()
    while data[place : place + 4] != b"idx1":
        name, length = (
            data[place : place + 4],
            int.from_bytes(data[place + 4 : place + 8], "little"),
        )
        content = data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
        if name == b"JUNK":
            continue
        if name == b"00dc":
            content = b"" if video in which else content
            video += 1
        entry = (16 * bool(content)).to_bytes(4, "little"), (4 + len(body)).to_bytes(4, "little")
        size = len(content).to_bytes(4, "little")
        index += name + b"".join(entry) + size
        body += name + size + content + b"\0" * (len(content) % 2)
    head = bytearray(data[:start])
    head[start - 8 : start - 4] = (4 + len(body)).to_bytes(4, "little")
    whole = head + body + b"idx1" + len(index).to_bytes(4, "little") + index
    whole[4:8] = (len(whole) - 8).to_bytes(4, "little")
    path.write_bytes(whole)


def test_packets_without_content_repeat_a_picture_and_are_no_damage(tmp_path):
    plain = clip(tmp_path / "plain.mkv", 12, options={"bf": "0", "g": "1"})

    def repeated(index: int, packet: av.Packet) -> av.Packet:
        if index % 4 == 0:
            return packet
        empty = av.Packet(0)
        empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
        return empty

    path = remuxed(plain, tmp_path / "in.nut", repeated)  # Theora in Ogg has such packets
    assert seconds(path) == pytest.approx([0, 4 / RATE, 8 / RATE], abs=1e-3)
    assert held(path) == pytest.approx(12 / RATE, abs=2e-3)


def test_a_gif_holds_its_last_picture(tmp_path):
    from PIL import Image

    images = [Image.fromarray(moving(i, 48, 64)) for i in range(4)]
    path = tmp_path / "in.gif"
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=[100, 200, 50, 1500], loop=0
    )
    assert seconds(path) == pytest.approx([0, 0.1, 0.3, 0.35])
    assert held(path) == pytest.approx(1.85)
