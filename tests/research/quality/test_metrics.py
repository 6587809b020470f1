"""The figures of picture quality, on pictures whose figures are known beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamdiffvsr.research.quality import metrics  # noqa: E402

SIZE = (24, 32)


@pytest.fixture
def truth() -> Any:
    """(4, 24, 32, 3) uint8: one smooth picture that stands still, away from black and white."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = np.stack([np.sin(x / 3), np.cos(y / 4), np.sin((x + y) / 5)], axis=-1)
    return np.repeat(np.rint(128 + 60 * waves).astype(np.uint8)[None], 4, axis=0)


def motion(x: float = 0.0) -> tuple[Any, Any]:
    flow = torch.zeros(4, 2, *SIZE)
    flow[1:, 0] = x
    visible = torch.ones(4, 1, *SIZE)
    visible[0] = 0
    return flow, visible


def test_psnr_is_that_of_the_mean_squared_error(truth: Any) -> None:
    off = truth.copy()
    off[1] += 5
    scores = metrics.psnr(off, truth)
    assert scores.tolist() == pytest.approx([100, 20 * np.log10(255 / 5), 100, 100])


def test_psnr_does_not_wrap_around() -> None:
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    assert metrics.psnr(black, white)[0] == pytest.approx(0, abs=1e-6)


def test_ssim_is_one_for_equal_pictures_and_sees_structure(truth: Any) -> None:
    pytest.importorskip("skimage")
    noise = np.random.default_rng(0).normal(0, 10, truth.shape)
    noisy = np.clip(truth + noise, 0, 255).astype(np.uint8)
    assert metrics.ssim(truth, truth) == pytest.approx(1)
    assert metrics.ssim(noisy, truth) < 0.9 < metrics.ssim(truth + np.uint8(10), truth)


def test_the_baseline_is_the_models_bicubic() -> None:
    lr = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    planes = torch.from_numpy(lr).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(planes, scale_factor=4, mode="bicubic")
    expected = expected.clamp(0, 255).round().permute(0, 2, 3, 1).numpy()
    found = metrics.bicubic_frames(lr)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1  # a value on the fence may fall on either side
    assert (found == expected).mean() > 0.99


def test_no_motion_carries_a_frame_to_itself() -> None:
    image = torch.rand(1, 3, *SIZE)
    torch.testing.assert_close(metrics.carried(image, torch.zeros(1, 2, *SIZE)), image)


def test_flow_points_to_where_a_pixel_was() -> None:
    """A picture that moves two pixels to the right and one down."""
    image = torch.rand(1, 3, *SIZE)
    moved = image.roll((1, 2), dims=(2, 3))
    flow = torch.tensor([-2.0, -1.0])[None, :, None, None].expand(1, 2, *SIZE)
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(metrics.carried(image, flow)[inner], moved[inner])


def test_a_constant_error_does_not_flicker(truth: Any) -> None:
    errors = metrics.temporal_errors(truth + np.uint8(9), truth, *motion())
    assert errors == pytest.approx({"warp_error": 0, "warp_excess": 0, "flicker": 0}, abs=1e-3)


def test_what_blinks_by_six_levels_has_a_flicker_of_six(truth: Any) -> None:
    blinking = truth.copy()
    blinking[1::2] += 6
    errors = metrics.temporal_errors(blinking, truth, *motion())
    assert errors == pytest.approx({"warp_error": 6, "warp_excess": 6, "flicker": 6}, abs=1e-3)


def test_an_error_that_stays_on_the_screen_while_the_picture_moves_flickers() -> None:
    """Known as the shower door: it is still, and yet it is not part of the picture."""
    wide = np.random.default_rng(0).integers(60, 190, (SIZE[0], SIZE[1] + 6, 3), dtype=np.uint8)
    truth = np.stack([wide[:, 2 * i :][:, : SIZE[1]] for i in range(4)])
    flow, visible = motion(2.0)
    visible[..., -2:] = 0
    dirt = np.random.default_rng(1).integers(0, 30, truth[0].shape, dtype=np.uint8)
    moving = metrics.temporal_errors(truth + dirt, truth, flow, visible)
    assert metrics.temporal_errors(truth, truth, flow, visible)["warp_error"] < 1e-2
    assert moving["flicker"] > 5


def test_only_what_is_visible_counts(truth: Any) -> None:
    flow, visible = motion()
    visible[:, :, :12] = 0
    half = truth.copy()
    half[1::2, :12] += 40
    assert metrics.temporal_errors(half, truth, flow, visible)["flicker"] == pytest.approx(0)
    nothing = metrics.temporal_errors(half, truth, flow, torch.zeros_like(visible))
    assert nothing == {"warp_error": 0, "warp_excess": 0, "flicker": 0}


def test_a_tint_is_seen_per_channel(truth: Any) -> None:
    tinted = truth.copy()
    tinted[2, ..., 0] += 3
    shift = metrics.colour_shift(tinted, truth)
    assert shift.shape == (4, 3)
    assert shift[2].tolist() == pytest.approx([3, 0, 0])
    assert np.abs(shift[[0, 1, 3]]).max() == 0
