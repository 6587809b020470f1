"""Tiles are refined as the whole frame would be, one by one or in batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.building import spec
from streamdiffvsr.engines import engine_set, registry
from streamdiffvsr.engines.host import Gpu
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.engines.parity import run_on_host
from streamdiffvsr.errors import UsageError
from streamdiffvsr.graphs.golden import example_frame
from streamdiffvsr.graphs.spec import Geometry, Size, onnx_file
from streamdiffvsr.runtime.adaptive import tile_engine
from streamdiffvsr.runtime.adaptive.tile_engine import (
    TILE,
    Floats,
    TileEngine,
    TileInput,
    load_tile_engine,
)
from streamdiffvsr.runtime.adaptive.tile_slot import TILE_GRAPHS, TileSlot
from streamdiffvsr.runtime.stages import Guidance, TileGrid
from streamdiffvsr.runtime.upscaler import Upscaler, frame_noise
from streamdiffvsr.tests.runtime.simulated import (
    MixingEngine,
    SimulatedDevice,
    SimulatedStream,
    mixing_upscaler,
)

FRAME = (88, 120)  # several tiles, and no multiple of one
EXACT = 1e-4  # in the model's range: the same sums in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's engines of one tile."""
    return streamdiffvsr.build("tiny", size=(TILE, TILE), out=tmp_path_factory.mktemp("e") / "set")


@pytest.fixture(scope="module")
def engine(folder: Path) -> TileEngine:
    return load_tile_engine(folder)


def to_levels(raw: Any) -> Any:
    return (raw[0].transpose(1, 2, 0) + 1) * 127.5


@dataclass(frozen=True)
class Still:
    """A frame that stands still.

    Attributes:
        noise: The noise of its third time.
        previous: The raw output of its second time.
        exact: What the whole frame's engines make of it the third time.
        raw: The same, with a flow of zero in place of the one that they find.
        guidance: The guidance with that flow.
    """

    frame: Any
    noise: Any
    previous: Any
    exact: Any
    guidance: Guidance
    raw: Any

    def tile(self, top: int, left: int) -> TileInput:
        """A tile of it."""
        rows, columns = slice(top, top + TILE), slice(left, left + TILE)
        large = (slice(4 * top, 4 * (top + TILE)), slice(4 * left, 4 * (left + TILE)))
        return TileInput(
            lr=self.frame[rows, columns].astype(np.float32),
            previous=np.asarray(to_levels(self.previous)[large], np.float32),
            noise=self.noise[:, rows, columns],
            top=top,
            left=left,
            frame=self.frame.shape[:2],
        )


def make_still(up: Upscaler) -> Still:
    frame, state = example_frame(*up.size, 0), up.initial_state(3)
    for _ in range(2):
        _, state = up.step(frame, state)
    noise = frame_noise(3, 2, (up.manifest.graphs.dims.latent, *up.size))
    exact, _ = up.step(frame, state)
    stages, previous = up._stages, state.previous_hr
    assert previous is not None
    lr, _, _ = stages.extract_features(frame)
    guidance = stages.guide_along(np.zeros((1, 2, *previous.shape[2:]), np.float32), previous)
    raw, _ = stages.whole_frame(noise[None], lr, guidance)
    return Still(frame, noise, previous, exact, guidance, raw)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Still:
    """A frame of several tiles, run by engines of its size."""
    out = tmp_path_factory.mktemp("e") / "whole"
    return make_still(streamdiffvsr.load(streamdiffvsr.build("tiny", size=FRAME, out=out)))


def test_a_tile_that_is_the_frame_is_what_the_frames_own_stages_make(engine, folder):
    up = streamdiffvsr.load(folder)
    still = make_still(up)
    (refined,) = engine.refine([still.tile(0, 0)])
    given = engine._runner.arrays
    guidance = up._stages.guide_along(given.flow, still.previous)
    assert np.abs(guidance.warped - still.guidance.warped).max() <= EXACT
    assert np.abs(guidance.hint - still.guidance.hint).max() <= EXACT
    assert refined.dtype == np.float32 and refined.flags.c_contiguous
    assert np.abs(refined - to_levels(still.raw)).max() <= 127.5 * EXACT
    assert engine.identity == up.identity


@pytest.mark.parametrize(("top", "left"), [(0, 0), (40, 0), (20, 36), (40, 72)])
def test_a_tile_samples_the_canvas_as_the_whole_frame_does(engine, still, top, left):
    """At the frame's borders too; only the tile's outermost pixels inside the frame differ."""
    engine.refine([still.tile(top, left)])
    given = engine._runner.arrays
    warped = engine._runner._stages.guide_along(given.flow, given.previous).warped
    part = still.guidance.warped[:, :, 4 * top :, 4 * left :][:, :, : 4 * TILE, : 4 * TILE]
    rows, columns = (
        slice(int(at > 0), 4 * TILE - int(at + TILE < full))
        for at, full in zip((top, left), FRAME, strict=True)
    )
    assert np.abs(warped - part)[:, :, rows, columns].max() <= EXACT


def test_all_tiles_blended_are_nearly_the_whole_frame(engine, still):
    grid = TileGrid(FRAME, (TILE, TILE))
    refined = engine.refine([still.tile(tile.top, tile.left) for tile in grid.tiles])
    parts = ((t, out.transpose(2, 0, 1)[None]) for t, out in zip(grid.tiles, refined, strict=True))
    blended = grid.mix(parts, 3, 4)[0].transpose(1, 2, 0)
    assert decibels(blended, to_levels(still.raw)) > 60, "with a flow of zero in both"
    assert decibels(np.clip(blended, 0, 255), still.exact) > 50, "with the flow that is found"


def decibels(a: Any, b: Any) -> float:
    """The PSNR of levels."""
    return float(10 * np.log10(255**2 / np.square(a.astype(np.float64) - b).mean()))


def some_tiles(count: int, channels: int, frame: Size = FRAME, seed: int = 0) -> list[TileInput]:
    """Tiles of noise at different places."""
    draw = np.random.default_rng(seed)
    return [
        TileInput(
            lr=draw.uniform(0, 255, (TILE, TILE, 3)).astype(np.float32),
            previous=draw.uniform(-20, 280, (4 * TILE, 4 * TILE, 3)).astype(np.float32),
            noise=draw.standard_normal((channels, TILE, TILE), np.float32),
            top=7 * index % (frame[0] - TILE),
            left=11 * index % (frame[1] - TILE),
            frame=frame,
        )
        for index in range(count)
    ]


def test_tiles_are_refined_one_by_one_and_in_order(engine):
    tiles = some_tiles(3, engine.latent_channels)
    assert engine.refine([]) == []
    together = engine.refine(tiles)
    for tile, out in zip(tiles, together, strict=True):
        assert np.array_equal(engine.refine([tile])[0], out)
    engine.close()
    engine.close()
    assert np.array_equal(engine.refine(tiles[1:2])[0], together[1])


@pytest.mark.parametrize(
    "change",
    [
        {"lr": np.zeros((TILE, TILE + 4, 3), np.float32)},
        {"previous": np.zeros((TILE, TILE, 3), np.float32)},
        {"noise": np.zeros((1, TILE, TILE), np.float32)},
        {"top": -1},
        {"top": FRAME[0] - TILE + 1},
        {"left": FRAME[1] - TILE + 1},
        {"frame": (TILE - 4, TILE)},
    ],
)
def test_a_tile_that_does_not_fit_is_refused(engine, change):
    (tile,) = some_tiles(1, engine.latent_channels)
    with pytest.raises(ValueError, match="tile"):
        engine.refine([replace(tile, **change)])


def test_engines_of_other_frames_are_refused(parity_engines: Path):
    with pytest.raises(UsageError, match=r"64x48.*build"):
        load_tile_engine(parity_engines)


# ---- batches ----


def made_up_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose place ONNX Runtime on the CPU takes, with a device of late streams."""
    ort = replace(
        registry.BACKENDS["onnxruntime"],
        open=lambda folder, spec, device, scratch: OrtEngine(folder / onnx_file(spec.name), spec),
        obstacle=lambda key, device: "",
    )
    monkeypatch.setitem(registry.BACKENDS, "onnxruntime", ort)
    monkeypatch.setattr(registry, "_run_on_gpu", lambda device, *rest: run_on_host(*rest))
    monkeypatch.setattr(spec, "check_gpu", lambda device: None)
    gpu = Gpu("made up", "1", "8 GiB", "8.9")
    monkeypatch.setattr(engine_set, "cuda_gpu", lambda ordinal: gpu)
    monkeypatch.setattr(tile_engine, "check_memory", lambda manifest, device: None)
    monkeypatch.setattr(tile_engine, "CudaDevice", SimulatedDevice)


@pytest.mark.parametrize("batch", [2, 4])
def test_batches_give_what_single_tiles_do(engine, batch, tmp_path, monkeypatch):
    """Through a build, its gate, the set on the disk, and a slot on a device."""
    made_up_gpu(monkeypatch)
    out = tmp_path / "set"
    options: dict[str, Any] = {"size": (TILE, TILE), "device": "cuda", "out": out, "batch": batch}
    streamdiffvsr.build("tiny", **options)
    manifest = read_manifest(out)
    assert (manifest.key.batch, manifest.gate, len(manifest.parity)) == (batch, "passed", 7)
    assert manifest.graphs.geometry.batch == batch
    with pytest.raises(UsageError, match=rf"take {batch} tiles at once.*leave out batch"):
        streamdiffvsr.load(out)
    batched = load_tile_engine(out)
    assert (batched.batch, batched.tile) == (batch, TILE)
    for count in (batch, 1, 2 * batch + 1, 0):
        tiles = some_tiles(count, engine.latent_channels, seed=count)
        expected = engine.refine(tiles)
        got = batched.refine(tiles)
        assert len(got) == count
        for a, b in zip(got, expected, strict=True):
            assert np.abs(a - b).max() <= 127.5 * EXACT
    batched.close()


def mixing_engine(device: Any) -> TileEngine:
    """An engine of batches whose outputs follow from all inputs of a batch."""
    manifest = mixing_upscaler(device, Geometry((TILE, TILE), batch=2)).manifest
    specs = manifest.graphs.specs()
    return TileEngine(manifest, {name: MixingEngine(specs[name]) for name in TILE_GRAPHS}, device)


def as_one(outputs: list[Floats]) -> Floats:
    return np.stack(outputs)


@pytest.mark.parametrize("captures", [True, False])
def test_a_batch_is_the_same_in_any_order_of_its_streams(captures):
    tiles = some_tiles(6, 4)
    expected = as_one(mixing_engine(None).refine(tiles))
    assert np.abs(expected[0] - expected[2]).max() > 1
    for seed in range(12):
        device = SimulatedDevice(seed, captures=captures)
        batched = mixing_engine(device)
        got = as_one(batched.refine(tiles))
        assert np.array_equal(got, expected), seed
        launched = device.calls.count("launch")
        assert launched == (2 if captures else 0), "all but the first batch, each as one launch"
        slot = batched._runner
        assert isinstance(slot, TileSlot) and bool(slot.obstacle) != captures


def test_closing_ends_the_streams(monkeypatch):
    closed: list[str] = []
    monkeypatch.setattr(SimulatedStream, "close", lambda stream: closed.append(stream.name))
    batched = mixing_engine(SimulatedDevice(0))
    batched.refine(some_tiles(1, 4))
    batched.close()
    batched.close()
    assert len(closed) == 2


def test_batches_allocate_nothing_once_they_run():
    device = SimulatedDevice(0)
    batched = mixing_engine(device)
    batched.refine(some_tiles(4, 4))
    device.calls.clear()
    batched.refine(some_tiles(5, 4))
    assert set(device.calls) == {"launch", "wait"}


def test_a_failure_is_raised_and_the_next_tiles_are_right():
    class Fails(SimulatedDevice):
        failing = False

        def run_until(self, reached: list[bool]) -> None:
            if self.failing:
                raise RuntimeError("the device failed")
            super().run_until(reached)

    device, tiles = Fails(0), some_tiles(4, 4)
    batched = mixing_engine(device)
    expected = as_one(batched.refine(tiles))
    device.failing = True
    with pytest.raises(RuntimeError, match="the device failed"):
        batched.refine(tiles)
    device.failing = False
    device.calls.clear()
    assert np.array_equal(as_one(batched.refine(tiles)), expected)
    assert "pinned" in device.calls, "the buffers of the failed batch are given up"
