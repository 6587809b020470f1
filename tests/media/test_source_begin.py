"""Beginning in the middle of a file: never late, with the very frames of a run from the start."""

from fractions import Fraction

import numpy as np
import pytest

from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip

COUNT = 60
PTS = [k * 1001 for k in range(COUNT)]
UNEVEN = [base + 31001 * turn + 1001 * turn for turn in range(5) for base in VFR]
OPEN = "open-gop=1:b-pyramid=normal:scenecut=0:log=-1"  # what comes before a key frame needs both
X265 = "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0:log-level=none"
FAST = {"preset": "ultrafast", "bf": "3", "g": "12", "sc_threshold": "0"}


def busy(index: int, height: int, width: int) -> np.ndarray:
    """Noise that moves: a frame decoded from the wrong neighbours shows it."""
    tile = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    image = np.roll(tile.repeat(8, 0).repeat(8, 1), 3 * index, 1)
    image[5 * index % (height - 8) :][:8] = 37 * index % 256
    return image


KINDS = {
    "closed.mp4": Clip(pts=PTS, options=FAST),
    "open.mp4": Clip(pts=PTS, options={"bf": "3", "g": "12", "x264-params": OPEN}),
    "open.mkv": Clip(pts=PTS, options={"bf": "3", "g": "12", "x264-params": OPEN}),
    "open_h265.mp4": Clip(
        pts=PTS, codec="libx265", options={"preset": "ultrafast", "x265-params": X265}
    ),
    "uneven.mp4": Clip(pts=UNEVEN, options=FAST),
    "late.mp4": Clip(pts=[pts + 90000 for pts in PTS], options=FAST),
    "fragments.mp4": Clip(
        pts=PTS, options=FAST, container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "refreshed.mkv": Clip(
        pts=[k * 1001 for k in range(120)],
        options={"bf": "0", "g": "20", "x264-params": "intra-refresh=1:scenecut=0:log=-1"},
    ),
    "vp9.webm": Clip(
        pts=PTS, codec="libvpx-vp9", options={"g": "12", "cpu-used": "8", "deadline": "realtime"}
    ),
    "unindexed.ts": Clip(pts=PTS, options=FAST),
}


FEW = ("open.mp4", "open_h265.mp4", "unindexed.ts")  # the others last longer than they claim


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_frames_are_those_of_a_run_from_the_start(tmp_path, name):
    clip = KINDS[name]
    clip.size, clip.image = (64, 96), busy
    path = clip.write(tmp_path / name)
    with FileSource(path) as source:
        whole, info = list(source), source.info
    starts = [25, 35] if name in FEW else [1, 12, 25, 35, COUNT - 1]
    for start in [101] if name == "refreshed.mkv" else starts:
        begin = whole[start].seconds + (0.001 if start == 25 else 0)
        with FileSource(path, begin=begin) as source:
            part = list(source)
            assert (source.info, source.damaged) == (info, 0)
        assert part[0].seconds <= begin
        assert part[0].index == 0
        expected = whole[-len(part) :]
        assert [frame.pts for frame in part] == [frame.pts for frame in expected]
        assert [frame.duration for frame in part] == [frame.duration for frame in expected]
        for ours, theirs in zip(part, expected, strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)


def test_it_begins_with_the_last_frame_at_or_before_the_time(tmp_path):
    path = Clip(pts=PTS, options=FAST).write(tmp_path / "clip.mp4")
    for begin, first in ((1.0, 29), (0, 0), (-5, 0), (1e6, COUNT - 1)):
        with FileSource(path, begin=begin) as source:
            assert next(source).pts == PTS[first]


def test_a_beginning_before_the_first_frame_is_the_first_frame(tmp_path):
    path = Clip(pts=[pts + 90000 for pts in PTS], options=FAST).write(tmp_path / "clip.mp4")
    with FileSource(path, begin=1.0) as source:
        assert len(list(source)) == COUNT


@pytest.mark.parametrize("begin", [0.5, pytest.param(1.3, marks=pytest.mark.slow)])
def test_fields_have_their_neighbours_wherever_it_begins(tmp_path, begin):
    clip = Clip(
        size=(64, 96),
        pts=PTS,
        options={"qp": "0", "g": "6", "bf": "0", "x264-params": "interlaced=1:weightp=0:log=-1"},
        image=busy,
    )
    path = clip.write(tmp_path / "fields.mkv")
    with FileSource(path) as source:
        assert source.info.interlaced
        whole = list(source)
    with FileSource(path, begin=begin) as source:
        part = list(source)
    assert part[0].seconds <= begin
    for ours, theirs in zip(part, whole[-len(part) :], strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)


def test_times_that_are_missing_count_from_the_start_all_the_same(tmp_path):
    path = Clip(container="h264", pts=PTS, options=FAST).write(tmp_path / "raw.h264")
    with FileSource(path, begin=1.0) as source:
        assert [frame.pts * frame.time_base for frame in source] == [
            Fraction(k, 25) for k in range(25, COUNT)
        ]
    with FileSource(path, fps=1 / (1001 * NTSC), begin=1.0) as source:
        assert next(source).seconds == pytest.approx(29 * 1001 / 30000, abs=1e-6)


@pytest.mark.parametrize("ending", ["mkv", pytest.param("mp4", marks=pytest.mark.slow), "ts"])
def test_lost_pixels_are_made_up_for_alike_wherever_it_begins(tmp_path, ending):
    clip = Clip(pts=PTS, options={"preset": "ultrafast", "bf": "2", "g": "8"})
    data = bytearray(clip.write(tmp_path / f"whole.{ending}").read_bytes())
    for place in np.random.default_rng(3).integers(len(data) // 4, len(data), 24):
        data[place] ^= 0x10
    path = tmp_path / f"damaged.{ending}"
    path.write_bytes(data)
    with FileSource(path) as source:
        whole = list(source)
        assert source.damaged > 0
    for start in (len(whole) // 2, 2 * len(whole) // 3):
        with FileSource(path, begin=whole[start].seconds) as source:
            part = list(source)
        assert [frame.pts for frame in part] == [frame.pts for frame in whole[-len(part) :]]
        for ours, theirs in zip(part, whole[-len(part) :], strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)
