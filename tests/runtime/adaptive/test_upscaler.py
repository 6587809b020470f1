"""Adaptive mode with the built-in model: near the whole frame, and never below interpolation."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.adaptive.canvas import Canvas
from streamdiffvsr.runtime.adaptive.tile_engine import TILE, load_tile_engine
from streamdiffvsr.runtime.adaptive.upscaler import AdaptiveUpscaler
from streamdiffvsr.runtime.state import StreamState
from streamdiffvsr.runtime.upscaler import load
from streamdiffvsr.tests.runtime.adaptive.scenes import TruthEngine, pan, reduced

SIZE = (64, 96)


@pytest.fixture(scope="module")
def engine(shared_folder: Path) -> Any:
    return load_tile_engine(
        streamdiffvsr.build("tiny", size=(TILE, TILE), out=shared_folder / f"tile_{TILE}")
    )


def frames(size: tuple[int, int], count: int) -> Any:
    return reduced(pan(size, count, (1, 2)))


def test_all_tiles_are_near_the_whole_frame(engine: Any, tmp_path: Path) -> None:
    whole = load(streamdiffvsr.build("tiny", size=SIZE, out=tmp_path / "whole"))
    upscaler = AdaptiveUpscaler(engine, SIZE)
    state, canvas = whole.initial_state(seed=3), upscaler.initial_state(seed=3)
    for frame in frames(SIZE, 3):
        exact, state = whole.step(frame, state)
        ours, canvas = upscaler.step(frame, canvas, tiles=upscaler.tile_count)
    difference = exact.astype(np.float32) - ours
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 36


def test_a_step_changes_nothing_and_gives_the_same_twice(engine: Any) -> None:
    upscaler = AdaptiveUpscaler(engine, SIZE)
    first, second = frames(SIZE, 2)
    _, state = upscaler.step(first, upscaler.initial_state(), tiles=2)
    before = {f.name: np.copy(getattr(state, f.name)) for f in fields(state)}
    outs = [upscaler.step(second, state, tiles=2)[0] for _ in range(2)]
    assert np.array_equal(*outs)
    assert all(np.array_equal(getattr(state, name), value) for name, value in before.items())


def test_a_stream_goes_on_from_a_file(engine: Any, tmp_path: Path) -> None:
    upscaler = AdaptiveUpscaler(engine, SIZE)
    first, second = frames(SIZE, 2)
    _, state = upscaler.step(first, upscaler.initial_state(seed=7), tiles=2)
    state.save(tmp_path / "canvas")
    loaded = Canvas.load(tmp_path / "canvas")
    assert loaded.seed == 7 and loaded.frame_index == 1 and not loaded.blank
    expected, _ = upscaler.step(second, state, tiles=1)
    assert np.array_equal(upscaler.step(second, loaded, tiles=1)[0], expected)


@pytest.mark.parametrize("size", [(1, 1), (30, 47), (48, 48), (49, 51), (131, 75)])
@pytest.mark.parametrize("tiles", [0, 1, 10**6])
def test_every_size_works(engine: Any, size: tuple[int, int], tiles: int) -> None:
    upscaler = AdaptiveUpscaler(engine, size)
    state = upscaler.initial_state()
    for frame in np.random.default_rng(0).integers(0, 255, (2, *size, 3)).astype(np.uint8):
        out, state = upscaler.step(frame, state, tiles=tiles)
        assert out.shape == (4 * size[0], 4 * size[1], 3) and out.dtype == np.uint8
        assert out.flags.c_contiguous


def test_a_reset_empties_the_canvas_and_goes_on_counting(engine: Any) -> None:
    upscaler = AdaptiveUpscaler(engine, SIZE)
    _, state = upscaler.step(frames(SIZE, 1)[0], upscaler.initial_state(seed=5), tiles=2)
    assert state.fresh.any()
    empty = state.reset()
    assert not empty.detail.any() and not empty.fresh.any() and empty.blank
    assert (empty.seed, empty.frame_index) == (5, 1)


def test_a_frame_or_a_state_of_another_size_is_refused() -> None:
    upscaler = AdaptiveUpscaler(TruthEngine(), SIZE)  # type: ignore[arg-type]
    frame = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(StreamDiffVSRError, match="this upscaler takes uint8 RGB of 96x64"):
        upscaler.step(frame[:-1], upscaler.initial_state(), tiles=0)
    with pytest.raises(StreamDiffVSRError, match="the state belongs to frames of 80x64"):
        upscaler.step(frame, Canvas.empty((64, 80)), tiles=0)


def test_what_is_no_canvas_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(StreamDiffVSRError, match="no state file"):
        Canvas.load(path)
    StreamState(seed=1).save(path)
    with pytest.raises(StreamDiffVSRError, match="its format is 'streamdiffvsr-state-1'"):
        Canvas.load(path)
    Canvas.empty(SIZE).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StreamDiffVSRError, match="could not read the state"):
        Canvas.load(path)
    replace(Canvas.empty(SIZE), fresh=np.zeros((3, 3), np.float32)).save(path)
    with pytest.raises(StreamDiffVSRError, match="fresh is float32"):
        Canvas.load(path)
