"""Frames of 16 bits: what is left of them in each deep format."""

from dataclasses import replace

import numpy as np
import pytest

from streamdiffvsr.runtime.media.formats import choose_format
from streamdiffvsr.runtime.media.join import join
from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.runtime.media.video_encoder_child import RgbFrame
from streamdiffvsr.runtime.media.writer import SegmentWriter
from streamdiffvsr.tests.media.clips import Clip, see

SIZE = (64, 96)
KR_KB = {6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def patches() -> np.ndarray:
    """(H, W, 3) uint16: flat patches, so that no chroma is mixed."""
    colours = np.random.default_rng(3).integers(6000, 60000, (2, 6, 3))
    return np.repeat(np.repeat(colours, 32, axis=0), 16, axis=1).astype(np.uint16)


def ramp() -> np.ndarray:
    """(H, W, 3) uint16: every step between values that differ in 10 and 12 bits."""
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE)
    return np.stack([values, values[::-1], 65535 - values], axis=-1).astype(np.uint16)


def through(tmp_path, image, depth, tags, **asked):
    """The frame of a joined file that was made of one deep image."""
    clip = Clip(pts=[0], colour=tags).write(tmp_path / "clip.mp4")
    info = replace(probe(clip), depth=depth)
    output = tmp_path / "out.mkv"
    format = choose_format(output, info=info, size=SIZE, **asked)
    with SegmentWriter(tmp_path, size=SIZE, like=info, format=format) as writer:
        writer.begin("part")
        writer.write(image, 0, duration=1001)
    entries = [(tmp_path, segment) for segment in writer.finished()]
    join(entries, output, like=info, format=format)
    return see(output).images[0]


def expected(rgb, matrix, full):
    """10-bit Y, Cb, Cr by the formulas of H.273."""
    kr, kb = KR_KB[matrix]
    r, g, b = np.moveaxis(rgb / 65535, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    if full:
        return y * 1023, cb * 1023 + 512, cr * 1023 + 512
    return (y * 219 + 16) * 4, (cb * 224 + 128) * 4, (cr * 224 + 128) * 4


def planes(frame):
    return [
        np.frombuffer(memoryview(p), "<u2").reshape(p.height, -1)[:, : p.width]
        for p in frame.planes
    ]


@pytest.mark.parametrize(("matrix", "sws", "full"), [(6, 5, False), (9, 9, False), (9, 9, True)])
@pytest.mark.parametrize("width", [96, 90])  # rows with and without padding
def test_what_the_encoder_gets_is_that_of_the_formula(matrix, sws, full, width):
    image = patches()[:, :width]
    image[:4, :4], image[:4, 4:8] = 0, 65535
    rgb = RgbFrame(image.shape[:2], deep=True)
    pixels = rgb.memory(image.nbytes).cast("B")
    pixels[: image.nbytes] = image.tobytes()
    rgb.take(pixels)
    frame = rgb.converted("yuv444p10le", sws, 2 if full else 1)
    for plane, right in zip(planes(frame), expected(image, matrix, full), strict=True):
        assert np.abs(plane - np.minimum(right, 1023)).max() <= (1.2 if full else 0.8)


@pytest.mark.parametrize(
    ("tags", "asked"),
    [
        ((9, 1, 9, 16), {"crf": 1, "preset": "ultrafast"}),
        pytest.param((6, 2, 6, 6), {"codec": "h264", "crf": 1}, marks=pytest.mark.slow),
        pytest.param((9, 1, 9, 16), {"codec": "av1", "crf": 1}, marks=pytest.mark.slow),
        pytest.param((9, 1, 9, 18), {"codec": "prores"}, marks=pytest.mark.slow),
    ],
)
def test_ten_bits_come_out_as_they_are_tagged(tmp_path, tags, asked):
    image = patches()
    frame = through(tmp_path, image, 10, tags, **asked)
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == tags
    assert frame.format.components[0].bits == 10
    centres = np.ix_(np.arange(16, 64, 32), np.arange(8, 96, 16))
    for plane, right in zip(planes(frame), expected(image, tags[0], tags[1] == 2), strict=True):
        rows, columns = SIZE[0] // plane.shape[0], SIZE[1] // plane.shape[1]
        got = np.repeat(np.repeat(plane, rows, axis=0), columns, axis=1)
        assert np.abs(got[centres].astype(float) - right[centres]).max() <= 3  # of the codec


@pytest.mark.parametrize(("depth", "bits"), [(10, 10), (12, 12), (16, 16)])
def test_ffv1_keeps_every_bit_of_the_depth(tmp_path, depth, bits):
    image = ramp()
    frame = through(tmp_path, image, depth, None, codec="ffv1")
    assert frame.format.name == f"gbrp{bits}le"
    green, blue, red = planes(frame)
    got = np.stack([red, green, blue], axis=-1)
    largest = (1 << bits) - 1
    np.testing.assert_array_equal(got, np.round(image.astype(float) * largest / 65535))
