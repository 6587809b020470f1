"""A part of a video: which frames, when, and with which sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.tests.files.doubles import Nearest
from streamdiffvsr.tests.files.films import film, pictures
from streamdiffvsr.tests.media.clips import see


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"bf": "2", "g": "40"}
    return film(tmp_path_factory.mktemp("film") / "in.mp4", 80, (50,), options=options)


def images(path: Path) -> list[np.ndarray]:
    with FileSource(path) as frames:
        return [frame.image for frame in frames]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(None, Fraction(1), marks=pytest.mark.slow),
        pytest.param(Fraction(5, 2), None, marks=pytest.mark.slow),
        (Fraction(1), Fraction(2)),
    ],
)
def test_frames_and_sound_between_two_times(
    tmp_path: Path, source: Path, start: Fraction | None, end: Fraction | None
) -> None:
    output = tmp_path / "out.mp4"
    report = upscale_file(source, output, Nearest(), FileOptions(start=start, end=end, crf=1))
    before, after = see(source), see(output)
    low, high = start or Fraction(0), end or Fraction(10**6)
    kept = [n for n, at in enumerate(before.times) if low <= at < high]
    assert report.frames == len(kept)
    shift = before.times[kept[0]]
    assert after.times == [before.times[n] - shift for n in kept]
    for made, index in zip(images(output), kept, strict=True):
        expected = images_of_source(source)[index].repeat(4, 0).repeat(4, 1)
        assert np.abs(made.astype(int) - expected).mean() < 2
    begin = shift if start else before.sounds[0][0][0]  # an encoder's priming is before zero
    wanted = [(at - shift, data) for at, data in before.sounds[0] if begin <= at < high]
    assert after.sounds[0] == wanted


_cache: dict[Path, list[np.ndarray]] = {}


def images_of_source(path: Path) -> list[np.ndarray]:
    return _cache.setdefault(path, images(path))


def test_no_frame_at_those_times_is_told(tmp_path: Path, source: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="no frame at the times asked for"):
        upscale_file(source, tmp_path / "out.mp4", Nearest(), FileOptions(start=Fraction(100)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_trimmed_run_is_resumed(tmp_path: Path, source: Path) -> None:
    options = FileOptions(start=Fraction(1), crf=30)
    whole = tmp_path / "whole.mp4"
    upscale_file(source, whole, Nearest(), options)

    def fail(done: int, total: int | None) -> None:
        if done == 45:
            raise StreamDiffVSRError("stopped")

    output = tmp_path / "out.mp4"
    with pytest.raises(StreamDiffVSRError, match="finished frames are kept"):
        upscale_file(source, output, Nearest(), options, progress=fail)
    again = FileOptions(start=Fraction(1), crf=30, resume=True)
    assert upscale_file(source, output, Nearest(), again).resumed_at > 0
    assert pictures(output) == pictures(whole)
    assert see(output).sounds == see(whole).sounds
