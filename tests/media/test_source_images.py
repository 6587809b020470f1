"""A folder of images is a video: each in its place, in its colours, or an error that names it."""

import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import tifffile
from PIL import Image

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.media.readable import images_in
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.media.clips import Clip, moving, write_image
from streamdiffvsr.tests.media.patches import PATCHES, patch_colours

NAMES = ["a1.png", "a2.png", "A3.PNG", "a10.png", "a11.png", "b.png"]


def folder_of(folder, names=NAMES):
    """PNG images; the k-th name shows the k-th moment."""
    folder.mkdir()
    for index, name in enumerate(names):
        write_image(folder / name, moving(index, 48, 64))
    return folder


def stripes(height=48):
    image = np.zeros((height, 96, 3), np.uint8)
    for index, colour in enumerate(PATCHES):
        image[:, index * 16 : index * 16 + 16] = colour
    return image


def test_images_come_in_the_natural_order_of_their_names(tmp_path):
    folder = folder_of(tmp_path / "frames")
    (folder / ".hidden.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    (folder / "more.png").mkdir()
    with FileSource(folder) as source:
        frames = list(source)
    assert [path.name for path in images_in(folder)] == NAMES
    assert [(frame.index, frame.pts, frame.duration) for frame in frames] == [
        (k, k, 1) for k in range(6)
    ]
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, moving(index, 48, 64))


def test_a_folder_is_described_like_a_video(tmp_path):
    info = probe(folder_of(tmp_path / "frames"), fps=Fraction(30000, 1001))
    assert (info.size, info.frames, info.images, info.codec) == ((48, 64), 6, True, "png")
    assert (info.average_rate, info.time_base) == (Fraction(30000, 1001), Fraction(1001, 30000))
    assert info.duration_seconds == pytest.approx(6 * 1001 / 30000)
    assert (info.depth, info.alpha, info.audio_streams, info.start_time) == (8, False, 0, 0)


def test_images_have_24_frames_a_second_unless_told_otherwise(tmp_path):
    folder = folder_of(tmp_path / "frames")
    with FileSource(folder) as source:
        assert [frame.seconds for frame in source] == [k / 24 for k in range(6)]
    with FileSource(folder, fps=Fraction(5)) as source:
        assert [frame.seconds for frame in source] == [k / 5 for k in range(6)]


def test_one_image_is_a_video_of_one_frame(tmp_path):
    path = write_image(tmp_path / "photo.mp4", stripes())  # the content counts, not the name
    with FileSource(path) as source:
        (frame,) = source
    assert source.info.images
    np.testing.assert_array_equal(frame.image, stripes())


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30000, 1001)])
def test_beginning_at_the_time_of_an_image_begins_with_it(tmp_path, fps):
    folder = folder_of(tmp_path / "frames")
    with FileSource(folder, fps=fps) as source:
        times = [frame.seconds for frame in source]
    for index in (1, 5):
        with FileSource(folder, fps=fps, begin=times[index]) as source:
            frames = list(source)
        assert [frame.pts for frame in frames] == list(range(index, 6))
        np.testing.assert_array_equal(frames[0].image, moving(index, 48, 64))


def test_a_pattern_names_the_images_with_its_numbers_in_their_order(tmp_path):
    names = ["f_0009.png", "f_0010.png", "f_0012.png", "f_12345.png"]  # 11 is missing
    folder = folder_of(tmp_path / "100%d", names)
    for other in ("f_12.png", "f_00013.png", "f_0014.jpg", "xf_0015.png", "f_0016.png.txt"):
        (folder / other).write_bytes(b"no image of the pattern")
    with FileSource(folder / "f_%04d.png") as source:
        frames = list(source)
    assert (source.info.frames, source.info.images) == (4, True)
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, moving(index, 48, 64))
    with FileSource(folder / "f_%04d.png", begin=2 / 24) as source:
        assert [frame.pts for frame in source] == [2, 3]


def test_a_pattern_of_plain_numbers_takes_those_without_noughts(tmp_path):
    folder_of(tmp_path / "a", ["9%.png", "10%.png", "100%.png"])
    (tmp_path / "a" / "01%.png").write_bytes(b"not of the pattern")
    with FileSource(tmp_path / "a" / "%d%%.png") as source:
        images = [frame.image for frame in source]
    np.testing.assert_array_equal(images, [moving(index, 48, 64) for index in range(3)])


def test_a_file_of_just_that_name_is_no_pattern(tmp_path):
    folder_of(tmp_path / "a", ["f_%d.png", "f_1.png", "f_2.png"])
    with FileSource(tmp_path / "a" / "f_%d.png") as source:
        (frame,) = source
    np.testing.assert_array_equal(frame.image, moving(0, 48, 64))


def test_a_pattern_without_images_says_so(tmp_path):
    folder_of(tmp_path / "a")
    for pattern in ("f_%05d.png", "f_%d.jpg"):
        with pytest.raises(StreamDiffVSRError, match="no image has a name of that pattern"):
            probe(tmp_path / "a" / pattern)
    with pytest.raises(StreamDiffVSRError, match="No such file or directory"):
        probe(tmp_path / "missing" / "f_%05d.png")


KINDS = [  # the largest error of a colour, in levels
    ("0.png", "png", "rgb24", {}, 0),
    ("1.tif", "tiff", "rgb24", {"compression_algo": "lzw"}, 0),
    ("2.tiff", "tiff", "rgb24", {"compression_algo": "deflate"}, 0),
    ("3.webp", "libwebp", "bgra", {"lossless": "1"}, 0),
    ("4.webp", "libwebp", "bgra", {"quality": "100"}, 4),
]


@pytest.mark.parametrize("height", [48, 720])
def test_the_colours_of_every_kind_are_right(tmp_path, height):
    rgb = stripes(height)
    bgra = np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 255, np.uint8)])
    for name, codec, pix_fmt, options, _ in KINDS:
        pixels = bgra if pix_fmt == "bgra" else rgb
        write_image(tmp_path / name, np.ascontiguousarray(pixels), codec, pix_fmt, options)
    with FileSource(tmp_path) as source:
        images = [frame.image for frame in source]
    for image, (*_, error) in zip(images, KINDS, strict=True):
        assert np.abs(patch_colours(image) - PATCHES).max() <= error
    assert not probe(tmp_path / "3.webp").alpha  # its format has room for it, always


@pytest.mark.parametrize("height", [48, 720])
def test_a_jpeg_is_bt601_of_full_range_whatever_its_size(tmp_path, height):
    rgb = stripes(height).astype(float)
    luma = rgb @ (0.299, 0.587, 0.114)  # JFIF
    planes = [luma, (rgb[..., 2] - luma) / 1.772 + 128, (rgb[..., 0] - luma) / 1.402 + 128]
    pixels = np.stack(planes).round().astype(np.uint8)
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width, context.pix_fmt = height, 96, "yuvj444p"
    context.time_base, context.options = Fraction(1, 24), {"qmin": "1", "qmax": "1"}
    frame = av.VideoFrame(96, height, "yuvj444p")
    for plane, values in zip(frame.planes, pixels, strict=True):
        rows = np.zeros((height, plane.line_size), np.uint8)
        rows[:, :96] = values
        plane.update(rows.tobytes())
    path = tmp_path / "a.jpg"
    path.write_bytes(b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)]))
    with FileSource(path) as source:
        (frame,) = source
    assert np.abs(patch_colours(frame.image) - PATCHES).max() <= 3


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"), [("a.png", "png", "rgb48be"), ("a.tif", "tiff", "rgb48le")]
)
def test_sixteen_bits_of_an_image_are_kept_exactly(tmp_path, name, codec, pix_fmt):
    pixels = np.random.default_rng(0).integers(0, 65536, (48, 64, 3), dtype=np.uint16)
    path = write_image(tmp_path / name, pixels, codec, pix_fmt)
    with FileSource(path, depth=16) as source:
        (frame,) = source
    assert source.info.depth == 16
    np.testing.assert_array_equal(frame.deep, pixels)
    np.testing.assert_array_equal(frame.image, np.rint(pixels / 257))


def test_a_photo_is_upright_however_the_camera_was_held(tmp_path):
    stored = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    expected = [  # by EXIF's orientation, from 1
        stored,
        stored[:, ::-1],
        stored[::-1, ::-1],
        stored[::-1],
        stored.transpose(1, 0, 2),
        np.rot90(stored, -1),
        stored[::-1, ::-1].transpose(1, 0, 2),
        np.rot90(stored, 1),
    ]
    for orientation in range(1, 9):
        path = write_image(tmp_path / f"{orientation}.png", stored)
        entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
        told = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
        data = path.read_bytes()
        path.write_bytes(data[:33] + png_chunk(b"eXIf", told) + data[33:])  # behind the header
    with FileSource(tmp_path, depth=16) as source:
        for frame, picture in zip(source, expected, strict=True):
            np.testing.assert_array_equal(frame.image, picture)
            np.testing.assert_array_equal(frame.deep, picture.astype(np.uint16) * 257)
    info = probe(tmp_path / "6.png")
    assert (info.size, info.rotation) == ((6, 4), 270)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def test_an_image_that_is_broken_is_named_and_nothing_is_shifted(tmp_path):
    folder = folder_of(tmp_path / "frames")
    whole = (folder / "a10.png").read_bytes()
    (folder / "a10.png").write_bytes(whole[: len(whole) // 2])
    source = FileSource(folder)
    with pytest.raises(StreamDiffVSRError) as caught:
        list(source)
    line = str(caught.value)
    assert line.startswith(f"could not read {str(folder)!r}: its image 'a10.png' cannot be decoded")
    assert "\n" not in line


def test_an_image_with_a_damaged_part_is_counted(tmp_path):
    path = write_image(tmp_path / "a.jpg", noise(), "mjpeg", "yuvj420p")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with FileSource(path) as source:
        frames = list(source)
    assert (len(frames), source.damaged) == (1, 1)


def noise():
    return np.random.default_rng(0).integers(0, 255, (72, 64), dtype=np.uint8)  # 48 lines of 4:2:0


def test_a_change_of_size_shows_in_the_frames(tmp_path):
    folder = folder_of(tmp_path / "frames", ["1.png", "2.png"])
    write_image(folder / "3.png", moving(0, 32, 96))
    with FileSource(folder) as source:
        shapes = [frame.image.shape[:2] for frame in source]
    assert shapes == [(48, 64), (48, 64), (32, 96)]


def test_a_folder_without_images_says_what_it_looked_for(tmp_path):
    Clip(pts=[0]).write(tmp_path / "clip.mp4")
    with pytest.raises(StreamDiffVSRError, match=r"it is a folder without images \(\.png, \.jpg"):
        probe(tmp_path)


UNREAD = {
    "a.jxl": (b"\xff\x0a" + bytes(40), "a JPEG XL image"),
    "b.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a JPEG XL image"),
    "c.exr": (b"\x76\x2f\x31\x01" + bytes(40), "an OpenEXR image"),
    "d.hdr": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n", "a Radiance HDR image"),
    "e.pfm": (b"PF\n2 2\n-1.0\n" + bytes(48), "a PFM image"),
    "f.svg": (b"<?xml version='1.0'?>\n<svg width='9' height='9'/>", "an SVG drawing"),
    "g.raf": (b"FUJIFILMCCD-RAW 0201" + bytes(40), "a camera's raw image"),
    "h.cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera's raw image"),
    "i.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(40), "a camera's raw image"),
    "j.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"infe....grid", "a HEIC image"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_kind_that_is_not_read_is_called_by_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(UNREAD[name][0])
    with pytest.raises(StreamDiffVSRError) as caught:
        probe(path)
    line = str(caught.value)
    assert f"the image is {UNREAD[name][1]}" in line
    assert "which is not read; convert it to PNG or TIFF of 8 or 16 bits first" in line


@pytest.mark.parametrize(
    ("pixels", "options", "name"),
    [
        (np.zeros((20, 30), np.float32), {}, "a TIFF image of signed or floating-point numbers"),
        (np.zeros((20, 30), np.int16), {}, "a TIFF image of signed or floating-point numbers"),
        (np.zeros((20, 30), np.uint32), {}, "a TIFF image of 32 bits"),
        (
            np.zeros((20, 30, 90), np.uint8),
            {"planarconfig": "contig"},
            "a TIFF image of 90 channels",
        ),
        (np.zeros((20, 30), np.uint16), {"photometric": "cfa"}, "a camera's raw image"),
        (
            np.zeros((20, 30), np.uint8),
            {"extratags": [(50706, 1, 4, b"\1\4\0\0")]},
            "a camera's raw",
        ),
    ],
)
def test_a_tiff_of_what_is_no_picture_is_called_by_its_name(tmp_path, pixels, options, name):
    options = {"photometric": "minisblack"} | options
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, **options)
    with pytest.raises(StreamDiffVSRError, match=name):
        probe(tmp_path / "a.tif")


def test_an_image_that_is_too_wide_is_refused_at_once(tmp_path):
    path = write_image(tmp_path / "wide.png", np.zeros((2, 20000, 3), np.uint8))
    with pytest.raises(StreamDiffVSRError, match="its frames are 20000x2, and at most 16384"):
        probe(path)


def test_an_image_of_absurd_size_is_refused_before_it_is_unpacked(tmp_path):
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    (tmp_path / "bomb.png").write_bytes(start + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b""))
    with pytest.raises(StreamDiffVSRError, match="larger than the 64 megapixels that are read"):
        probe(tmp_path / "bomb.png")


BOMBS = {  # 9000x9000: within the limit of a side, beyond that of all
    "a.bmp": struct.pack("<2sI4xIIiiHH", b"BM", 60, 54, 40, 9000, 9000, 1, 24) + bytes(24),
    "a.tga": struct.pack("<3B9xHHBB", 0, 0, 10, 9000, 9000, 24, 0) + bytes(9),
    "a.ppm": b"P6 9000 9000 255\n" + bytes(9),
}


@pytest.mark.parametrize("name", [*BOMBS, "a.tif", "a.j2k", "a.gif"])
def test_a_bomb_of_any_kind_is_refused_by_its_size(tmp_path, name):
    path = tmp_path / name
    if name in BOMBS:
        path.write_bytes(BOMBS[name])
    elif name == "a.j2k":
        Image.new("L", (90, 90)).save(path)
        data = path.read_bytes()
        path.write_bytes(data[:8] + struct.pack(">II", 9000, 9000) + data[16:])
    else:
        Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(StreamDiffVSRError, match="64 megapixels"):
        probe(path)


def test_an_image_at_the_limit_is_read(tmp_path):
    Image.new("L", (8192, 8192), 9).save(tmp_path / "a.tif", compression="packbits")
    assert probe(tmp_path / "a.tif").size == (8192, 8192)
