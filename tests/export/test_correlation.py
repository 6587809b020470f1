"""Both lookups against the bilinear sampler over the stored volume."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streamdiffvsr.export.correlation import AllPairs, OnDemand
from streamdiffvsr.export.reference import GridSampledCorrelation
from streamdiffvsr.graphs import plan

CASES = [  # (h, w), levels, radius
    ((16, 16), 4, 4),
    ((17, 23), 4, 3),
    ((16, 40), 3, 1),
    ((5, 9), 1, 4),
    ((9, 6), 2, 2),
]


def maps(size: tuple[int, int], channels: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size[0] * size[1])
    current, previous = torch.randn(2, 1, channels, *size, generator=generator)
    return current, previous


def positions(size: tuple[int, int], where: str) -> Tensor:
    """(h w, 2) positions, x first, of one kind."""
    height, width = size
    generator = torch.Generator().manual_seed(3)
    unit = torch.rand(height * width, 2, generator=generator)
    sides = torch.tensor([width - 1.0, height - 1.0])
    if where == "inside":
        return unit * sides
    if where == "whole":
        return (unit * sides).round()
    if where == "borders":  # on, and up to a window beyond, each edge
        return torch.where(unit < 0.5, unit * 24 - 12, sides + unit * 24 - 12)
    if where == "edges":
        return torch.where(unit < 0.5, torch.zeros(2), sides)
    return (unit - 0.5).sign() * 1e4 + unit  # far outside


@pytest.mark.parametrize(("size", "levels", "radius"), CASES)
@pytest.mark.parametrize("where", ["inside", "whole", "borders", "edges", "far"])
def test_all_lookups_are_one(size: tuple[int, int], levels: int, radius: int, where: str) -> None:
    current, previous = maps(size)
    points = positions(size, where)
    expected = GridSampledCorrelation(current, previous, levels, radius).lookup(points)
    stored = AllPairs(current, previous, levels, radius).lookup(points)
    computed = OnDemand(current, previous, levels, radius).lookup(points)
    assert expected.shape == (size[0] * size[1], levels * (2 * radius + 1) ** 2)
    # The sampler normalises its positions and back: 1e-6 of a pixel, or less.
    torch.testing.assert_close(stored, expected, atol=3e-5, rtol=0)
    torch.testing.assert_close(computed, stored, atol=3e-6, rtol=0)
    if where == "far":
        assert not stored.any() and not computed.any()
    else:
        assert stored.abs().max() > 0.1


@pytest.mark.parametrize("points", [2, 7, 10_000])
def test_chunks_change_nothing(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size, channels, levels, radius = (12, 13), 8, 3, 2
    current, previous = maps(size, channels)
    where = positions(size, "borders")
    expected = AllPairs(current, previous, levels, radius).lookup(where)
    window = 4 * channels * levels * (2 * radius + 2) ** 2
    monkeypatch.setattr(plan, "CHUNK_BYTES", points * window + window // 2)
    chunked = OnDemand(current, previous, levels, radius)
    assert chunked.chunk == points
    torch.testing.assert_close(chunked.lookup(where), expected, atol=3e-6, rtol=0)


def test_a_chunk_is_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK_BYTES", 1)
    assert OnDemand(*maps((8, 8)), 2, 1).chunk == 1


def test_chunks_are_no_more_than_a_graph_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CHUNK_BYTES", 1)
    size, levels, radius = (21, 31), 2, 2
    current, previous = maps(size)
    chunked = OnDemand(current, previous, levels, radius)
    assert -(-21 * 31 // chunked.chunk) <= plan.MAX_CHUNKS
    where = positions(size, "inside")
    expected = AllPairs(current, previous, levels, radius).lookup(where)
    torch.testing.assert_close(chunked.lookup(where), expected, atol=3e-6, rtol=0)


def test_x_offsets_are_the_slowest_within_a_level() -> None:
    current, previous = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    current[:] = 1
    previous[0, 0, 3, 5] = 1  # seen from (4, 3), one to the right
    point = torch.tensor([[4.0, 3.0]])
    for make in (AllPairs, OnDemand):
        lookup = make(current, previous, 1, 1)
        if make is AllPairs:
            lookup.volume = lookup.volume[:1]
        else:
            lookup.query = lookup.query[:1]
        assert lookup.lookup(point)[0].nonzero().tolist() == [[2 * 3 + 1]]  # dx = +1, dy = 0


def test_halves_are_matched_in_float32() -> None:
    current, previous = (m.half() for m in maps((10, 11)))
    where = positions((10, 11), "inside")
    for make in (AllPairs, OnDemand):
        half = make(current, previous, 2, 2).lookup(where)
        assert half.dtype == torch.float32
        torch.testing.assert_close(
            half, make(current.float(), previous.float(), 2, 2).lookup(where)
        )
