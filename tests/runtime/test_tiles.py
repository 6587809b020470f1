"""Tiles cover the frame, mix to a constant where they agree, and hide their edges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from streamdiffvsr.graphs.plan import choose_tile
from streamdiffvsr.graphs.spec import padded_size
from streamdiffvsr.runtime.stages import TileGrid

GRIDS = [((48, 64), (48, 64)), ((52, 72), (32, 40)), ((100, 36), (32, 36)), ((64, 64), (60, 64))]


@pytest.mark.parametrize(("frame", "tile"), GRIDS)
@pytest.mark.parametrize("scale", [1, 4])
def test_cut_and_mixed_is_the_same(
    frame: tuple[int, int], tile: tuple[int, int], scale: int
) -> None:
    grid = TileGrid(frame, tile)
    shape = (1, 2, frame[0] * scale, frame[1] * scale)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mixed = grid.mix(((t, grid.cut(x, t, scale)) for t in grid.tiles), 2, scale)
    np.testing.assert_allclose(mixed, x, atol=1e-6)


def test_a_disagreement_fades_over_the_overlap() -> None:
    """Two tiles that differ by 1 join without a step larger than the ramp's."""
    grid = TileGrid((32, 60), (32, 40))
    parts = ((t, np.full((1, 1, 32, 40), float(t.left > 0), np.float32)) for t in grid.tiles)
    row = grid.mix(parts, 1)[0, 0, 0]
    assert row[0] == 0 and row[-1] == 1
    assert np.diff(row).min() >= 0 and np.diff(row).max() <= 1 / 20 + 1e-6


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (361, 641), (2160, 3840), (200, 3000)])
def test_the_plans_tiles_overlap_enough(size: tuple[int, int]) -> None:
    tile = choose_tile(size)
    assert tile is not None
    grid = TileGrid(padded_size(size), tile)
    for axis, side in enumerate(tile):
        starts = sorted({(t.top, t.left)[axis] for t in grid.tiles})
        overlaps = [a + side - b for a, b in pairwise(starts)]
        assert all(overlap >= 28 for overlap in overlaps), overlaps


@pytest.mark.parametrize(("size", "tiles"), [((540, 960), 9), ((720, 1280), 12)])
def test_no_more_tiles_run_than_the_plan_made_room_for(size: tuple[int, int], tiles: int) -> None:
    tile = choose_tile(size)
    assert tile is not None and len(TileGrid(padded_size(size), tile).tiles) == tiles
