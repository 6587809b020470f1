"""Scene cuts: what is one, and what only looks like one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from streamdiffvsr.runtime.frame_stream import CutDetector, explained, likeness, thumbnail_of
from streamdiffvsr.tests.live.stand_ins import picture

SIZE = (180, 320)


def told(*frames: np.ndarray) -> list[bool]:
    detector = CutDetector()
    return [detector.is_cut(frame) for frame in frames]


def scaled(image: np.ndarray, gain: float, offset: float = 0.0) -> np.ndarray:
    return (image * gain + offset).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(720, 1280), SIZE, (48, 64), (17, 33), (16, 16)])
def test_another_scene_is_a_cut_at_any_size(size: tuple[int, int]) -> None:
    one, other = picture(1, size), picture(2, size)
    assert told(one, one, other, other, one) == [False, False, True, False, True]


def test_a_fast_pan_is_none() -> None:
    wide = picture(1, (SIZE[0], 3 * SIZE[1]))
    step = SIZE[1] // 8
    assert not any(told(*(wide[:, at : at + SIZE[1]] for at in range(0, 2 * SIZE[1], step))))


def test_a_flash_and_a_fade_are_none() -> None:
    image = picture(1, SIZE)
    white, black = np.full_like(image, 255), np.zeros_like(image)
    assert not any(told(image, scaled(image, 0.5, 120), image, white, image))
    assert not any(told(image, *(scaled(image, gain) for gain in (0.6, 0.3, 0.1)), black, image))


def test_another_scene_behind_black_is_a_cut() -> None:
    one, other = picture(1, SIZE), picture(2, SIZE)
    assert told(one, np.zeros_like(one), np.zeros_like(one), other)[-1]


def test_a_noisy_camera_is_none() -> None:
    rng = np.random.default_rng(0)
    dark = scaled(picture(1, SIZE), 0.3)
    frames = [(dark + rng.normal(0, 8, dark.shape)).clip(0, 255).astype(np.uint8) for _ in range(9)]
    assert not any(told(*frames))


def test_a_covered_lens_is_none() -> None:
    """Noise alone is no scene, though no frame of it is like another."""
    rng = np.random.default_rng(0)
    frames = [rng.normal(10, 8, (90, 160, 3)).clip(0, 255).astype(np.uint8) for _ in range(9)]
    assert not any(told(*frames))


def test_something_around_an_empty_middle_is_none() -> None:
    """There is nothing to look for in the next frame, and so nothing that is missed there."""
    image = picture(1, SIZE)
    image[30:150, 50:270] = 0
    assert not any(told(image, image, np.roll(image, 4, axis=1), image))


def test_things_that_move_apart_are_none() -> None:
    """The whole frames are half alike: each quarter of the picture goes its own way."""
    image, step = picture(3, SIZE), 18
    frames = [image]
    for _ in range(4):
        last, moved = frames[-1], frames[-1].copy()
        half = SIZE[0] // 2
        moved[:half] = np.roll(last[:half], step, axis=1)
        moved[half:] = np.roll(last[half:], -step, axis=1)
        frames.append(moved)
    thumbnails = [thumbnail_of(frame) for frame in frames]
    assert max(likeness(a, b) for a, b in pairwise(thumbnails)) < 0.7
    assert min(explained(a, b) for a, b in pairwise(thumbnails)) > 0.8
    assert not any(told(*frames))


def test_a_new_epoch_begins_with_nothing() -> None:
    detector = CutDetector()
    detector.is_cut(picture(1))
    detector.reset()
    assert not detector.is_cut(picture(2))
