"""Detail is carried along by motion; what motion does not explain is interpolated."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest

from streamdiffvsr.graphs.spec import SCALE
from streamdiffvsr.runtime.adaptive.canvas import Canvas, enlarge
from streamdiffvsr.runtime.adaptive.carry import carry
from streamdiffvsr.runtime.adaptive.upscaler import AdaptiveUpscaler
from streamdiffvsr.tests.runtime.adaptive.scenes import (
    TruthEngine,
    interpolated,
    noisy,
    pan,
    psnr,
    reduced,
    run,
    with_object,
)

SIZE = (96, 128)
ALL = 10**6


def carried(truth: Any, lr: Any, later: int = 0) -> list[Any]:
    """Outputs of a clip whose first frame is made whole, and the others with `later` tiles."""
    engine = TruthEngine()
    upscaler = AdaptiveUpscaler(engine, lr.shape[1:3])  # type: ignore[arg-type]
    return run(upscaler, engine, truth, lr, [ALL] + [later] * (len(lr) - 1))


def middle(image: Any, margin: int = 40) -> Any:
    return image[margin:-margin, margin:-margin]


@pytest.mark.parametrize("step", [(4, 8), (1, 2), (-3, 5), (0, -12)])
def test_detail_follows_a_camera_that_moves(step: tuple[int, int]) -> None:
    truth = pan(SIZE, 5, step)
    lr = reduced(truth)
    last = carried(truth, lr)[-1]
    gain = psnr(middle(last, 80), middle(truth[-1], 80))
    gain -= psnr(middle(interpolated(lr[-1]), 80), middle(truth[-1], 80))
    assert gain > 2.5


def test_what_does_not_move_is_not_resampled() -> None:
    truth = with_object(pan(SIZE, 6, (0, 0)), [(40, 40 + 8 * i) for i in range(6)])
    last = carried(truth, reduced(truth))[-1]
    assert np.abs(last[250:].astype(int) - truth[-1][250:]).max() <= 1


def test_a_place_that_an_object_has_left_shows_no_ghost_of_it() -> None:
    truth = with_object(pan(SIZE, 3, (0, 0)), [(100, 60), (100, 200), (100, 340)])
    lr = reduced(truth)
    left = slice(90, 174), slice(50, 134)  # where it was at first
    for out, plain, right in zip(carried(truth, lr)[1:], lr[1:], truth[1:], strict=True):
        ours = np.abs(out[left].astype(int) - right[left]).mean()
        assert ours <= np.abs(interpolated(plain)[left].astype(int) - right[left]).mean() + 0.5


def test_after_a_cut_the_picture_is_interpolated() -> None:
    truth = np.concatenate([pan(SIZE, 2, (0, 4), 1), pan(SIZE, 1, (0, 4), 2)])
    lr = reduced(truth)
    out = carried(truth, lr)[-1]
    assert psnr(out, truth[-1]) > psnr(interpolated(lr[-1]), truth[-1]) - 0.05


@pytest.mark.parametrize("change", ["flash", "fade"])
def test_a_change_of_brightness_is_followed_at_once(change: str) -> None:
    truth = pan(SIZE, 5, (2, 3)).astype(np.int16)
    factor = [1, 0.9, 0.8, 0.7, 0.6] if change == "fade" else [1] * 5
    offset = [0, 0, 70, 0, 0] if change == "flash" else [0] * 5
    changed = [t * f + o for t, f, o in zip(truth, factor, offset, strict=True)]
    truth = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    lr = reduced(truth)
    for out, plain, right in zip(carried(truth, lr), lr, truth, strict=True):
        assert psnr(out, right) > psnr(interpolated(plain), right) - 0.05


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_noise_is_measured_and_is_no_change(sigma: float) -> None:
    lr = noisy(reduced(pan(SIZE, 12, (0, 0))), sigma)
    canvas, lowest = Canvas.empty(SIZE), 1.0
    for index, frame in enumerate(lr):
        canvas, motion = carry(canvas, frame, 0.04)
        if index > 5:
            lowest = min(lowest, float(np.percentile(motion.confidence, 1)))
    assert canvas.noise == pytest.approx(sigma, rel=0.35)
    assert lowest > 0.95


def test_noise_of_a_static_scene_is_averaged_but_change_is_followed() -> None:
    clean = reduced(pan(SIZE, 20, (0, 0)))
    clean[14:, 30:60, 30:70] //= 2  # something appears
    canvas = Canvas.empty(SIZE)
    for frame in noisy(clean, 2.0):
        canvas, _ = carry(canvas, frame, 0.04)
        assert canvas.smooth.dtype == np.float32
    error = canvas.smooth - clean[-1]
    assert error[:25].std() < 1.0
    assert abs(error[35:55, 35:65].mean()) < 0.5


def test_a_clean_frame_is_taken_as_it_is() -> None:
    lr = reduced(pan(SIZE, 3, (3, 5)))
    canvas = Canvas.empty(SIZE)
    for frame in lr:
        canvas, _ = carry(canvas, frame, 0.04)
        assert np.array_equal(canvas.smooth, frame)


def test_the_motion_over_two_frames_is_both_together() -> None:
    lr = reduced(pan(SIZE, 3, (4, 8)))
    canvas, _ = carry(Canvas.empty(SIZE), lr[0], 0.04)
    canvas, first = carry(canvas, lr[1], 0.04)
    canvas, second = carry(canvas, lr[2], 0.04)
    both = second.after(first)
    inner = both.flow[20:-20, 20:-20]
    assert np.median(inner[..., 0]) == pytest.approx(4, abs=0.1)
    assert np.median(inner[..., 1]) == pytest.approx(2, abs=0.1)
    assert np.all(both.confidence <= second.confidence + 1e-6)


def test_the_last_canvas_is_not_changed_and_shares_no_memory() -> None:
    lr = reduced(pan(SIZE, 2, (2, 3)))
    before, _ = carry(Canvas.empty(SIZE), lr[0], 0.04)
    before.detail[:] = 3
    copies = {f.name: np.copy(getattr(before, f.name)) for f in fields(before)}
    after, _ = carry(before, lr[1], 0.04)
    for name, value in copies.items():
        assert np.array_equal(getattr(before, name), value)
        new = getattr(after, name)
        assert not isinstance(new, np.ndarray) or not np.shares_memory(new, getattr(before, name))


@pytest.mark.parametrize("moves", [True, False])
def test_with_memory_to_spare_nothing_large_is_allocated(moves: bool) -> None:
    truth = pan(SIZE, 3, (2, 3) if moves else (0, 0))
    lr = reduced(with_object(truth, [(40, 40), (40, 60), (40, 80)]))
    canvas, _ = carry(Canvas.empty(SIZE), lr[0], 0.04)
    rng = np.random.default_rng(0)
    canvas.detail[:] = cv2.GaussianBlur(rng.normal(0, 20, canvas.detail.shape), (9, 9), 2)
    expected, _ = carry(canvas, lr[1], 0.04)
    spare = np.full_like(canvas.detail, np.nan)
    carried, _ = carry(canvas, lr[1], 0.04, spare)
    assert carried.detail is (spare if moves else canvas.detail)
    assert np.array_equal(carried.detail, expected.detail)


@pytest.mark.parametrize("how", [cv2.INTER_LANCZOS4, cv2.INTER_LINEAR])
def test_a_part_is_enlarged_as_in_the_whole(how: int) -> None:
    x = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
    whole = cv2.resize(x, (4 * 56, 4 * 40), interpolation=how)
    for rows, columns in ((slice(0, 7), slice(0, 9)), (slice(20, 40), slice(33, 56))):
        part = enlarge(x, rows, how, columns)
        inside = whole[SCALE * rows.start : SCALE * rows.stop]
        inside = inside[:, SCALE * columns.start : SCALE * columns.stop]
        assert np.allclose(part, inside, atol=1e-5)


def test_detail_fades_with_the_contrast_of_the_frame() -> None:
    factors = np.linspace(0.4, 0.2, 10)[:, None, None, None]
    truth = np.rint(pan(SIZE, 10, (2, 3)) * factors).astype(np.uint8)
    lr = reduced(truth)
    last = carried(truth, lr)[-1]
    gain = psnr(middle(last, 80), middle(truth[-1], 80))
    gain -= psnr(middle(interpolated(lr[-1]), 80), middle(truth[-1], 80))
    assert gain > 1.5
