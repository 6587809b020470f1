"""More than 8 bits, transparency and HDR: every number that comes out is what a formula gives."""

import av
import numpy as np
import pytest

from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.media.clips import Clip, write_image
from streamdiffvsr.tests.media.patches import PATCHES, patch_colours, yuv_planes

PQ_TAGS = (9, 1, 9, 16)  # matrix, range, primaries, transfer


def ffv1(pix_fmt, image, **more) -> Clip:
    return Clip(
        size=(48, 96), pts=[0], codec="ffv1", options={}, pix_fmt=pix_fmt, image=image, **more
    )


def only_frame(path, depth=16):
    with FileSource(path, depth=depth) as source:
        (frame,) = source
    return source.info, frame


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (9, False), (9, True)])
def test_ten_bits_are_kept(tmp_path, matrix, full):
    clip = ffv1(
        "yuv420p10le",
        lambda index, h, w: yuv_planes(matrix, full, h, w, bits=10),
        colour=(matrix, 2 if full else 1, matrix, 1),
    )
    info, frame = only_frame(clip.write(tmp_path / "deep.mkv"))
    assert info.depth == 10
    assert (frame.deep.dtype, frame.deep.shape) == (np.uint16, (48, 96, 3))
    # Half a step of luma and half a step of chroma times its weight: less than half of 8 bits' 257.
    rounding = 65535 * (0.5 / 876 + 0.5 / 896 * 1.8814) + 6
    assert np.abs(patch_colours(frame.deep) - np.array(PATCHES) * 257).max() <= rounding
    assert np.abs(patch_colours(frame.image) - PATCHES).max() <= 1


def test_white_is_the_largest_number_and_a_ramp_keeps_all_its_steps(tmp_path):
    ramp = np.arange(64, 944, 10, dtype=np.uint16)  # 10 bits, limited: 64 is black, 940 white
    luma = np.tile(np.append(ramp[:87], np.full(9, 940, np.uint16)), (48, 1))
    neutral = np.full((24, 96), 512, np.uint16)
    planes = np.concatenate([luma, neutral])
    path = ffv1("yuv420p10le", lambda index, h, w: planes, colour=(1, 1, 1, 1)).write(
        tmp_path / "ramp.mkv"
    )
    _, frame = only_frame(path)
    expected = np.rint((luma.astype(float) - 64) / 876 * 65535)
    assert np.abs(frame.deep.astype(int) - expected[..., None]).max() <= 6
    assert (frame.deep[:, -9:] == 65535).all()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_the_image_is_the_same_at_both_depths(tmp_path, pix_fmt):
    bits = 10 if pix_fmt.endswith("10le") else 8
    path = ffv1(pix_fmt, lambda index, h, w: yuv_planes(1, False, h, w, bits=bits)).write(
        tmp_path / "clip.mkv"
    )
    _, shallow = only_frame(path, depth=8)
    _, deep = only_frame(path, depth=16)
    assert shallow.deep is None
    np.testing.assert_array_equal(shallow.image, deep.image)
    assert np.abs(deep.deep.astype(int) - 257 * deep.image.astype(int)).max() <= 257


def test_eight_bits_are_spread_over_sixteen(tmp_path):
    path = ffv1("bgr0", lambda index, h, w: gradient(h, w)).write(tmp_path / "rgb.mkv")
    info, frame = only_frame(path)
    assert info.depth == 8
    np.testing.assert_array_equal(frame.deep, frame.image.astype(np.uint16) * 257)


def test_rgb_of_many_bits_is_not_sent_through_yuv(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (48, 96, 3), dtype=np.uint16)
    path = write_planar_rgb(tmp_path / "rgb.mkv", pixels)
    info, frame = only_frame(path)
    assert (info.depth, info.pix_fmt) == (16, "gbrp16le")
    np.testing.assert_array_equal(frame.deep, pixels)
    np.testing.assert_array_equal(frame.image, np.rint(pixels / 257))


def test_hdr_comes_through_unmapped_and_is_told(tmp_path):
    clip = ffv1(
        "yuv420p10le", lambda index, h, w: yuv_planes(9, False, h, w, bits=10), colour=PQ_TAGS
    )
    info, frame = only_frame(clip.write(tmp_path / "pq.mkv"))
    assert (info.hdr, info.colour.primaries) == ("PQ", 9)
    assert np.abs(patch_colours(frame.image) - PATCHES).max() <= 1  # the code values, unmapped
    clip.colour = (9, 1, 9, 18)
    assert probe(clip.write(tmp_path / "hlg.mkv")).hdr == "HLG"
    clip.colour = (9, 1, 9, 14)
    assert probe(clip.write(tmp_path / "sdr.mkv")).hdr == ""


def test_grey_of_limited_range_is_stretched_like_any_other(tmp_path):
    luma = np.tile(np.linspace(16, 235, 96).round().astype(np.uint8), (48, 1))
    path = ffv1("gray", lambda index, h, w: luma, colour=(1, 1, 1, 1)).write(tmp_path / "grey.mkv")
    _, frame = only_frame(path)
    expected = np.rint((luma.astype(float) - 16) / 219 * 255)
    assert np.abs(frame.image.astype(int) - expected[..., None]).max() <= 1


def test_what_is_transparent_is_on_black(tmp_path):
    colour, alpha = gradient(48, 96), np.tile(np.linspace(0, 255, 96).round(), (48, 1))
    pixels = np.dstack([colour, alpha]).astype(np.uint8)
    path = write_with_alpha(tmp_path / "alpha.mov", pixels, "qtrle", "argb")
    info, frame = only_frame(path)
    expected = colour * (alpha[..., None] / 255)
    assert info.alpha
    assert np.abs(frame.image - expected).max() <= 0.5
    assert np.abs(frame.deep - expected * 257).max() <= 0.51


def test_an_opaque_format_with_room_for_transparency_is_not_called_transparent(tmp_path):
    pixels = np.dstack([gradient(48, 96), np.full((48, 96), 255, np.uint8)])
    path = write_with_alpha(tmp_path / "opaque.mov", pixels, "qtrle", "argb")
    info, frame = only_frame(path)
    assert not info.alpha
    np.testing.assert_array_equal(frame.image, pixels[..., :3])


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_beside_the_picture_of_webm_counts_too(tmp_path, codec):
    pixels = np.full((48, 96, 4), (200, 120, 60, 255), np.uint8)
    pixels[:, :48, 3] = 128
    path = write_with_alpha(
        tmp_path / "alpha.webm",
        pixels,
        codec,
        "yuva420p",
        {"crf": "4", "b": "4M", "auto-alt-ref": "0"},
    )
    info, frame = only_frame(path)
    assert info.alpha
    assert np.abs(frame.image[24, 80].astype(int) - (200, 120, 60)).max() <= 4
    assert np.abs(frame.image[24, 10].astype(int) - (100, 60, 30)).max() <= 4


def test_sixteen_bits_of_transparency_are_on_black_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (48, 96, 4), dtype=np.uint16)
    path = write_image(tmp_path / "alpha.png", pixels, "png", "rgba64be")
    info, frame = only_frame(path)
    wide = pixels.astype(float)
    assert info.alpha
    assert np.abs(frame.deep - wide[..., :3] * wide[..., 3:] / 65535).max() <= 0.51


def gradient(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(255, 0, width)
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = 77
    return image


def write_planar_rgb(path, pixels):
    """(h, w, 3) uint16 as FFV1 of 16 bits a component, each plane as it is."""
    height, width = pixels.shape[:2]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25, width=width, height=height, pix_fmt="gbrp16le")
        frame = av.VideoFrame(width, height, "gbrp16le")
        for plane, channel in zip(frame.planes, (1, 2, 0), strict=True):
            rows = np.zeros((height, plane.line_size // 2), "<u2")
            rows[:, :width] = pixels[..., channel]
            plane.update(rows.tobytes())
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def write_with_alpha(path, pixels, codec, pix_fmt, options=None):
    """One frame of (h, w, 4) uint8 RGB and transparency."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pix_fmt
        if codec.startswith("libvpx"):
            stream.metadata["alpha_mode"] = "1"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pix_fmt)
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return path
