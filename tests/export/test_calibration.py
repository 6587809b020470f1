"""Tests that a quantised `denoise` is calibrated on the model's own run, guided and unguided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdiffvsr.building.fp8 import calibration_clips
from streamdiffvsr.engines.engine_set import open_engines
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.export.quantisation import denoise_inputs
from streamdiffvsr.graphs.spec import Geometry
from streamdiffvsr.runtime.upscaler import Upscaler

pytestmark = pytest.mark.slow  # minutes together, on two cores

SIZE = (48, 64)
STEPS = 4


@pytest.fixture(scope="module")
def model(parity_model: Path) -> Model:
    return load_model(parity_model)


@pytest.fixture(scope="module")
def clips() -> list[list[np.ndarray]]:
    photographic, made = calibration_clips(SIZE)
    return [photographic[:3], made[:2]]


@pytest.fixture(scope="module")
def inputs(model: Model, clips: list[list[np.ndarray]]) -> list[dict[str, Any]]:
    return denoise_inputs(model, Geometry(SIZE), clips)


def test_it_sees_every_step_without_guidance_and_with(inputs, clips):
    assert len(inputs) == STEPS * sum(len(clip) for clip in clips)
    assert [int(given["step"][0]) for given in inputs] == [0, 1, 2, 3] * 5
    gates = [float(given["gate"][0]) for given in inputs[::STEPS]]
    assert gates == [0, 1, 1, 0, 1]  # each clip begins without a previous frame
    for given in inputs:
        assert given["hint"].any() == bool(given["gate"][0])
        assert {x.dtype.name for name, x in given.items() if name != "step"} == {"float16"}


class Recorded:
    """An engine that remembers what it was given."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.describe = engine, engine.describe
        self.given: list[dict[str, np.ndarray]] = []

    def bind(self, buffers: dict[str, np.ndarray]) -> Any:
        self.given.append({name: buffers[name].copy() for name in buffers if name != "denoised"})
        return self._engine.bind(buffers)


def test_it_sees_what_a_run_of_the_engines_gives(inputs, clips, parity_engines):
    """Frame after frame, on the model's own last output: not on noise, nor on the truth."""
    manifest, engines = open_engines(parity_engines)
    denoise = Recorded(engines["denoise"])
    upscaler = Upscaler(manifest, {**engines, "denoise": denoise})
    state = upscaler.initial_state()
    for index, frame in enumerate(clips[0]):
        noise = inputs[STEPS * index]["latent"][0].astype(np.float32)
        _, state = upscaler.step(frame, state, noise=noise)
    assert len(denoise.given) == STEPS * len(clips[0])
    for theirs, ours in zip(denoise.given, inputs, strict=False):
        for name, tensor in theirs.items():
            scale = max(1.0, np.abs(tensor).max())
            assert np.abs(ours[name].astype(np.float64) - tensor).max() < 5e-3 * scale, name


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_another_does_not(model, clips, inputs):
    def same(seed: int) -> bool:
        again = denoise_inputs(model, Geometry(SIZE), [clips[0][:2]], seed=seed)
        return all(
            np.array_equal(a[name], b[name])
            for a, b in zip(again, inputs, strict=False)
            for name in a
        )

    assert same(0) and not same(1)


def test_tiles_are_calibrated_at_their_own_size(model):
    geometry = Geometry((64, 64), flow_scale=2, tile=(32, 32))  # too small for the frame's flow
    (clip, _) = calibration_clips((32, 32))
    given = denoise_inputs(model, geometry, [clip[:2]])
    assert {x["latent"].shape for x in given} == {(1, 4, 32, 32)}
