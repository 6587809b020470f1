"""Plans: what each size is run as, what may be overridden, and that tiles cover every frame."""

from __future__ import annotations

from typing import Any

import pytest

from streamdiffvsr.errors import UsageError
from streamdiffvsr.graphs.plan import (
    ALL_PAIRS_BYTES,
    ON_DEMAND_POSITIONS,
    TILE_SIDE,
    WHOLE_FRAME_PIXELS,
    choose_tile,
    correlation_bytes,
    make_plan,
)
from streamdiffvsr.graphs.spec import TILE_OVERLAP, Size, padded_size

SIZES = [
    *[(h, w) for h in (1, 45, 180, 257, 270, 481) for w in (1, 50, 320, 449, 640, 854)],
    (540, 960),
    (720, 1280),
    (1080, 1920),
    (2160, 3840),
    (4320, 7680),
    (33, 100_000),
    (100_000, 33),
]


@pytest.mark.parametrize(
    ("size", "gib"),
    [((180, 320), 1.03), ((270, 480), 5.29), ((720, 1280), 263.7), ((540, 960), 83.4)],
)
def test_the_volume_is_what_torch_would_allocate(size: Size, gib: float) -> None:
    assert correlation_bytes(size) / 2**30 == pytest.approx(gib, rel=0.01)
    assert correlation_bytes(size, 2) == pytest.approx(correlation_bytes(size) / 16, rel=0.02)


def test_the_volume_counts_every_level() -> None:
    torch = pytest.importorskip("torch")
    correlation = pytest.importorskip("streamdiffvsr.export.correlation")
    maps = torch.zeros(1, 1, 32, 32)  # of a 64x64 input
    stored = correlation.AllPairs(maps, maps, 4, 4).volume
    assert correlation_bytes((64, 64)) == pytest.approx(stored.numel() * 4, rel=0.01)


@pytest.mark.parametrize(
    ("size", "correlation", "flow_scale", "tiled"),
    [
        ((32, 32), "all-pairs", 1, False),
        ((180, 320), "all-pairs", 1, False),
        ((270, 480), "on-demand", 1, False),
        ((360, 640), "on-demand", 1, False),
        ((361, 640), "on-demand", 1, True),
        ((540, 960), "on-demand", 1, True),
        ((720, 1280), "on-demand", 2, True),
    ],
)
def test_the_choice_for_a_size(size: Size, correlation: str, flow_scale: int, tiled: bool) -> None:
    plan = make_plan(size)
    assert plan.correlation == correlation
    assert plan.geometry.flow_scale == flow_scale
    assert (plan.geometry.tile is not None) == tiled
    assert plan.geometry.size == size


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_a_plan_within_its_budgets(size: Size) -> None:
    plan = make_plan(size)
    geometry = plan.geometry
    if plan.correlation == "all-pairs":
        assert correlation_bytes(size, geometry.flow_scale) <= ALL_PAIRS_BYTES
    height, width = geometry.padded
    positions = height * width // 4
    thin = min(height, width) < 64  # RAFT could not run at half resolution
    assert (positions > ON_DEMAND_POSITIONS and not thin) == (geometry.flow_scale > 1)
    assert make_plan(size) == plan  # a fixed rule: one size, one engine set


@pytest.mark.parametrize("size", SIZES)
def test_tiles_cover_the_frame_with_their_overlap(size: Size) -> None:
    tile, padded = choose_tile(size), padded_size(size)
    if padded[0] * padded[1] <= WHOLE_FRAME_PIXELS:
        assert tile is None
        return
    assert tile is not None
    for side, full, largest in zip(tile, padded, TILE_SIDE, strict=True):
        assert side % 4 == 0 and 32 <= side <= min(largest, full)
        if full <= largest:
            assert side == full
            continue
        count = -(-(full - TILE_OVERLAP) // (side - TILE_OVERLAP))
        fewest = -(-(full - TILE_OVERLAP) // (largest - TILE_OVERLAP))
        assert count == fewest
        # Equal tiles: none is larger than an even share, rounded up to a multiple of 4.
        assert side - 4 < (full + (count - 1) * TILE_OVERLAP) / count


def test_choices_can_be_overridden() -> None:
    plan = make_plan((180, 320), flow_scale=2, correlation="on-demand", tile=(96, 128))
    assert (plan.geometry.flow_scale, plan.correlation) == (2, "on-demand")
    assert plan.geometry.tile == (96, 128)
    assert make_plan((720, 1280), tile=None).geometry.tile is None
    assert make_plan((270, 480), correlation="all-pairs").correlation == "all-pairs"
    # At half the resolution the volume is a sixteenth, and fits again.
    assert make_plan((270, 480), flow_scale=2).correlation == "all-pairs"


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((0, 320), {}),
        ((10_000, 10_000), {}),
        ((180, 320), {"flow_scale": 3}),
        ((180, 320), {"flow_scale": 0}),
        ((48, 64), {"flow_scale": 2}),
        ((180, 320), {"correlation": "sparse"}),
        ((180, 320), {"tile": "128x128"}),
        ((180, 320), {"tile": (96, 130)}),
        ((180, 320), {"tile": (256, 256)}),
    ],
)
def test_what_does_not_fit_is_refused(size: Size, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_plan(size, **options)


def test_the_plan_says_itself_in_one_line() -> None:
    small = make_plan((180, 320)).describe()
    assert "all-pairs" in small and "1.03 GiB" in small and "whole frame" in small
    large = make_plan((720, 1280)).describe()
    tile = make_plan((720, 1280)).geometry.tile
    assert tile is not None
    assert "on-demand" in large and "1/2" in large and f"{tile[1]}x{tile[0]}" in large
    assert "\n" not in small + large


@pytest.mark.parametrize(
    ("size", "preferred", "scale"),
    [((90, 160), 2, 2), ((64, 64), 2, 2), ((60, 160), 2, 1), ((90, 160), 1, 1), ((128, 128), 4, 4)],
)
def test_a_models_flow_scale_is_taken_where_the_frame_allows_it(size, preferred, scale):
    assert make_plan(size, preferred=preferred).geometry.flow_scale == scale
    assert make_plan(size, preferred=preferred, flow_scale=1).geometry.flow_scale == 1
