"""Every kind of image gives the pixels that went into it, and those that another decoder gives."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
from PIL import Image

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.media.readable import natural_key
from streamdiffvsr.runtime.media.reader import FileSource, SourceFrame, probe
from streamdiffvsr.tests.media.clips import Clip, write_image

SIZE = HEIGHT, WIDTH = 37, 53  # odd, and no multiple of a tile


def picture(channels: int = 3, bits: int = 8) -> np.ndarray:
    """(h, w, channels): smooth, different in every channel, and with all values up to the edges."""
    top = 2**bits - 1
    down, across = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    parts = (across, down, (1 - across) * down, 1 - down * across, across * across)
    kind = np.uint8 if bits <= 8 else np.uint16
    return np.stack([np.rint(part * top) for part in parts[:channels]], axis=2).astype(kind)


def on_black(rgba: np.ndarray) -> np.ndarray:
    top = np.iinfo(rgba.dtype).max
    wide = rgba.astype(float)
    return np.rint(wide[..., :3] * wide[..., 3:] / top).astype(rgba.dtype)


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


def read(folder: Path, files: dict[str, bytes]) -> dict[str, SourceFrame]:
    """The frame of each file, read as one series in the order of their names."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with FileSource(folder, depth=16) as source:
        frames = list(source)
        assert source.damaged == 0
    names = sorted(files, key=natural_key)
    return dict(zip(names, frames, strict=True))


def apart(frame: SourceFrame, expected: np.ndarray) -> float:
    """The largest difference of the deep pixels, in steps of 16 bits."""
    exact = expected.astype(float) * (257 if expected.dtype == np.uint8 else 1)
    return float(np.abs(frame.deep - exact).max())


def saved(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        return on_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def by_libav(data: bytes, codec: str) -> np.ndarray:
    context = av.CodecContext.create(codec, "r")
    frame = [*context.decode(av.Packet(data)), *context.decode(None)][0]
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        return on_black(frame.to_ndarray(format="rgba"))
    return frame.to_ndarray(format="rgb24")


RGB = Image.fromarray(picture())
RGBA = Image.fromarray(picture(4))
FORMS = {
    "rgb": RGB,
    "rgba": RGBA,
    "grey": RGB.convert("L"),
    "grey-alpha": RGBA.convert("LA"),
    "bits": RGB.convert("1"),
    "palette": RGB.quantize(200),
    "palette-of-16": RGB.quantize(16),
    "palette-of-4": RGB.quantize(4),
}
ALL = tuple(FORMS)
PLAIN = ("rgb", "grey", "bits", "palette", "palette-of-16", "palette-of-4")
LOSSLESS = [  # ending, Pillow's format and options, libav's decoder, what it takes
    (".png", "PNG", {}, "png", ALL),
    (".webp", "WEBP", {"lossless": True, "exact": True}, "webp", ("rgb", "rgba", "grey")),
    (".bmp", "BMP", {}, "bmp", PLAIN),
    (".tga", "TGA", {}, "targa", ("rgb", "rgba", "grey", "palette")),
    (".tga", "TGA", {"compression": "tga_rle"}, "targa", ("rgb", "rgba", "grey", "palette")),
    (".ppm", "PPM", {}, "ppm", ("rgb",)),
    (".pgm", "PPM", {}, "pgm", ("grey",)),
    (".pbm", "PPM", {}, "pbm", ("bits",)),
    (".pcx", "PCX", {}, "pcx", PLAIN),
    (".sgi", "SGI", {}, "sgi", ("rgb", "rgba", "grey")),
    (".dds", "DDS", {}, "dds", ("rgb", "rgba")),
    (".jp2", "JPEG2000", {}, "jpeg2000", ("rgb", "rgba", "grey", "grey-alpha")),
    (".j2k", "JPEG2000", {"no_jp2": True}, "jpeg2000", ("rgb", "grey")),
    (".tif", "TIFF", {}, "tiff", ALL),
    (".tif", "TIFF", {"compression": "tiff_lzw"}, "tiff", ALL),
    (".tif", "TIFF", {"compression": "packbits"}, "tiff", ALL),
    (".tif", "TIFF", {"compression": "tiff_adobe_deflate"}, "tiff", ALL),
]


def test_lossless_kinds_give_what_went_in_and_what_the_other_decoder_gives(tmp_path):
    files, codecs, expected = {}, {}, {}
    for number, (ending, form, options, codec, held) in enumerate(LOSSLESS):
        for told in held:
            name = f"{number:02} {told}{ending}"
            files[name] = saved(FORMS[told], form, **options)
            codecs[name], expected[name] = codec, on_black(np.asarray(FORMS[told].convert("RGBA")))
    for name, frame in read(tmp_path, files).items():
        np.testing.assert_array_equal(frame.image, expected[name], name)
        np.testing.assert_array_equal(by_pillow(files[name]), expected[name], name)
        np.testing.assert_array_equal(by_libav(files[name], codecs[name]), expected[name], name)
        # Transparency is blended in 16 bits: no further off than 8 bits' rounding.
        assert apart(frame, expected[name]) <= (128 if "a." in name or "alpha" in name else 0), name


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    options.setdefault("photometric", "rgb" if pixels.ndim == 3 else "minisblack")
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


TILES = {"tile": (16, 32)}
LAYOUTS = {
    "strips": {"rowsperstrip": 5},
    "one strip": {},
    "tiles": TILES,
    "big": {"bigtiff": True},
    "big tiles": {"bigtiff": True, **TILES},
    "the other way round": {"byteorder": ">", **TILES},
    "deflated tiles": {"compression": "zlib", **TILES},
    "predicted strips": {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
    "predicted tiles": {"compression": "zlib", "predictor": True, **TILES},
    "predicted tiles the other way round": {
        "compression": "zlib", "predictor": True, "byteorder": ">", **TILES
    },
}  # fmt: skip


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_is_right_however_it_is_laid_out(tmp_path, bits):
    contents = tiff_contents(bits)
    files = {
        f"{layout}, {told}.tif": tiff(np.ascontiguousarray(pixels), **options, **how)
        for layout, how in LAYOUTS.items()
        for told, (pixels, options, _) in contents.items()
    }
    for name, frame in read(tmp_path, files).items():
        pixels, _, expected = contents[name[:-4].partition(", ")[2]]
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(files[name])), pixels, name)
        # Of 8 bits transparency is blended in 16, and what was multiplied is divided and so again.
        exact = bits == 16 or not {"alpha", "associated", "cmyk"} & set(name[:-4].split())
        assert apart(frame, expected) <= (1 if exact else 257), name


def tiff_contents(bits: int) -> dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]]:
    """By name: what is stored, how, and what is to be seen."""
    rgba, top = picture(4, bits), 2**bits - 1
    rgb, light = rgba[..., :3], rgba[..., 0]
    ink = (top - rgba.astype(float)) / top
    paper = np.rint(ink[..., :3] * ink[..., 3:] * top).astype(rgba.dtype)
    two = rgba[..., [0, 3]]
    unassociated, separate = {"extrasamples": ["unassalpha"]}, {"planarconfig": "separate"}
    black = on_black(rgba)
    return {
        "rgb": (rgb, {}, rgb),
        "planes": (np.moveaxis(rgb, 2, 0), separate, rgb),
        "alpha": (rgba, unassociated, black),
        "alpha planes": (np.moveaxis(rgba, 2, 0), separate | unassociated, black),
        "associated": (np.dstack([black, rgba[..., 3]]), {"extrasamples": ["assocalpha"]}, black),
        "unspecified": (rgba, {"extrasamples": ["unspecified"]}, rgb),
        "associated planes": (
            np.moveaxis(np.dstack([black, rgba[..., 3]]), 2, 0),
            separate | {"extrasamples": ["assocalpha"]},
            black,
        ),
        "unspecified planes": (
            np.moveaxis(rgba, 2, 0),
            separate | {"extrasamples": ["unspecified"]},
            rgb,
        ),
        "grey alpha planes": (
            np.moveaxis(two, 2, 0),
            {"photometric": "minisblack"} | separate | unassociated,
            on_black(np.dstack([grey(light), two[..., 1]])),
        ),
        "grey associated": (
            np.dstack([black[..., 0], rgba[..., 3]]),
            {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["assocalpha"]},
            grey(black[..., 0]),
        ),
        "grey": (light, {}, grey(light)),
        "grey alpha": (
            two,
            {"photometric": "minisblack", "planarconfig": "contig"} | unassociated,
            on_black(np.dstack([grey(light), two[..., 1]])),
        ),
        "white is zero": (light, {"photometric": "miniswhite"}, grey(top - light)),
        "cmyk": (rgba, {"photometric": "separated"}, paper),
    }


def test_sixteen_bits_of_grey_and_rgb_are_kept_by_every_packing(tmp_path):
    light, rgb = picture(1, 16)[..., 0], picture(3, 16)
    files = {
        f"grey {packing}.tif": saved(Image.fromarray(light), "TIFF", compression=packing)
        for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "raw")
    }
    for packing in ("lzw", "deflate", "packbits", "raw"):
        path = tmp_path / f"rgb {packing}.tif"
        write_image(path, rgb, "tiff", "rgb48le", {"compression_algo": packing})
        files[path.name] = path.read_bytes()
    for name, frame in read(tmp_path, files).items():
        assert apart(frame, rgb if name.startswith("rgb") else grey(light)) == 0, name


def test_a_tiff_whose_packing_is_not_read_is_told_by_it(tmp_path):
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(picture(3, 16), compression="lzma"))
    with pytest.raises(StreamDiffVSRError, match="compression 34925, not LZW or Deflate"):
        read_one(path)


def test_a_tiff_of_jpegs_is_close_to_what_went_in(tmp_path):
    images = {f"{mode}.tif": RGB.convert(mode) for mode in ("RGB", "L", "CMYK", "YCbCr")}
    files = {
        name: saved(image, "TIFF", compression="jpeg", quality=95) for name, image in images.items()
    }
    for name, frame in read(tmp_path, files).items():
        expected = np.asarray(images[name].convert("RGB")).astype(int)
        assert np.abs(frame.image - expected).mean() <= 3, name  # JPEG's own, at half the chroma


def test_a_tiff_of_few_bits_spans_black_to_white(tmp_path):
    levels = {bits: np.tile(np.arange(WIDTH) % 2**bits, (HEIGHT, 1)) for bits in (1, 2, 4)}
    files = {f"{bits}.tif": few_bits(rows, bits) for bits, rows in levels.items()}
    for name, frame in read(tmp_path, files).items():
        bits = int(name[0])
        expected = grey(levels[bits] * 255 // (2**bits - 1))
        np.testing.assert_array_equal(frame.image, expected, name)


def few_bits(values: np.ndarray, bits: int) -> bytes:
    """A TIFF of grey, which is packed by hand."""
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, HEIGHT), (279, len(packed))]
    body = packed + bytes(len(packed) % 2)
    directory = np.array([(tag, 4, 1, value) for tag, value in tags], "<u2, <u2, <u4, <u4")
    start = np.array([8 + len(body)], "<u4").tobytes()
    count = np.array([len(tags)], "<u2").tobytes()
    return b"II*\0" + start + body + count + directory.tobytes() + bytes(4)


def pam(pixels: np.ndarray, kind: str, top: int) -> bytes:
    head = f"P7\nWIDTH {WIDTH}\nHEIGHT {HEIGHT}\nDEPTH {pixels.shape[2]}\n"
    wide = pixels.astype(">u2") if top > 255 else pixels
    return f"{head}MAXVAL {top}\nTUPLTYPE {kind}\nENDHDR\n".encode() + wide.tobytes()


def test_portable_maps_of_every_sort(tmp_path):
    rgb, deep = picture(), picture(4, 16)
    text = " ".join(map(str, rgb.ravel()))
    seven = rgb.astype(int) * 7 // 255
    head = f"{WIDTH} {HEIGHT}"
    cases = {
        "a.ppm": (f"P3\n# made by hand\n{head}\n255\n{text}\n".encode(), rgb * 257.0),
        "b.ppm": (
            f"P6 {head} 65535\n".encode() + deep[..., :3].astype(">u2").tobytes(),
            deep[..., :3],
        ),
        "c.ppm": (
            f"P6 {head} 7\n".encode() + seven.astype(np.uint8).tobytes(),
            np.rint(seven * 255 / 7) * 257,
        ),
        "d.pgm": (
            f"P5 {head} 65535\n".encode() + deep[..., 0].astype(">u2").tobytes(),
            grey(deep[..., 0]),
        ),
        "e.pam": (pam(picture(4), "RGB_ALPHA", 255), on_black(picture(4)) * 257.0),
        "f.pam": (pam(deep, "RGB_ALPHA", 65535), on_black(deep)),
        "g.pam": (pam(rgb, "RGB", 255), rgb * 257.0),
    }
    frames = read(tmp_path, {name: data for name, (data, _) in cases.items()})
    for name, (_, expected) in cases.items():
        off = {"c.ppm": 257, "e.pam": 128}.get(name, 1)  # of 7 levels, and blended in 16 bits
        assert apart(frames[name], expected) <= off, name


def test_sixteen_bits_of_jpeg_2000_and_dpx_are_kept(tmp_path):
    rgb = picture(3, 16)
    light = rgb[..., 0]
    write_image(tmp_path / "a.j2k", rgb, "jpeg2000", "rgb48le", {"pred": "dwt53"})
    write_image(tmp_path / "b.dpx", rgb, "dpx", "rgb48be")
    files = {name: (tmp_path / name).read_bytes() for name in ("a.j2k", "b.dpx")}
    files["c.jp2"] = saved(Image.fromarray(light), "JPEG2000")
    frames = read(tmp_path, files)
    expected = {"a.j2k": rgb, "b.dpx": rgb, "c.jp2": grey(light)}
    assert {name: apart(frames[name], expected[name]) for name in files} == dict.fromkeys(files, 0)


def test_what_is_coded_as_luma_and_chroma_is_what_pillow_makes_of_it(tmp_path):
    files = {
        f"{mode}.jpg": saved(RGB.convert(mode), "JPEG", quality=95, subsampling=0)
        for mode in ("RGB", "L", "CMYK", "YCbCr")
    }
    files["a.jp2"] = saved(RGB.convert("YCbCr"), "JPEG2000")
    for name, frame in read(tmp_path, files).items():
        off = np.abs(frame.image.astype(int) - by_pillow(files[name]))
        # Two inverse transforms and ways from YCbCr, times black.
        assert off.max() <= 3 + (name == "CMYK.jpg"), name


def test_an_avif_keeps_its_bits_its_transparency_and_its_colours(tmp_path):
    plain = {"quality": 100, "subsampling": "4:4:4"}
    files = {"a.avif": saved(RGB, "AVIF", **plain), "b.avif": saved(RGBA, "AVIF", **plain)}
    frames = read(tmp_path, files)
    for name, expected in (("a.avif", picture()), ("b.avif", on_black(picture(4)))):
        assert apart(frames[name], expected) <= 3 * 257, name  # rounded to YCbCr, and coded
        assert np.abs(frames[name].image.astype(int) - by_pillow(files[name])).max() <= 1
    assert [probe(tmp_path / name).alpha for name in files] == [False, True]
    colour = probe(tmp_path / "a.avif").colour
    assert (colour.primaries, colour.transfer) == (1, 13)  # sRGB, as Pillow tags it


def test_an_avif_of_ten_bits_keeps_them(tmp_path):
    ramp = np.tile(np.linspace(64, 940, 96).round().astype(np.uint16), (64, 1))
    planes = np.concatenate([ramp, np.full((32, 96), 512, np.uint16)])
    clip = Clip(
        codec="libsvtav1",
        pix_fmt="yuv420p10le",
        size=(64, 96),
        container="avif",
        options={"crf": "1"},
        time_base=Fraction(1, 25),
        pts=[0],
        colour=(9, 1, 9, 16),
        image=lambda index, height, width: planes,
    )
    clip.write(tmp_path / "a.avif")
    info, frame = probe(tmp_path / "a.avif"), read_one(tmp_path / "a.avif")
    assert (info.images, info.depth, info.hdr) == (True, 10, "PQ")
    exact = (ramp.astype(float) - 64) / 876 * 65535
    assert np.abs(frame.deep - exact[..., None]).mean() <= 2 * 75  # of 75 a step of ten bits


def read_one(path: Path) -> SourceFrame:
    with FileSource(path, depth=16) as source:
        (frame,) = source
    return frame


def test_further_lossless_kinds(tmp_path):
    write_image(tmp_path / "a.jls", picture(), "jpegls", "rgb24")
    write_image(tmp_path / "b.qoi", picture(4), "qoi", "rgba")
    write_image(tmp_path / "c.ras", picture(), "sunrast", "bgr24")
    files = {name: (tmp_path / name).read_bytes() for name in ("a.jls", "b.qoi", "c.ras")}
    files["d.psd"] = psd(picture())
    frames = read(tmp_path, files)
    np.testing.assert_array_equal(frames["a.jls"].image, picture())
    np.testing.assert_array_equal(frames["b.qoi"].image, on_black(picture(4)))
    np.testing.assert_array_equal(frames["c.ras"].image, picture()[..., ::-1])
    np.testing.assert_array_equal(frames["d.psd"].image, picture())
    np.testing.assert_array_equal(by_libav(files["d.psd"], "psd"), picture())


def psd(rgb: np.ndarray) -> bytes:
    """A flat Photoshop file, made by hand."""
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, HEIGHT, WIDTH, 8, 3)
    return head + bytes(12) + bytes(2) + np.moveaxis(rgb, 2, 0).tobytes()


def test_single_colours_of_a_png_may_be_transparent(tmp_path):
    told = {
        "0.png": ("bits", 0),
        "1.png": ("bits", 1),
        "2.png": ("palette", bytes(range(200))),
        "3.png": ("palette-of-16", bytes(range(0, 256, 16))),
        "4.png": ("palette-of-4", b"\0\x80"),
        "5.png": ("grey", 100),
        "6.png": ("rgb", (0, 0, 0)),
    }
    files = {
        name: saved(FORMS[form], "PNG", transparency=clear) for name, (form, clear) in told.items()
    }
    for name, frame in read(tmp_path, files).items():
        np.testing.assert_array_equal(frame.image, by_pillow(files[name]), name)
    assert all(probe(tmp_path / name).alpha for name in ("0.png", "2.png"))
