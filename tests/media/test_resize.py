"""Frames that the model cannot make in time are enlarged as one would expect."""

from __future__ import annotations

import numpy as np
import pytest

from streamdiffvsr.runtime.media.resize import Bicubic


@pytest.mark.parametrize("size", [(48, 64), (17, 33), (1, 1)])
def test_the_size_is_exactly_four_times(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (200, 30, 90), np.uint8)
    large = Bicubic(4)(image)
    assert large.shape == (4 * size[0], 4 * size[1], 3) and large.dtype == np.uint8
    assert np.abs(large.astype(int) - (200, 30, 90)).max() <= 1


def test_a_smooth_picture_stays_where_it_is() -> None:
    """Half-pixel centres: a ramp goes on as a ramp, not moved by a pixel."""
    ramp = np.linspace(20, 230, 64)
    image = np.repeat(ramp[None, :, None], 48, axis=0).repeat(3, axis=2).round().astype(np.uint8)
    large = Bicubic(4)(image)
    centres = (np.arange(256) + 0.5) / 4 - 0.5
    expected = np.interp(centres, np.arange(64), ramp)
    assert np.abs(large[90, 8:-8, 0] - expected[8:-8]).max() < 2
