"""The corpus of generated files: each is read, upscaled and joined right, and is the same again.

CI runs as many as `COUNT` says; `STREAMDIFFVSR_CORPUS=200` runs more, and the files of one number
are the same whatever that is.
"""

import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.tests.files.corpus import checks
from streamdiffvsr.tests.files.corpus.containers import CONTAINERS, encoders_in
from streamdiffvsr.tests.files.corpus.pictures import (
    ORIENTATIONS,
    number_in,
    picture,
    shown,
    stored,
    woven,
)
from streamdiffvsr.tests.files.corpus.reader import Seen, SoundSeen
from streamdiffvsr.tests.files.corpus.recipes import recipe, recipes
from streamdiffvsr.tests.files.corpus.trying import faults_of

COUNT = int(os.environ.get("STREAMDIFFVSR_CORPUS", "60"))
SEED = 0

needs_ffmpeg = pytest.mark.skipif(
    not shutil.which("ffmpeg") or not shutil.which("ffprobe"), reason="ffmpeg is not installed"
)


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("number", range(COUNT))
def test_a_file_of_the_corpus_comes_through_whole(tmp_path: Path, number: int) -> None:
    made = recipe(SEED, number)
    faults = faults_of(made, tmp_path)
    assert not faults, "\n".join(map(str, [made, *faults]))


def test_a_file_is_the_same_whatever_is_asked_beside_it() -> None:
    assert recipes(7, 20) == recipes(7, 60)[:20]
    assert recipe(7, 11) == recipes(7, 60)[11]
    assert recipe(8, 11) != recipe(7, 11)


def test_what_ci_runs_has_every_container_and_200_have_every_encoder() -> None:
    few = {made.suffix for made in recipes(SEED, 60) if not made.still}
    assert few == {suffix for suffix in CONTAINERS if encoders_in(suffix)}
    every = {encoder for suffix in CONTAINERS for encoder in encoders_in(suffix)}
    assert every == {made.encoder for made in recipes(SEED, 200) if made.encoder}


def test_pictures_tell_their_number_and_whether_they_are_whole() -> None:
    for number in (0, 1, 41, 63):
        for height, width in ((16, 16), (17, 23), (48, 64), (192, 256)):
            upright = picture(number, height, width)
            assert number_in(upright) == number
            for matrix in ORIENTATIONS.values():
                turned = stored(upright, matrix)
                np.testing.assert_array_equal(shown(turned, matrix), upright)
                if matrix != ORIENTATIONS[1]:
                    assert number_in(turned) != number
    torn = np.concatenate([picture(3, 48, 64)[:24], picture(4, 48, 64)[24:]])
    assert number_in(torn) is None
    assert number_in(woven(2, 48, 64, "tff")) is None
    assert number_in(woven(2, 48, 64, "tff")[::2]) == 2
    assert number_in(woven(2, 48, 64, "bff")[1::2]) == 2


SEEN = Seen(
    times=[Fraction(k, 25) for k in range(3)],
    time_base=Fraction(1, 1000),
    end=Fraction(3, 25),
    length=0.12,
    size=(16, 24),
    aspect=Fraction(16, 15),
    pixel_format="yuv420p",
    matrix=None,
    colour=("unknown",) * 4,
    title="",
    sounds=[],
    codec="h264",
    alpha=False,
)
WANTED = checks.Expected(
    numbers=[0, 1, 2],
    times=[Fraction(k, 25) for k in range(3)],
    tick=Fraction(1, 1000),
    end=Fraction(3, 25),
    size=(16, 24),
    aspect=Fraction(16, 15),
    pixels=[picture(number, 16, 24) for number in range(3)],
    sounds=[],
)


def test_frames_that_are_lost_doubled_or_out_of_order_are_told() -> None:
    images = WANTED.pixels
    assert not checks.same_count("read", 3, WANTED) + checks.same_numbers("read", images, WANTED)
    assert checks.same_count("read", 2, WANTED)
    for wrong in (images[:2], images[:1] + images[:2], images[::-1], [i[:, ::-1] for i in images]):
        assert checks.same_numbers("read", wrong, WANTED)


def test_sizes_and_shapes_that_are_others_are_told() -> None:
    assert not checks.same_size("made", (64, 96), Fraction(16, 15), WANTED, scale=4)
    assert checks.same_size("made", (96, 64), Fraction(16, 15), WANTED, scale=4)
    assert checks.same_size("made", (64, 96), Fraction(15, 16), WANTED, scale=4)


def test_a_time_that_is_a_tick_off_is_told() -> None:
    times, tick = WANTED.times, Fraction(1, 1000)
    assert not checks.same_times("made", times, times, tick)
    for place in range(3):
        wrong = [at + (tick if n == place else 0) for n, at in enumerate(times)]
        assert checks.same_times("made", wrong, times, tick)
    third = [Fraction(k, 30) for k in range(3)]  # no whole number of milliseconds
    rounded = [Fraction(round(1000 * at), 1000) for at in third]
    assert not checks.same_times("made", rounded, third, tick)
    assert checks.same_times("read", rounded, third)
    assert checks.same_times("made", [*times[:2], times[1]], times)


def test_ends_and_lengths_that_are_others_are_told() -> None:
    end, tick = Fraction(3, 25), Fraction(1, 1000)
    assert not checks.same_end("made", end, end, tick)
    assert checks.same_end("made", end - Fraction(1, 25), end, tick)
    assert not checks.honest_length("made", SEEN, end)
    assert checks.honest_length("made", replace(SEEN, length=0.16), end)


def test_pixels_that_are_three_levels_off_are_told() -> None:
    right = [image.clip(0, 250) for image in WANTED.pixels]
    assert not checks.same_pixels("read", [image + 2 for image in right], right)
    wrong = [image.copy() for image in right]
    wrong[2][5, 7, 1] += 3
    assert "frame 2" in str(checks.same_pixels("read", wrong, right)[0])
    large = [image.repeat(4, 0).repeat(4, 1) for image in right]
    assert not checks.near_pixels("made", large, right)
    assert checks.near_pixels("made", [image[:, ::-1] for image in large], right)
    assert checks.near_pixels("made", [image // 8 * 7 for image in large], right)


def test_colours_that_are_tagged_otherwise_are_told() -> None:
    told = ("bt709", "tv", "bt709", "bt709")
    assert not checks.same_colour("made", told, told, 576)
    for place in range(4):
        wrong = [*told]
        wrong[place] = "bt2020"
        assert checks.same_colour("made", wrong, told, 576)
    untagged = ("unknown",) * 4
    assert not checks.same_colour(
        "made", ("smpte170m", "tv", "smpte170m", "smpte170m"), untagged, 576
    )
    assert checks.same_colour("made", told, untagged, 576)
    assert not checks.same_colour("made", ("bt709", "tv", "bt709", "bt709"), untagged, 720)


SOUND = SoundSeen(
    codec="aac",
    language="deu",
    time_base=Fraction(1, 48000),
    packets=[(Fraction(1024 * k, 48000), 100 + k, f"{k}") for k in range(4)],
    end=Fraction(4096, 48000),
)


def sound_faults(sounds: list[SoundSeen], same_bytes: bool = True) -> list[str]:
    told = checks.same_sounds(
        "made", sounds, [SOUND], Fraction(0), Fraction(1, 48000), [same_bytes] * len(sounds), True
    )
    return [fault.kind for fault in told]


def test_sounds_that_are_others_are_told() -> None:
    later = [(at + Fraction(2, 48000), size, digest) for at, size, digest in SOUND.packets]
    one_later = [*SOUND.packets[:2], later[2], *SOUND.packets[3:]]
    assert sound_faults([SOUND]) == []
    assert sound_faults([]) == ["sound"]
    assert sound_faults([SOUND, SOUND]) == ["sound"]
    assert sound_faults([SOUND], same_bytes=False) == ["sound bytes"]
    assert sound_faults([replace(SOUND, language="eng")]) == ["tags"]
    assert sound_faults([replace(SOUND, packets=SOUND.packets[:3])]) == ["sound packets"]
    assert sound_faults([replace(SOUND, packets=later)]) == ["sound times"]
    assert sound_faults([replace(SOUND, packets=one_later)]) == ["sound times"]
    assert sound_faults([replace(SOUND, end=Fraction(4000, 48000))]) == ["sound end"]


def test_plans_that_are_far_off_are_told() -> None:
    assert not checks.honest_plan(3, 0.12, Fraction(3, 25), WANTED)
    assert checks.honest_plan(12, 0.12, Fraction(3, 25), WANTED)
    assert checks.honest_plan(3, 36000.0, Fraction(3, 25), WANTED)
