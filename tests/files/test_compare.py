"""The comparison: which frames are next to each other, when they are shown, and what is refused."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.files import compare as compare_module
from streamdiffvsr.runtime.files.compare import (
    GAP,
    check_comparison,
    compare,
    read_picture,
    write_png,
)
from streamdiffvsr.runtime.files.job import FileOptions, Job
from streamdiffvsr.tests.media.clips import NTSC, VFR, Clip, see

LOSSLESS = {"qp": "0", "preset": "ultrafast"}
SMALL, LARGE = (48, 64), (192, 256)
PICTURE = slice(60, 180)  # rows without labels


def flat(levels):
    """Frames of one grey each: its level by its index."""

    def planes(index, height, width):
        image = np.full((height * 3 // 2, width), 128, np.uint8)
        image[:height] = levels[index]
        return image

    return planes


def finished(folder: Path, before, after, pts=None, **options) -> Job:
    """A job whose input and output show the given greys."""
    times = pts or [i * 1001 for i in range(len(before))]
    Clip(SMALL, times, options=LOSSLESS, image=flat(before), sounds=[("aac", 48000)]).write(
        folder / "in.mp4"
    )
    Clip(LARGE, times[: len(after)], options=LOSSLESS, image=flat(after)).write(folder / "out.mp4")
    return Job.of(folder / "in.mp4", folder / "out.mp4", FileOptions(**options))


def halves(video: Path) -> list[tuple[int, int]]:
    """The grey of each half of each frame, as it was encoded."""
    frames = [frame.to_ndarray()[PICTURE] for frame in see(video).images]
    width = see(video).images[0].width
    quarter = width // 4
    return [(int(f[:, quarter].mean()), int(f[:, width - quarter].mean())) for f in frames]


def test_side_by_side_has_both_pictures_at_the_real_times(tmp_path):
    job = finished(tmp_path, range(40, 52), range(140, 152), pts=VFR)
    made = compare(job, tmp_path / "seen.mp4", frames=12)
    after = see(made.video)
    assert after.times == [pts * NTSC for pts in VFR]
    assert after.sounds == [] and made.frames == 12
    assert (after.images[0].height, after.images[0].width) == (192, 512)
    for index, (left, right) in enumerate(halves(made.video)):
        assert abs(left - 40 - index) <= 1 and abs(right - 140 - index) <= 1


def test_a_split_picture_has_a_line_and_both_names(tmp_path):
    job = finished(tmp_path, [60, 60], [180, 180])
    made = compare(job, tmp_path / "seen.mkv", mode="split", frames=2)
    picture = see(made.video).images[1].to_ndarray(format="rgb24").astype(int)
    assert picture.shape == (192, 256, 3)
    low, high = picture[150, 20], picture[150, 236]
    assert low.max() < 80 and high.min() > 160
    line = picture[150, 127]
    assert line[0] - line[2] > 80, "yellow"
    for corner, ground in ((picture[:20, :60], low), (picture[:20, -60:], high)):
        assert np.abs(corner - ground).max() > 60, "a name is written there"


def test_a_part_is_compared_with_the_frames_it_was_made_of(tmp_path):
    job = finished(
        tmp_path, range(40, 100, 3), [140, 141, 142], start=Fraction(15 * 1001, 60000), max_frames=3
    )
    made = compare(job, tmp_path / "seen.mp4", frames=3)
    assert made.frames == 3, "from the first frame behind the middle of the eighth"
    for index, (left, right) in enumerate(halves(made.video)):
        assert abs(left - 64 - 3 * index) <= 1 and abs(right - 140 - index) <= 1


def test_the_sheet_shows_frames_spread_over_the_video(tmp_path):
    job = finished(tmp_path, [50] * 40, range(100, 180, 2))
    made = compare(job, tmp_path / "seen.mp4", frames=40)
    sheet = read_picture(made.sheet)
    assert made.sheet == tmp_path / "seen.png"
    assert sheet.shape[1] == 2 * 256 + 3 * GAP and sheet.shape[0] % 4 == 0
    rows = np.split(sheet, 4)
    seen = [int(np.median(row[60:180, 2 * GAP + 256 : -GAP])) for row in rows]
    steps = np.diff(seen)
    assert (abs(steps - steps.mean()) <= 2).all() and steps.mean() > 15, "ten frames apart"


def test_the_sheet_names_times_in_the_input(tmp_path, monkeypatch):
    captions = []
    drawn = compare_module._row
    monkeypatch.setattr(compare_module, "_row", lambda *row: captions.append(row[2]) or drawn(*row))
    start = Fraction(61)  # of frames of 1001/30000 s: the first from there on is number 1829
    times = [i * 1001 for i in (0, 1, *range(1829, 1833))]
    job = finished(tmp_path, [50] * 6, [150] * 4, pts=times, start=start)
    compare(job, tmp_path / "seen.mp4", frames=4)
    assert captions == [
        *("frame 0, 0:01:01.03", "frame 1, 0:01:01.06"),
        *("frame 2, 0:01:01.09", "frame 3, 0:01:01.13"),
    ]


def test_of_a_short_video_the_sheet_shows_what_there_is(tmp_path):
    job = finished(tmp_path, [50], [150])
    sheet = read_picture(compare(job, tmp_path / "seen.mp4", frames=1).sheet)
    assert sheet.shape[1] == 2 * 256 + 3 * GAP


def test_what_cannot_be_written_is_told_before_the_work(tmp_path):
    job = finished(tmp_path, [50], [150])
    for name, told in (
        ("out.mp4", "the output itself"),
        ("in.mp4", "the input file itself"),
        ("seen.gif", "use one of"),
        ("seen.webm", "no H.264 file is written with the ending '.webm'"),
        ("no/seen.mp4", "there is no folder"),
    ):
        again = replace(job, options=replace(job.options, overwrite=True))
        with pytest.raises(StreamDiffVSRError, match=told):
            check_comparison(again, tmp_path / name, mode="side")
    check_comparison(job, tmp_path / "seen.mp4", mode="side")
    for name in ("seen.png", "seen.mp4"):
        (tmp_path / name).touch()
        with pytest.raises(StreamDiffVSRError, match=f"{name}': .*already exists"):
            check_comparison(job, tmp_path / "seen.mp4", mode="side")
    wide = replace(job, info=replace(job.info, width=2560))
    with pytest.raises(StreamDiffVSRError, match="20480x192"):
        check_comparison(wide, tmp_path / "new.mp4", mode="side")
    check_comparison(wide, tmp_path / "new.mp4", mode="split")


def test_images_are_compared_at_the_times_of_the_video(tmp_path):
    job = finished(tmp_path, range(40, 52), [150], pts=VFR)
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(12):
        write_png(frames / f"{index:08}.png", np.full((192, 256, 3), 150, np.uint8))
    made = compare(replace(job, output=frames), tmp_path / "seen.mp4", frames=12)
    assert see(made.video).times == [pts * NTSC for pts in VFR]
