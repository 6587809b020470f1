"""Animations are videos: each picture whole, at its time, shown once. A photo with more is none."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.media.clips import Clip, moving

DURATIONS = [40, 200, 70, 130, 500]  # ms
TIMES = [Fraction(sum(DURATIONS[:index]), 1000) for index in range(5)]


def picture(index: int, alpha: bool) -> np.ndarray:
    """(40, 56, 4): what is clear in one picture is not in the next."""
    rgba = np.dstack([moving(index, 40, 56), np.full((40, 56), 255, np.uint8)])
    if alpha:
        rgba[4 * index :][:9, 10:30, 3] = 0
        rgba[30:, 40:, 3] = 128
    return rgba


def on_black(rgba: np.ndarray) -> np.ndarray:
    return np.rint(rgba[..., :3] * (rgba[..., 3:] / 255.0)).astype(np.uint8)


def animation(form: str, *, alpha: bool, **options) -> bytes:
    mode = "RGBA" if alpha else "RGB"
    first, *rest = (Image.fromarray(picture(index, alpha)).convert(mode) for index in range(5))
    file = io.BytesIO()
    first.save(file, form, save_all=True, append_images=rest, duration=DURATIONS, loop=0, **options)
    return file.getvalue()


LOSSLESS_WEBP = {"lossless": True, "exact": True}
KINDS = {  # ending: form, options, the largest error in levels
    ".webp": ("WEBP", LOSSLESS_WEBP, 0),
    ".avif": ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 3),
    ".apng": ("PNG", {}, 0),
    ".png": ("PNG", {"disposal": 1, "blend": 0}, 0),
    "-over.png": ("PNG", {"disposal": 1, "blend": 1}, 0),
}


@pytest.mark.parametrize("ending", [".webp", ".avif", ".apng"])
def test_an_animation_is_upscaled_and_joined(tmp_path, ending):
    form, options, _ = KINDS[ending]
    path = tmp_path / f"a{ending}"
    path.write_bytes(animation(form, alpha=False, **options))
    done = upscale_file(path, tmp_path / "a.mp4", Nearest((40, 56)), FileOptions())
    assert done.frames == 5 and probe(tmp_path / "a.mp4").size == (160, 224)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("ending", KINDS)
def test_an_animation_is_a_video_with_its_times_and_is_shown_once(tmp_path, ending, alpha):
    form, options, error = KINDS[ending]
    path = tmp_path / f"a{ending}"
    path.write_bytes(animation(form, alpha=alpha, **options))
    with FileSource(path) as source:
        frames = list(source)
    info = source.info
    assert (info.images, info.alpha, len(frames)) == (False, alpha, 5)
    assert [Fraction(frame.pts) * info.time_base for frame in frames] == TIMES
    assert frames[-1].duration * info.time_base == Fraction(1, 2)
    if form != "PNG":  # libav does not say it
        assert (info.frames, info.counted) == (5, True)
        assert info.duration_seconds == pytest.approx(0.94)
    for index, frame in enumerate(frames):
        expected = on_black(picture(index, alpha)).astype(int)
        assert np.abs(frame.image - expected).max() <= error, index
    assert not source.damaged


@pytest.mark.parametrize("ending", [".webp", ".avif", ".png"])
def test_an_animation_may_begin_in_its_middle(tmp_path, ending):
    form, options, _ = KINDS[ending]
    path = tmp_path / f"a{ending}"
    path.write_bytes(animation(form, alpha=True, **options))
    with FileSource(path) as source:
        whole = list(source)
    for begin, first in ((0.04, 1), (0.3, 2)):
        with FileSource(path, begin=begin) as source:
            frames = list(source)
        assert [frame.pts for frame in frames] == [frame.pts for frame in whole[first:]]
        for frame, same in zip(frames, whole[first:], strict=True):
            np.testing.assert_array_equal(frame.image, same.image)


@pytest.mark.parametrize("disposal", [1, 2])
def test_a_gif_is_put_together_as_browsers_do(tmp_path, disposal):
    path = tmp_path / "a.gif"
    path.write_bytes(animation("GIF", alpha=True, disposal=disposal))
    with Image.open(path) as image, FileSource(path) as source:
        frames = list(source)
        times = []
        for index, frame in enumerate(frames):
            image.seek(index)
            times.append(Fraction(image.info["duration"], 1000))
            expected = on_black(np.asarray(image.convert("RGBA")))
            np.testing.assert_array_equal(frame.image, expected)
    assert (len(frames), times) == (5, [Fraction(one, 1000) for one in DURATIONS])
    assert [frame.pts * source.info.time_base for frame in frames] == TIMES


def test_a_webp_picture_without_a_time_is_shown_for_a_tenth_of_a_second(tmp_path):
    path = tmp_path / "a.webp"
    first, second = (Image.fromarray(moving(index, 40, 56)) for index in range(2))
    first.save(path, save_all=True, append_images=[second], duration=0)
    with FileSource(path) as source:
        assert [(frame.pts, frame.duration) for frame in source] == [(0, 100), (100, 100)]


def test_an_animated_avif_tells_the_shape_of_its_pixels(tmp_path):
    clip = Clip(
        codec="libsvtav1",
        size=(66, 98),
        options={"preset": "12"},
        container="avif",
        sample_aspect=Fraction(64, 45),
    ).write(tmp_path / "a.avif")
    assert (probe(clip).images, probe(clip).sample_aspect) == (False, Fraction(64, 45))


def test_an_animated_avif_of_ten_bits_keeps_them(tmp_path):
    clip = Clip(
        codec="libsvtav1",
        pix_fmt="yuv420p10le",
        size=(64, 96),
        container="avif",
        options={"crf": "10"},
        time_base=Fraction(1, 25),
        pts=range(4),
        last_duration=1,
    )
    path = clip.write(tmp_path / "a.avif")
    with FileSource(path, depth=16) as source:
        frames = list(source)
    assert (source.info.depth, len(frames), source.info.images) == (10, 4, False)
    assert [frame.seconds for frame in frames] == pytest.approx([k / 25 for k in range(4)])
    assert (frames[0].deep % 257).any()


def test_a_broken_animation_is_one_clear_line(tmp_path):
    whole = animation("WEBP", alpha=False, **LOSSLESS_WEBP)
    path = tmp_path / "a.webp"
    for data in (whole[: len(whole) // 2], whole[:60]):
        path.write_bytes(data)
        with pytest.raises(StreamDiffVSRError, match="animation cannot be decoded") as caught:
            list(FileSource(path))
        assert "\n" not in str(caught.value)
    path.write_bytes(whole[:24] + b"\xff" * 6 + whole[30:])  # a canvas of 281 million megapixels
    with pytest.raises(StreamDiffVSRError, match="its frames are 16777216x16777216"):
        probe(path)


@pytest.mark.parametrize("ending", [".avif", ".png"])
def test_an_animation_among_the_images_of_a_folder_is_named(tmp_path, ending):
    form, options, _ = KINDS[ending]
    Image.fromarray(moving(0, 40, 56)).save(tmp_path / "1.png")
    (tmp_path / f"2{ending}").write_bytes(animation(form, alpha=False, **options))
    with (
        FileSource(tmp_path) as source,
        pytest.raises(
            StreamDiffVSRError, match=f"its image '2{ending}' is an animation of several"
        ),
    ):
        list(source)


def jpeg(index: int, size: tuple[int, int] = (40, 56), **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(moving(index, *size)).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("between", [b"", b"\0" * 7, b"\xff\xff"])
def test_jpegs_behind_one_another_are_a_raw_stream(tmp_path, between):
    path = tmp_path / "a.jpg"
    pictures = [jpeg(index, progressive=index == 1) for index in range(6)]
    path.write_bytes(between.join(pictures))
    with FileSource(path) as source:
        images = [frame.image for frame in source]
    assert (len(images), source.info.images, source.damaged) == (6, False, 0)
    for index, image in enumerate(images):
        assert np.abs(image.astype(int) - moving(index, 40, 56)).mean() <= 6  # chroma of half size


def with_more_pictures(first: bytes) -> dict[str, bytes]:
    """Returns a photo with the pictures that cameras and programs write after it or into it."""
    exif = Image.Exif()
    exif[0x010E] = "a photo"
    multiple = io.BytesIO()
    Image.open(io.BytesIO(first)).save(
        multiple, "MPO", save_all=True, append_images=[Image.open(io.BytesIO(jpeg(1)))], quality=95
    )
    thumbnail = b"Exif\0\0" + exif.tobytes()[6:] + jpeg(2, (8, 12))
    inside = first[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return {
        "trailing bytes": first + b"SEFT" + bytes(range(256)) * 9,
        "a film behind it": first + b"\0\0\0\x18ftypmp42" + bytes(900) + jpeg(1),
        "a smaller picture behind it": first + jpeg(1, (20, 28)),
        "an index of pictures": multiple.getvalue(),
        "a thumbnail": inside + first[2:],
        "nothing but its start": first[: len(first) * 3 // 4],
    }


def test_a_photo_with_more_in_its_file_is_one_image(tmp_path):
    first = jpeg(0)
    files = with_more_pictures(first)
    for name, data in files.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(data)
        with FileSource(path) as source:
            (frame,) = source
        assert source.info.images, name
        if name != "nothing but its start":
            assert source.damaged == 0, name
            assert np.abs(frame.image.astype(int) - moving(0, 40, 56)).mean() <= 6, name


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def described(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a picture"
    return exif


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "apng"])
def test_no_description_of_an_image_ends_the_reader(tmp_path, form):
    """PyAV frees some of these entries twice, or does not know them."""
    options = {"icc_profile": PROFILE, "exif": described()}
    if form == "apng":
        (tmp_path / "a.png").write_bytes(animation("PNG", alpha=False, **options))
    else:
        for index in range(25):
            Image.fromarray(moving(index, 40, 56)).save(tmp_path / f"{index}.{form}", **options)
    for _ in range(2):
        with FileSource(tmp_path / "a.png" if form == "apng" else tmp_path) as source:
            frames = list(source)
        assert (len(frames), source.damaged) == (5 if form == "apng" else 25, 0)


def test_mastering_is_told_beside_entries_that_pyav_does_not_know(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(moving(0, 40, 56)).save(path, icc_profile=PROFILE, exif=described())
    chromaticities = (35400, 14600, 8500, 39850, 6550, 2300, 15635, 16450)
    display = struct.pack(">8H2I", *chromaticities, 10_000_000, 50)
    light = struct.pack(">2I", 10_000_000, 4_000_000)
    data = path.read_bytes()
    told = png_chunk(b"mDCV", display) + png_chunk(b"cLLI", light)
    path.write_bytes(data[:33] + told + data[33:])  # behind the header
    mastering = probe(path).mastering
    assert mastering.light == (1000, 400)
    assert mastering.display[:2] == pytest.approx((0.708, 0.292))
    assert mastering.display[8:] == pytest.approx((0.005, 1000))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_video_of_pictures_with_profiles_is_read(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as output:
        stream = output.add_stream("png", rate=25, width=56, height=40, pix_fmt="rgb24")
        for index in range(30):
            file = io.BytesIO()
            Image.fromarray(moving(index, 40, 56)).save(
                file, "PNG", icc_profile=PROFILE, exif=described()
            )
            packet = av.Packet(file.getvalue())
            packet.pts = packet.dts = index
            packet.time_base, packet.stream = Fraction(1, 25), stream
            packet.is_keyframe = True
            output.mux(packet)
    for _ in range(3):
        with FileSource(tmp_path / "a.mov") as source:
            assert len(list(source)) == 30


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Upright, by the table of EXIF."""
    return {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored, 1),
    }[orientation]


ORIENTED = {
    ".jpg": ("JPEG", {"quality": 98, "subsampling": 0}, 4),
    ".png": ("PNG", {}, 0),
    ".webp": ("WEBP", LOSSLESS_WEBP, 0),
    ".tif": ("TIFF", {}, 0),
    ".avif": ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 3),
}


@pytest.mark.parametrize("ending", ORIENTED)
def test_every_kind_of_image_is_upright(tmp_path: Path, ending: str):
    form, options, error = ORIENTED[ending]
    stored = picture(1, False)[..., :3]
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}{ending}"
        Image.fromarray(stored).save(path, form, exif=described(orientation), **options)
    with FileSource(tmp_path, depth=16) as source:
        for orientation, frame in enumerate(source, 1):
            expected = turned(stored, orientation).astype(int)
            assert frame.image.shape == expected.shape
            assert np.abs(frame.image - expected).max() <= error, orientation
    assert source.damaged == 0


def test_a_webp_with_the_mark_of_jpeg_before_its_exif_is_upright(tmp_path):
    stored = picture(1, False)[..., :3]
    exif = b"Exif\0\0" + described(6).tobytes().removeprefix(b"Exif\0\0")
    Image.fromarray(stored).save(tmp_path / "a.webp", exif=exif, **LOSSLESS_WEBP)
    with FileSource(tmp_path / "a.webp") as source:
        (frame,) = source
    assert b"EXIF" in (tmp_path / "a.webp").read_bytes()
    assert source.damaged == 0
    np.testing.assert_array_equal(frame.image, turned(stored, 6))
