"""Batches of tiles on an NVIDIA GPU, by every backend that works on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.engines.backends import order
from streamdiffvsr.engines.host import why_no_gpu
from streamdiffvsr.engines.registry import why_not
from streamdiffvsr.runtime.adaptive.tile_engine import TILE, TileInput, load_tile_engine
from streamdiffvsr.runtime.adaptive.tile_slot import TileSlot

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(why_no_gpu() != "", reason=why_no_gpu() or "there is a GPU"),
]
BACKENDS = [backend for backend, device in order() if device == "cuda"]
EXACT, HALF = 127.5 * 1e-3, 127.5 * 0.1  # levels, in fp32 and fp16, after four steps


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batches_are_what_the_cpu_makes_tile_by_tile(
    backend: str, precision: str, batch: int, parity_model: Path, tmp_path: Path
) -> None:
    if obstacle := why_not(backend, "cuda"):
        pytest.skip(f"{backend}: {obstacle}")
    size = (TILE, TILE)
    single = load_tile_engine(streamdiffvsr.build(parity_model, size=size, out=tmp_path / "cpu"))
    batched = load_tile_engine(
        streamdiffvsr.build(
            parity_model,
            size=size,
            backend=backend,
            device="cuda",
            precision=precision,
            batch=batch,
            out=tmp_path / "gpu",
        )
    )
    draw = np.random.default_rng(0)
    tiles = [
        TileInput(
            lr=draw.uniform(0, 255, (TILE, TILE, 3)).astype(np.float32),
            previous=draw.uniform(0, 255, (4 * TILE, 4 * TILE, 3)).astype(np.float32),
            noise=draw.standard_normal((single.latent_channels, TILE, TILE), np.float32),
            top=7 * index,
            left=11 * index,
            frame=(88, 120),
        )
        for index in range(5)
    ]
    expected = single.refine(tiles)
    for _ in range(3):  # plain, then captured
        got = batched.refine(tiles)
        for a, b in zip(got, expected, strict=True):
            assert np.abs(a - b).max() <= (EXACT if precision == "fp32" else HALF)
    slot = batched._runner
    assert isinstance(slot, TileSlot)
    assert slot.obstacle == "" or backend == "torch"  # each of torch's engines is a launch
    batched.close()
