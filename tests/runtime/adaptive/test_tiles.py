"""Tiles cover what needs the model most, and what they made is blended without a seam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamdiffvsr.errors import UsageError
from streamdiffvsr.graphs.spec import SCALE
from streamdiffvsr.runtime.adaptive.canvas import Canvas
from streamdiffvsr.runtime.adaptive.carry import Motion, carry
from streamdiffvsr.runtime.adaptive.tiles import Patch, all_tiles, blend, choose, trusted, weight_of
from streamdiffvsr.runtime.adaptive.upscaler import AdaptiveUpscaler
from streamdiffvsr.tests.runtime.adaptive.scenes import (
    TILE,
    TruthEngine,
    interpolated,
    pan,
    picture,
    psnr,
    reduced,
    run,
    with_object,
)

SIZE = (96, 128)


def canvas_of(frame: Any) -> Canvas:
    return carry(Canvas.empty(frame.shape[:2]), frame, 0.04)[0]


@pytest.mark.parametrize("size", [(48, 48), (49, 48), (90, 160), (97, 131), (360, 640)])
def test_all_tiles_cover_the_frame_evenly(size: tuple[int, int]) -> None:
    total = np.zeros(size)
    for top, left in all_tiles(size, TILE):
        assert 0 <= top <= size[0] - TILE and 0 <= left <= size[1] - TILE
        total[top : top + TILE, left : left + TILE] += weight_of((top, left), size, TILE, 1)
    assert total.min() > 0.5


def test_the_tile_with_the_greatest_need_comes_first_and_the_rest_follow() -> None:
    frame = np.full((*SIZE, 3), 90, np.uint8)
    frame[60:80, 90:110] = picture(20, 20)  # the only texture
    first, *others = choose(canvas_of(frame), 4, TILE, refresh_s=10)
    assert first[0] <= 60 and first[0] + TILE >= 80
    assert first[1] <= 90 and first[1] + TILE >= 110
    assert len(set(others)) == 3 and first not in others


def test_what_is_fresh_is_left_alone_while_anything_is_stale() -> None:
    canvas = canvas_of(reduced(pan(SIZE, 1, (0, 0)))[0])
    canvas.fresh[:, :64] = 1
    assert all(left >= 64 for _, left in choose(canvas, 2, TILE, refresh_s=10))


def test_a_region_of_interest_goes_first() -> None:
    engine = TruthEngine()
    truth = pan(SIZE, 1, (0, 0))
    lr = reduced(truth)
    upscaler = AdaptiveUpscaler(engine, SIZE, regions=[(90, 60, 20, 20)])  # type: ignore[arg-type]
    run(upscaler, engine, truth, lr, [1])
    (top, left), *_ = engine.asked
    assert top <= 60 and top + TILE >= 80 and left <= 90 and left + TILE >= 110
    upscaler.prefer([(0, 0, 20, 20)])
    engine.asked.clear()
    run(upscaler, engine, truth, lr, [1])
    assert engine.asked[0] == (0, 0)


def test_every_part_is_refreshed_within_the_interval() -> None:
    # Noise and a moving object would have all tiles, if only need counted.
    path = [(16, 24 + 8 * (i % 12)) for i in range(40)]
    truth = with_object(pan(SIZE, 40, (0, 0)), path)
    engine = TruthEngine()
    upscaler = AdaptiveUpscaler(engine, SIZE, refresh_s=1.0)  # type: ignore[arg-type]
    state = upscaler.initial_state()
    for index, frame in enumerate(reduced(truth)):
        engine.now = truth[index]
        _, state = upscaler.step(frame, state, tiles=1, seconds=0.1)
        # Twelve tiles cover the frame, so each has had its turn a little after the interval.
        assert state.age.max() <= 1.0 + 1.3


@pytest.mark.parametrize("step", [(0, 0), (4, 8), (-8, 4)])
def test_a_late_patch_lands_where_its_content_has_moved(step: tuple[int, int]) -> None:
    truth = pan(SIZE, 4, step)
    lr = reduced(truth)
    canvas = canvas_of(lr[0])
    top = left = 24
    base, _ = canvas.picture_at(top, left, TILE)
    hr = truth[0][SCALE * top : SCALE * (top + TILE), SCALE * left : SCALE * (left + TILE)]
    weight = weight_of((top, left), SIZE, TILE, SCALE)
    patch = Patch(top, left, hr.astype(np.float32) - base, weight)
    motion = None
    for frame in lr[1:]:
        canvas, newest = carry(canvas, frame, 0.04)
        motion = newest if motion is None else newest.after(motion)
    blend(canvas, patch, motion, age=0.12)
    out, plain = canvas.render(), interpolated(lr[-1])
    moved = SCALE * top - 3 * step[0] + 40, SCALE * left - 3 * step[1] + 40
    there = slice(moved[0], moved[0] + 112), slice(moved[1], moved[1] + 112)
    assert psnr(out[there], truth[-1][there]) > psnr(plain[there], truth[-1][there]) + 2.5
    far = slice(0, SCALE * 4), slice(None)
    assert np.array_equal(out[far], plain[far])
    y, x = moved[0] // SCALE + 10, moved[1] // SCALE + 10
    assert canvas.age[y, x] == pytest.approx(0.12)
    assert canvas.fresh[y, x] > 0.85


def test_a_late_patch_whose_content_has_left_changes_nothing() -> None:
    canvas = canvas_of(reduced(pan(SIZE, 1, (0, 0)))[0])
    weight = weight_of((0, 0), SIZE, TILE, SCALE)
    patch = Patch(0, 0, np.full((192, 192, 3), 50, np.float32), weight)
    flow = np.full((*SIZE, 2), 500, np.float32)
    for motion in (Motion(flow, np.ones(SIZE, np.float32)), Motion(0 * flow, np.zeros(SIZE, "f"))):
        canvas.age[:] = 7
        blend(canvas, patch, motion)
        assert not canvas.detail.any()
        assert not canvas.fresh.any()
        # A place where the content is gone was tried, and is not due again at once.
        assert (canvas.age[:40, :40] == 0).all() == (not motion.flow.any())


@pytest.mark.parametrize("tiles", [1, 3, 10**6])
def test_tiles_that_differ_meet_without_a_seam(tiles: int) -> None:
    engine = TruthEngine()
    bias = iter(np.random.default_rng(3).uniform(-8, 8, 1000))

    def biased(asked: Any) -> Any:  # each tile is a little brighter or darker than its neighbours
        return [made + np.float32(next(bias)) for made in TruthEngine.refine(engine, asked)]

    engine.refine = biased  # type: ignore[method-assign]
    upscaler = AdaptiveUpscaler(engine, (90, 160))  # type: ignore[arg-type]
    truth = pan((90, 160), 20, (0, 0)) // 2 + 60  # nothing is clipped
    out = run(upscaler, engine, truth, reduced(truth), [10**6] + [tiles] * 19)[-1]
    error = (out.astype(np.float32) - truth[-1]).mean(axis=2)
    # Up to 16 levels, over the eight LR pixels in which tiles overlap, rounded to whole levels. A
    # seam would be all of it from one pixel to the next.
    for axis in (0, 1):
        step = np.abs(np.diff(error, axis=axis))
        assert step.max() <= 2
        assert step.mean(axis=1 - axis).max() < 1


def test_tiles_below_none_and_regions_outside_are_refused() -> None:
    engine = TruthEngine()
    upscaler = AdaptiveUpscaler(engine, SIZE)  # type: ignore[arg-type]
    frame = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(UsageError, match="tiles=-1 is not possible"):
        upscaler.step(frame, upscaler.initial_state(), tiles=-1)
    for how, *region in (
        ("is not in", 0, 0, 0, 5),
        ("is not in", -1, 0, 5, 5),
        ("is not in", 128, 0, 5, 5),
        ("reaches beyond", 100, 0, 29, 5),
        ("reaches beyond", 0, 95, 5, 2),
    ):
        x, y, width, height = region
        with pytest.raises(UsageError, match=rf"{how} the frame \(128x96\)"):
            upscaler.prefer([(x, y, width, height)])


def test_detail_that_is_no_larger_than_the_models_error_is_left_out() -> None:
    detail = np.random.default_rng(0).normal(0, 1, (192, 192, 3)).astype(np.float32)
    detail[:, :96] *= 0.2
    detail[:, 96:] *= 12
    kept = trusted(detail)
    assert kept[:, :80].std() < 0.3 * detail[:, :80].std()
    assert kept[:, 110:].std() > 0.98 * detail[:, 110:].std()
