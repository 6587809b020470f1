"""Ten bits in, ten bits out: gradients that eight bits cannot hold."""

import numpy as np

from streamdiffvsr.runtime.files.frame_loop import enlarged, restore_16bit


def test_a_ramp_finer_than_eight_bits_stays_one() -> None:
    ramp = np.linspace(20000, 22000, 64)
    deep = np.repeat(np.rint(ramp)[None, :, None], 16, 0).repeat(3, 2).astype(np.uint16)
    image = np.rint(deep / 257).astype(np.uint8)
    hr = (image.astype(np.float32) / 127.5 - 1).repeat(4, 0).repeat(4, 1)  # of a perfect model
    out = restore_16bit(hr.transpose(2, 0, 1)[None], image, deep)
    assert (out.shape, out.dtype) == ((64, 256, 3), np.uint16)
    # Of the middle of each pixel; eight bits alone are off by up to 128.
    middle = out.reshape(16, 4, 64, 4, 3)[:, 1:3, :, 1:3].mean(axis=(1, 3))
    assert np.abs(middle - deep).max() < 40
    assert len(np.unique(out)) > 4 * len(np.unique(image))


def test_what_needs_no_more_bits_is_left_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    hr = np.random.default_rng(1).uniform(-1.1, 1.1, (1, 3, 32, 32)).astype(np.float32)
    out = restore_16bit(hr, image, image.astype(np.uint16) * 257)
    expected = np.clip(hr[0].transpose(1, 2, 0) / 2 + 0.5, 0, 1) * 65535
    assert np.abs(out - expected).max() <= 1


def test_enlarging_is_linear_between_centres_and_constant_outside() -> None:
    values = np.zeros((2, 3, 3), np.float32)
    values[:, 1:] = [[8], [8]]
    row = enlarged(values)[0, :, 0]
    np.testing.assert_allclose(row, [0, 0, 1, 3, 5, 7, 8, 8, 8, 8, 8, 8])
