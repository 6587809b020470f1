"""Tests what comes out of a file source: every frame, at its time, in its colours, upright."""

from fractions import Fraction

import numpy as np
import pytest

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip, moving, see, with_cover
from streamdiffvsr.tests.media.patches import PATCHES, patch_colours, yuv_planes

LOSSLESS = {"qp": "0", "preset": "ultrafast"}


@pytest.mark.parametrize(
    ("height", "full", "matrix"),
    [*((48, full, matrix) for full in (False, True) for matrix in (1, 5, 6, 9)), (720, True, 5)],
)
def test_tagged_colours_are_right_whatever_the_size(tmp_path, height, full, matrix):
    clip = Clip(
        size=(height, 96),
        pts=[0],
        options=LOSSLESS,
        colour=(matrix, 2 if full else 1, matrix, 1),
        image=lambda index, h, w: yuv_planes(matrix, full, h, w),
    )
    with FileSource(clip.write(tmp_path / "clip.mp4")) as source:
        image = next(source).image
    assert np.abs(patch_colours(image) - PATCHES).max() <= 2


def test_full_range_is_believed_of_the_tag_too_and_not_only_of_the_format(tmp_path):
    clip = Clip(
        size=(48, 96),
        pts=[0],
        codec="ffv1",
        options={},
        colour=(1, 2, 1, 1),
        image=lambda index, h, w: yuv_planes(1, True, h, w),
    )
    with FileSource(clip.write(tmp_path / "clip.mkv")) as source:
        image = next(source).image
    assert source.info.pix_fmt == "yuv420p"  # H.264 of that range would be called yuvj420p
    assert np.abs(patch_colours(image) - PATCHES).max() <= 2


@pytest.mark.parametrize(("height", "matrix"), [(718, 6), (720, 1)])
def test_untagged_colours_are_709_from_720_lines_and_601_below(tmp_path, height, matrix):
    clip = Clip(
        size=(height, 96),
        pts=[0],
        options=LOSSLESS,
        image=lambda index, h, w: yuv_planes(matrix, False, h, w),
    )
    with FileSource(clip.write(tmp_path / "clip.mp4")) as source:
        image = next(source).image
    assert np.abs(patch_colours(image) - PATCHES).max() <= 2


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_every_frame_comes_with_its_own_time(tmp_path, name):
    path = Clip(pts=VFR).write(tmp_path / name)
    with FileSource(path) as source:
        frames = list(source)
    assert [frame.pts * frame.time_base for frame in frames] == see(path).times
    assert [frame.index for frame in frames] == list(range(len(VFR)))
    assert len(frames) == len(VFR)


def test_pixels_are_the_frames_in_order_of_display(tmp_path):
    path = Clip(options={"crf": "4", "bf": "3"}).write(tmp_path / "clip.mp4")
    with FileSource(path) as source:
        images = [frame.image for frame in source]
    for index, image in enumerate(images):
        assert (image.shape, image.dtype, image.flags.c_contiguous) == ((48, 64, 3), np.uint8, True)
        errors = [np.abs(image.astype(int) - moving(i, 48, 64)).mean() for i in range(12)]
        assert int(np.argmin(errors)) == index
    assert len({id(image.base) for image in images}) == 12  # none shares memory with another


def test_the_duration_of_the_last_frame_is_known(tmp_path):
    path = Clip(pts=[0, 1001], options={"bf": "0"}, last_duration=4004).write(tmp_path / "clip.mp4")
    with FileSource(path) as source:
        assert list(source)[-1].duration == 4004


def test_times_that_are_missing_follow_the_rate_without_drift(tmp_path):
    path = Clip(container="h264", pts=[i * 1001 for i in range(30)]).write(tmp_path / "raw.h264")
    with FileSource(path) as source:
        times = [frame.pts * frame.time_base for frame in source]
    assert times == [Fraction(i, 25) for i in range(30)]  # libav's rate for a stream without one


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_frames_are_turned_upright(tmp_path, rotation, turns):
    path = Clip(rotation=rotation, options=LOSSLESS).write(tmp_path / "phone.mp4")
    plain = Clip(options=LOSSLESS).write(tmp_path / "plain.mp4")
    with FileSource(path) as source, FileSource(plain) as upright:
        image, expected = next(source).image, next(upright).image
    assert image.shape[:2] == source.info.size
    np.testing.assert_array_equal(image, np.rot90(expected, turns))


def test_odd_sizes_are_decoded(tmp_path):
    clip = Clip(size=(35, 53), codec="ffv1", pix_fmt="yuv444p", options={}, pts=[0, 1001])
    with FileSource(clip.write(tmp_path / "odd.mkv")) as source:
        images = [frame.image for frame in source]
    for index, image in enumerate(images):
        assert np.abs(image.astype(int) - moving(index, 35, 53)).max() <= 3
    assert len(images) == 2


def test_damage_is_counted_and_stepped_over(tmp_path):
    whole = Clip(pts=[i * 1001 for i in range(60)], options={"g": "10"}).write(
        tmp_path / "whole.ts"
    )
    data = bytearray(whole.read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 97):
        data[place] ^= 0x55
    bad = tmp_path / "bad.ts"
    bad.write_bytes(data)
    with FileSource(whole) as source:
        times = [frame.pts for frame in source]
        assert source.damaged == 0
    with FileSource(bad) as source:
        seen = [frame.pts for frame in source]
    assert source.damaged > 0
    assert set(times[-10:]) <= set(seen)  # what follows the damage is there


def test_a_file_that_ends_early_gives_what_it_has(tmp_path):
    whole = Clip(container_options={"movflags": "faststart"}).write(tmp_path / "whole.mp4")
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(whole.read_bytes()[:-400])
    with FileSource(bad) as source:
        count = len(list(source))
    assert 0 < count < 12
    assert source.damaged > 0


def test_a_change_of_size_shows_in_the_frames(tmp_path):
    first = Clip(pts=[0, 1001]).write(tmp_path / "1.ts")
    second = Clip(size=(32, 96), pts=[2002, 3003]).write(tmp_path / "2.ts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with FileSource(joined) as source:
        assert [frame.image.shape[:2] for frame in source] == [(48, 64)] * 2 + [(32, 96)] * 2
        assert source.info.size == (48, 64)


def test_a_cover_picture_is_not_taken_for_the_video(tmp_path):
    path = with_cover(Clip().write(tmp_path / "plain.mp4"), tmp_path / "cover.mp4")
    with FileSource(path) as source:
        assert source.info.size == (48, 64)


def test_leaving_early_ends_the_iteration_and_not_the_program(tmp_path):
    path = Clip(pts=[i * 1001 for i in range(60)]).write(tmp_path / "clip.mp4")
    with FileSource(path) as source:
        next(source)
    assert list(source) == []
    source.close()


def test_iterating_further_after_the_end_gives_nothing(tmp_path):
    with FileSource(Clip().write(tmp_path / "clip.mp4")) as source:
        assert len(list(source)) == 12
        assert list(source) == []


def test_what_cannot_be_opened_says_so_at_once(tmp_path):
    with pytest.raises(StreamDiffVSRError, match="there is no such file"):
        FileSource(tmp_path / "gone.mp4")


def test_the_time_base_is_the_files_own(tmp_path):
    with FileSource(Clip().write(tmp_path / "clip.mp4")) as source:
        assert next(source).time_base == source.info.time_base == NTSC
