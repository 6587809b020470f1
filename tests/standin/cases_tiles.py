"""Batches of tiles on a GPU: the numbers of single tiles on the CPU, one launch each."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.engines.cuda_device import CudaDevice
from streamdiffvsr.graphs.spec import Geometry
from streamdiffvsr.runtime.adaptive.tile_engine import TILE, TileEngine, TileInput
from streamdiffvsr.runtime.adaptive.tile_slot import TileSlot
from streamdiffvsr.tests.standin.engines import (
    GraphEngine,
    SessionEngine,
    kernels_of,
    plan_engines,
    tile_engine,
)
from streamdiffvsr.tests.standin.library import Standin

EXACT = 127.5 * 1e-4  # levels: the same sums in another order
FRAME = (88, 120)
# A capture that failed halfway is ended so.
UNJOINED = "cuStreamEndCapture: 904: work of other streams is not joined"


def some_tiles(count: int, channels: int) -> list[TileInput]:
    """Tiles of noise at different places."""
    draw = np.random.default_rng(count)
    large = 4 * TILE
    return [
        TileInput(
            lr=draw.uniform(0, 255, (TILE, TILE, 3)).astype(np.float32),
            previous=draw.uniform(-20, 280, (large, large, 3)).astype(np.float32),
            noise=draw.standard_normal((channels, TILE, TILE), np.float32),
            top=7 * index % (FRAME[0] - TILE),
            left=11 * index % (FRAME[1] - TILE),
            frame=FRAME,
        )
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> TileEngine:
    """Tiles one by one on the CPU."""
    return tile_engine(tmp_path_factory.mktemp("single"), 1)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batches_are_what_the_cpu_makes_tile_by_tile(
    standin: Standin, single: TileEngine, batch: int, tmp_path: Path
) -> None:
    batched = tile_engine(tmp_path, batch, CudaDevice())
    for seed, count in enumerate((1, batch, batch + 1, 3)):
        standin.seed(seed)
        standin.progress((0, 30)[seed % 2])
        tiles = some_tiles(count, batched.latent_channels)
        launches = standin.calls("cuGraphLaunch")
        got = batched.refine(tiles)
        for a, b in zip(got, single.refine(tiles), strict=True):
            assert np.abs(a - b).max() <= EXACT
        expected = -(-count // batch) - (seed == 0)  # the very first batch is not captured
        assert standin.calls("cuGraphLaunch") - launches == expected
    slot = batched._runner
    assert isinstance(slot, TileSlot) and slot.obstacle == ""
    assert standin.illegal() == 0, standin.last_illegal()


def hashing_engine(standin: Standin, kind: str, folder: Path) -> TileEngine:
    """Batches of two, by engines of a kind whose kernels hash."""
    manifest, kernels = kernels_of(standin, Geometry((TILE, TILE), batch=2))
    engines: dict[str, Any]
    if kind == "plans":
        engines = plan_engines(kernels, 0, folder)
    else:
        make = SessionEngine if kind == "sessions" else GraphEngine
        engines = {name: make(kernel, 0) for name, kernel in kernels.items()}
    return TileEngine(manifest, engines, CudaDevice())


def test_every_kind_of_engine_gives_the_same_in_any_order(
    standin: Standin, kind: str, tmp_path: Path
) -> None:
    """Kernels of one scratch memory spoil each other where they overlap."""
    tiles = some_tiles(8, 4)
    standin.progress(100)
    expected = np.stack(hashing_engine(standin, "graphs", tmp_path).refine(tiles))
    for seed in range(6):
        standin.seed(seed)
        standin.progress((0, 20, 30)[seed % 3])
        got = hashing_engine(standin, kind, tmp_path).refine(tiles)
        assert np.array_equal(np.stack(got), expected, equal_nan=True), seed
    assert standin.illegal() == 0, standin.last_illegal()


def test_a_launch_is_all_that_a_batch_asks_of_the_driver(standin: Standin, tmp_path: Path) -> None:
    batched, tiles = hashing_engine(standin, "plans", tmp_path), some_tiles(2, 4)
    for _ in range(2):
        batched.refine(tiles)
    names = ("cuMemAlloc", "cuMemAllocHost", "cuMemcpyAsync", "cuGraphLaunch", "cuStreamWaitEvent")
    before = {name: standin.calls(name) for name in names}
    batched.refine(tiles)
    made = {name: standin.calls(name) - before[name] for name in names}
    assert made == dict.fromkeys(names, 0) | {"cuGraphLaunch": 1}


def test_a_closed_engine_leaves_nothing_on_the_device(standin: Standin, tmp_path: Path) -> None:
    batched, tiles = hashing_engine(standin, "sessions", tmp_path), some_tiles(3, 4)
    gc.collect()
    before = standin.used(0), standin.used(-1), standin.live()
    gc.disable()
    try:
        for _ in range(3):
            batched.refine(tiles)
            assert standin.used(0) > before[0]
            batched.close()
            assert (standin.used(0), standin.used(-1), standin.live()) == before
    finally:
        gc.enable()


def test_after_any_failed_call_the_next_tiles_are_right(
    standin: Standin, kind: str, tmp_path: Path
) -> None:
    """From the making of a slot to the end of a captured batch, each call in turn."""
    batched, tiles = hashing_engine(standin, kind, tmp_path), some_tiles(4, 4)
    expected = np.stack(batched.refine(tiles))
    raised = number = 0
    injected = True
    while injected:
        batched.close()
        number += 1
        before = standin.injected()
        standin.fail(number)
        try:
            got = batched.refine(tiles)
        except Exception:
            raised += 1
        else:
            assert np.array_equal(np.stack(got), expected, equal_nan=True), number
        injected = standin.injected() > before
        standin.fail(0)
        assert np.array_equal(np.stack(batched.refine(tiles)), expected, equal_nan=True), number
        assert standin.last_illegal() in ("", UNJOINED), number
    assert raised > 20 and number > 40
