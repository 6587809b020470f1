"""What a player finds in the written file, and what is left on the disk when writing fails."""

import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.preflight import check_output
from streamdiffvsr.runtime.media.probe import probe
from streamdiffvsr.runtime.media.sink import FileSink
from streamdiffvsr.runtime.media.source import FileSource
from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip, moving, see

PATCHES = [
    (200, 30, 40),
    (40, 180, 60),
    (30, 50, 190),
    (128, 128, 128),
    (220, 200, 90),
    (16, 90, 140),
]
KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
FAST = "ultrafast"


def copy(source_path, output, **options) -> FileSink:
    """Write the frames of a clip again, at their own size."""
    with FileSource(source_path) as source:
        options = {"like": source.info, "preset": FAST, **options}
        with FileSink(output, size=source.info.size, **options) as sink:
            for frame in source:
                sink.write(frame.image, frame.pts, frame.time_base, frame.duration)
    return sink


def names(folder) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# --- times and sound


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
    sink = copy(clip, tmp_path / name, preset=preset)
    before, after = see(clip), see(tmp_path / name)
    assert after.times == before.times == [(start + pts) * NTSC for pts in VFR]
    assert after.sounds == before.sounds
    assert [len(packets) > 20 for packets in after.sounds] == [True, True]
    assert (sink.audio_streams, sink.frames, sink.retimed) == (2, len(VFR), 0)


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
    for name, cut in (("kept.mp4", False), ("cut.mp4", True)):
        with FileSink(tmp_path / name, size=(48, 64), like=clip, preset=FAST) as sink:
            for pts in (0, 1001, 2002):
                sink.write(moving(0, 48, 64), pts, NTSC, 1001)
            sink.close(cut_sound=cut)
    end = 3 * 1001 * NTSC
    assert see(tmp_path / "kept.mp4").sounds[0] == whole
    assert see(tmp_path / "cut.mp4").sounds[0] == [packet for packet in whole if packet[0] < end]


def test_sound_can_be_left_out(tmp_path):
    clip = Clip(sounds=[("aac", 48000)]).write(tmp_path / "clip.mp4")
    assert copy(clip, tmp_path / "out.mp4", copy_sound=False).audio_streams == 0
    assert see(tmp_path / "out.mp4").sounds == []


def test_a_time_that_does_not_advance_is_moved_and_counted(tmp_path):
    with FileSink(tmp_path / "out.mp4", size=(48, 64), time_base=NTSC, preset=FAST) as sink:
        for pts in (0, 1001, 1001, 500, 3003):
            sink.write(moving(0, 48, 64), pts)
    assert sink.retimed == 2
    assert see(tmp_path / "out.mp4").times == [pts * NTSC for pts in (0, 1001, 1002, 1003, 3003)]


def test_tags_of_file_and_streams_are_carried(tmp_path):
    clip = Clip(title="Ein Café", sounds=[("aac", 48000)]).write(tmp_path / "clip.mkv")
    copy(clip, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["title"] == "Ein Café"
        assert "DURATION" not in container.streams.video[0].metadata


# --- colour and shape


def rgb_of(frame) -> np.ndarray:
    """Patch colours of a yuv420p frame, by the formula of H.273 and the frame's own tags."""
    kr, kb = KR_KB[frame.colorspace]
    planes = frame.to_ndarray()
    height, width = frame.height, frame.width
    luma = planes[:height].astype(float)
    u, v = planes[height:].reshape(2, height // 2, width // 2).astype(float)
    step = width // len(PATCHES)
    places = [step // 2 + index * step for index in range(len(PATCHES))]
    y = luma[height // 2, places]
    cb, cr = (plane[height // 4, [place // 2 for place in places]] for plane in (u, v))
    if frame.color_range == 2:
        y, cb, cr = y / 255, (cb - 128) / 255, (cr - 128) / 255
    else:
        y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    r, b = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    return np.stack([r, (y - kr * r - kb * b) / (1 - kr - kb), b], axis=1) * 255


def patches(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for index, colour in enumerate(PATCHES):
        image[:, index * (width // len(PATCHES)) :] = colour
    return image


@pytest.mark.parametrize(
    ("lines", "tags", "expected"),
    [
        (96, None, (6, 1, 6, 6)),
        (720, None, (1, 1, 1, 1)),
        (720, (5, 1, 5, 6), (5, 1, 5, 6)),
        (96, (1, 1, 1, 1), (1, 1, 1, 1)),
        (96, (1, 2, 1, 13), (1, 2, 1, 13)),
        (720, (6, 2, 2, 2), (6, 2, 6, 6)),
        (96, (9, 1, 9, 16), (9, 1, 9, 16)),
    ],
)
def test_colours_are_tagged_and_converted_as_tagged(tmp_path, lines, tags, expected):
    clip = Clip(colour=tags, pts=[0]).write(tmp_path / "clip.mp4")
    with FileSink(tmp_path / "out.mp4", size=(lines, 96), like=clip, crf=1, preset=FAST) as sink:
        sink.write(patches(lines, 96), 0)
    frame = see(tmp_path / "out.mp4").images[0]
    assert (
        frame.colorspace,
        frame.color_range,
        frame.color_primaries,
        frame.color_trc,
    ) == expected
    assert frame.format.name in ("yuv420p", "yuvj420p")
    assert np.abs(rgb_of(frame) - PATCHES).max() <= 3


def test_a_rotated_clip_is_written_upright_and_keeps_the_shape_of_its_pixels(tmp_path):
    clip = Clip(rotation=-90, sample_aspect=Fraction(4, 3)).write(tmp_path / "clip.mp4")
    copy(clip, tmp_path / "out.mkv")
    info = probe(tmp_path / "out.mkv")
    assert (info.size, info.rotation, info.sample_aspect) == ((64, 48), 0, Fraction(3, 4))


@pytest.mark.parametrize("size", [(48, 64), (50, 70), (46, 66)])  # rows with and without padding
def test_every_pixel_lands_in_its_place(tmp_path, size):
    image = np.zeros((*size, 3), np.uint8)
    image[:: size[0] - 1, :: size[1] - 1] = image[10:14, 20:30] = 255
    with FileSink(tmp_path / "out.mp4", size=size, time_base=NTSC, crf=0, preset=FAST) as sink:
        sink.write(np.asfortranarray(image), 0)
    luma = see(tmp_path / "out.mp4").images[0].to_ndarray()[: size[0]]
    np.testing.assert_array_equal(luma > 128, image[..., 1] > 128)


# --- failures


def refusals(tmp_path):
    clip = Clip().write(tmp_path / "clip.mp4")
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "same.mp4").symlink_to(clip)
    return {
        "there.mp4": "it already exists",
        "folder.mp4": "it exists and is not a plain file",
        "none/out.mp4": "there is no folder",
        "there.mp4/out.mp4": "is not a folder",
        "out.avi": "no H.264 file is written with the ending '.avi'",
        "out": "no H.264 file is written with the ending ''",
        "clip.mp4": "it is the input file itself",
        "same.mp4": "it is the input file itself",
    }


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
    refused = refusals(tmp_path)
    info = probe(tmp_path / "clip.mp4")
    for name, why in refused.items():
        before = names(tmp_path)
        with pytest.raises(StreamDiffVSRError) as caught:
            FileSink(tmp_path / name, size=(48, 64), like=info)
        assert str(caught.value).startswith(f"could not write {str(tmp_path / name)!r}: ")
        assert why in str(caught.value)
        assert names(tmp_path) == before
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"


def test_the_input_is_never_overwritten(tmp_path):
    clip = Clip().write(tmp_path / "clip.mp4")
    with pytest.raises(StreamDiffVSRError, match="it is the input file itself"):
        check_output(clip, source=tmp_path / ".." / tmp_path.name / "clip.mp4", overwrite=True)


def test_overwriting_replaces_the_file_at_the_end(tmp_path):
    clip, out = Clip().write(tmp_path / "clip.mp4"), tmp_path / "out.mp4"
    out.write_bytes(b"old")
    with FileSink(out, size=(48, 64), like=clip, overwrite=True, preset=FAST) as sink:
        sink.write(moving(0, 48, 64), 0)
        assert out.read_bytes() == b"old"
    assert len(see(out).times) == 1
    assert names(tmp_path) == {"clip.mp4", "out.mp4"}


def test_sound_the_container_cannot_hold_is_refused_at_once(tmp_path):
    clip = Clip(sounds=[("wavpack", 48000)]).write(tmp_path / "clip.mkv")
    with pytest.raises(
        StreamDiffVSRError, match=r"cannot hold wavpack sound; give .* ends in \.mkv"
    ):
        FileSink(tmp_path / "out.mp4", size=(48, 64), like=clip)
    assert names(tmp_path) == {"clip.mkv"}


@pytest.mark.parametrize(
    ("size", "why"), [((48, 16388), "up to 16384"), ((47, 64), "both must be even")]
)
def test_a_size_that_cannot_be_encoded_is_refused(tmp_path, size, why):
    with pytest.raises(StreamDiffVSRError, match=why):
        FileSink(tmp_path / "out.mp4", size=size, time_base=NTSC)
    assert names(tmp_path) == set()


def test_a_frame_of_another_shape_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match=r"image.shape = \(64, 48, 3\)"):  # noqa: SIM117
        with FileSink(tmp_path / "out.mp4", size=(48, 64), time_base=NTSC) as sink:
            sink.write(np.zeros((64, 48, 3), np.uint8), 0)
    assert names(tmp_path) == set()


def test_a_preset_that_does_not_exist_is_one_clear_line(tmp_path):
    with pytest.raises(StreamDiffVSRError, match=r"could not write .*out\.mp4") as caught:
        FileSink(tmp_path / "out.mp4", size=(48, 64), time_base=NTSC, preset="warp")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error):  # noqa: SIM117
        with FileSink(tmp_path / "out.mp4", size=(48, 64), time_base=NTSC) as sink:
            sink.write(moving(0, 48, 64), 0)
            assert len(names(tmp_path)) == 1  # hidden, and not under the final name
            assert not (tmp_path / "out.mp4").exists()
            raise error
    assert names(tmp_path) == set()


def test_no_frame_is_no_file(tmp_path):
    with pytest.raises(StreamDiffVSRError, match="there was no frame to write"):
        FileSink(tmp_path / "out.mp4", size=(48, 64), time_base=NTSC).close()
    assert names(tmp_path) == set()


def test_an_output_that_came_into_being_meanwhile_is_kept(tmp_path):
    sink = FileSink(tmp_path / "out.mp4", size=(48, 64), time_base=NTSC, preset=FAST)
    sink.write(moving(0, 48, 64), 0)
    (tmp_path / "out.mp4").write_bytes(b"theirs")
    with pytest.raises(StreamDiffVSRError, match="come into being meanwhile"):
        sink.close()
    assert (tmp_path / "out.mp4").read_bytes() == b"theirs"
    assert names(tmp_path) == {"out.mp4"}


def noise(count: int):
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (96, 128, 3), np.uint8) for _ in range(count))


def fill(output, count: int) -> None:
    with FileSink(output, size=(96, 128), time_base=NTSC, crf=1, preset=FAST) as sink:
        for index, image in enumerate(noise(count)):
            sink.write(image, index * 1001)


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit there")
@pytest.mark.parametrize(
    ("name", "count"),  # a few frames: found when finishing; many: found while writing
    [("out.mp4", 3), ("out.mp4", 100), ("out.mkv", 100), ("out.ts", 3)],
)
def test_a_file_that_may_not_grow_is_one_clear_line(tmp_path, name, count):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # the child inherits it
    try:
        with pytest.raises(StreamDiffVSRError) as caught:
            fill(tmp_path / name, count)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the largest size allowed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == set()


def test_a_full_disk_is_one_clear_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(StreamDiffVSRError, match=r"out\.mp4': the disk is full"):
            fill(disk / "out.mp4", 100)
        assert names(disk) == set()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_killed_encoder_is_one_clear_line(tmp_path):
    with pytest.raises(StreamDiffVSRError, match="ended unexpectedly") as caught:  # noqa: SIM117
        with FileSink(tmp_path / "out.mp4", size=(96, 128), time_base=NTSC) as sink:
            for index, image in enumerate(noise(200)):
                sink.write(image, index)
                if index == 5:
                    (encoder,) = psutil.Process(os.getpid()).children()
                    encoder.kill()
    assert str(caught.value).startswith(f"could not write {str(tmp_path / 'out.mp4')!r}: ")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == set()
