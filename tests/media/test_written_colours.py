"""Tests what a player sees of the written file: colours, shape, every pixel."""

from fractions import Fraction

import numpy as np
import pytest

from streamdiffvsr.runtime.media.reader import probe
from streamdiffvsr.tests.media.clips import NTSC, Clip, see
from streamdiffvsr.tests.media.copying import copy, video

PATCHES = [
    (200, 30, 40),
    (40, 180, 60),
    (30, 50, 190),
    (128, 128, 128),
    (220, 200, 90),
    (16, 90, 140),
]

KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


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
    with video(tmp_path / "out.mp4", (lines, 96), like=probe(clip), crf=1) as writer:
        writer.write(patches(lines, 96), 0)
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
    with video(tmp_path / "out.mp4", size, time_base=NTSC, crf=0) as writer:
        writer.write(np.asfortranarray(image), 0)
    luma = see(tmp_path / "out.mp4").images[0].to_ndarray()[: size[0]]
    np.testing.assert_array_equal(luma > 128, image[..., 1] > 128)
