"""Pictures that are stored turned or mirrored, against the matrix itself: players differ."""

import itertools
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from streamdiffvsr.runtime.files.inputs import InOut
from streamdiffvsr.runtime.files.job import FileOptions
from streamdiffvsr.runtime.files.job_report import inspect_job, policies
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.source import LiveSource
from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.tests.media.clips import Clip

ONE = 1 << 16
# Right and down of what is stored, as shown: the rows of the matrix.
UPRIGHT = {
    "as_is": (1, 0, 0, 1),
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "half_turn": (-1, 0, 0, -1),
    "clockwise": (0, 1, -1, 0),
    "counterclockwise": (0, -1, 1, 0),
    "transpose": (0, 1, 1, 0),
    "transverse": (0, -1, -1, 0),
}
LOSSLESS = {"qp": "0", "bf": "0"}


def corners(index: int, height: int, width: int) -> np.ndarray:
    """Another brightness in each corner."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, width // 2 :] = 80
    image[height // 2 :, : width // 2] = 160
    image[height // 2 :, width // 2 :] = 240
    return image


STORED = corners(0, 48, 64)
FRAMES = Clip(pts=[0, 1001, 2002], options=LOSSLESS, image=corners)


def matrix(rows, scale: float = 1) -> list[int]:
    a, b, c, d = (round(ONE * scale * one) for one in rows)
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


def shown(stored: np.ndarray, rows) -> np.ndarray:
    """Each pixel at the place to which the matrix takes it."""
    a, b, c, d = rows
    height, width = stored.shape[:2]
    places = {
        (y, x): (b * x + d * y, a * x + c * y)
        for y, x in itertools.product(range(height), range(width))
    }
    top, left = (min(place[axis] for place in places.values()) for axis in (0, 1))
    image = np.zeros((width, height, 3) if b else stored.shape, np.uint8)
    for (y, x), (row, column) in places.items():
        image[row - top, column - left] = stored[y, x]
    return image


def assert_shown(path: Path, expected: np.ndarray) -> None:
    with FileSource(path, depth=16) as source:
        frames = list(source)
    assert source.info.size == expected.shape[:2]
    assert len(frames) == 3
    for frame in frames:
        np.testing.assert_allclose(frame.image, expected, atol=1)
        np.testing.assert_allclose(frame.deep // 257, expected, atol=1)


@pytest.mark.parametrize(
    ("name", "ending"), list(zip(UPRIGHT, itertools.cycle(["mp4", "mov"]), strict=False))
)
def test_each_orientation_is_shown_as_its_matrix_says(tmp_path, name, ending):
    rows = UPRIGHT[name]
    clip = replace(FRAMES, matrix=matrix(rows), sample_aspect=Fraction(4, 3))
    path = clip.write(tmp_path / f"{name}.{ending}")
    assert_shown(path, shown(STORED, rows))
    with FileSource(path) as source:
        assert source.info.sample_aspect == (Fraction(3, 4) if rows[1] else Fraction(4, 3))
        assert not source.info.skewed


@pytest.mark.parametrize("name", ["hflip", "clockwise"])
def test_matroska_tells_it_as_a_projection(tmp_path, name):
    path = replace(FRAMES, matrix=matrix(UPRIGHT[name])).write(tmp_path / "projected.mkv")
    assert_shown(path, shown(STORED, UPRIGHT[name]))


def test_the_matrix_of_the_movie_counts_too(tmp_path):
    path = FRAMES.write(tmp_path / "movie.mp4")
    whole = bytearray(path.read_bytes())
    place = whole.index(b"mvhd") + 4 + 36
    whole[place : place + 36] = np.array(matrix(UPRIGHT["vflip"]), ">i4").tobytes()
    path.write_bytes(whole)
    assert_shown(path, shown(STORED, UPRIGHT["vflip"]))


def test_h264_tells_it_by_itself(tmp_path):
    path = tmp_path / "told.h264"
    with av.open(str(FRAMES.write(tmp_path / "plain.h264"))) as plain:
        told = BitStreamFilterContext(
            "h264_metadata=display_orientation=insert:rotate=0:flip=vertical",
            plain.streams.video[0],
        )
        packets = [made for packet in plain.demux() for made in told.filter(packet)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    assert_shown(path, shown(STORED, UPRIGHT["vflip"]))


@pytest.mark.parametrize(
    ("rows", "skewed"),
    [
        ((0.7071, 0.7071, -0.7071, 0.7071), True),  # an eighth of a turn
        ((-0.7071, 0.7071, 0.7071, 0.7071), True),
        ((1, 0, 0.9, -1), False),  # a mirror that slants
        ((0, 0, 0, 0), False),
    ],
)
def test_what_is_no_upright_orientation_is_left_as_it_is_stored(tmp_path, rows, skewed):
    path = replace(FRAMES, matrix=matrix(rows)).write(tmp_path / "odd.mp4")
    assert_shown(path, STORED)
    seen = inspect_job(InOut(path, tmp_path / "out.mkv"), FileOptions())
    assert any("shown at an angle" in line for line in policies(seen)) == skewed


def test_a_scaled_mirror_with_a_slight_lean_is_a_mirror(tmp_path):
    path = replace(FRAMES, matrix=matrix((0.01, 1, 1, 0.02), scale=0.5)).write(tmp_path / "odd.mp4")
    assert_shown(path, shown(STORED, UPRIGHT["transpose"]))


def test_a_live_source_shows_it_alike(tmp_path):
    path = replace(FRAMES, matrix=matrix(UPRIGHT["transverse"])).write(tmp_path / "mirrored.mp4")
    with closing(LiveSource(parse_source(str(path)))) as source:
        frame = source.newest(timeout_s=30)
    np.testing.assert_allclose(frame.image, shown(STORED, UPRIGHT["transverse"]), atol=1)
