"""Noise is a pure function of (seed, frame index), standard normal, and the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from streamdiffvsr.runtime.upscaler import FrameNoise, frame_noise

SHAPE = (4, 90, 160)


def test_it_is_standard_normal() -> None:
    z = np.concatenate([frame_noise(0, i, SHAPE).ravel() for i in range(8)]).astype(np.float64)
    bound = 5 / np.sqrt(z.size)  # five standard errors
    assert abs(z.mean()) < bound
    assert abs(z.var() - 1) < 2 * bound
    assert abs((z**3).mean()) < 4 * bound
    assert abs((z**4).mean() - 3) < 10 * bound
    assert np.isfinite(z).all() and 4 < np.abs(z).max() < 6


def test_neither_pixels_nor_frames_nor_seeds_are_related() -> None:
    a, b, c = (frame_noise(*key, SHAPE).ravel() for key in ((0, 0), (0, 1), (1, 0)))
    bound = 5 / np.sqrt(a.size)
    half = a.size // 2  # the two values that one pair of random numbers gives
    for x, y in ((a, b), (a, c), (b, c), (a[:-1], a[1:]), (a[:half], a[half:])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 2 * bound


def test_the_same_key_gives_the_same_bits() -> None:
    np.testing.assert_array_equal(frame_noise(7, 3, SHAPE), frame_noise(7, 3, SHAPE))


def test_values_are_pinned() -> None:
    """A change of these would change every user's frames."""
    assert frame_noise(0, 0, (3,)).tolist() == pytest.approx(PINNED_0, abs=1e-5)
    assert frame_noise(2**63 - 1, 10**12, (3,)).tolist() == pytest.approx(PINNED_1, abs=1e-5)


PINNED_0 = [2.5854034, 0.0525987, 0.1879015]
PINNED_1 = [0.4833744, -0.2881129, -2.2980731]


def test_a_part_is_that_part_of_the_whole() -> None:
    shape = (5, 31, 47)  # an odd number of values
    noise = FrameNoise(9, 4, shape)
    for rows, columns in ((slice(0, 31), slice(0, 47)), (slice(3, 20), slice(30, 47))):
        whole = frame_noise(9, 4, shape)[:, rows, columns]
        assert np.array_equal(noise.part(rows, columns), whole)
