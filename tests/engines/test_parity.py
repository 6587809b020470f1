"""The numbers a user gets: engines against the original's recorded run, and against the reference.

The second half covers what no recording does: other widths, depths, schedules, odd sizes, flow
scales, padding and half precision, each built for real and held against the eager reference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.export.model import load_model
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER
from streamdiffvsr.export.random_model import write_random_model
from streamdiffvsr.export.reference import Reference, ReferenceState
from streamdiffvsr.graphs.spec import padded_size
from streamdiffvsr.runtime.upscaler import frame_noise
from streamdiffvsr.tests.recorded import RAW_TOLERANCE, assert_gives_the_recorded_run


def test_recorded_run_is_matched_on_every_frame(
    parity_engines: Path, parity_trace: dict[str, Any]
) -> None:
    assert_gives_the_recorded_run(streamdiffvsr.load(parity_engines), parity_trace)


def test_manifest_tells_the_error_of_every_graph(parity_engines: Path) -> None:
    parity = json.loads((parity_engines / "manifest.json").read_text())["parity"]
    assert set(parity) == {
        "prepare", "features", "flow", "guide", "temporal", "denoise", "decode",
    }  # fmt: skip
    for entry in parity.values():
        assert 0 <= entry["error"] < entry["tolerance"] == 1e-4


@dataclass(frozen=True)
class Case:
    """A model, a size and build options that differ from the recorded ones."""

    size: tuple[int, int]
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


SHALLOW = {"layers_per_block": 1}
FEW_UPDATES = {"num_flow_updates": 3}
CASES = {
    # 36 -> 18 -> 9 -> 5: the UNet's inner sizes are odd, its upsampling no exact double.
    "epsilon, leading, alpha one, 36x44": Case(
        (36, 44),
        {
            "unet": {**SHALLOW, "block_out_channels": [32, 64, 32, 64]},
            "scheduler": {
                "prediction_type": "epsilon",
                "timestep_spacing": "leading",
                "set_alpha_to_one": True,
            },
        },
    ),
    "three levels, self-attention, two steps, padded 45x50": Case(
        (45, 50),
        {
            "unet": {
                **SHALLOW,
                "block_out_channels": [32, 64, 64],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "only_cross_attention": [False, True, False],
                "attention_head_dim": 4,
                "use_linear_projection": False,
            },
        },
        {"steps": 2},
    ),
    "on-demand correlation, 12x20 padded to 32x32": Case(
        (12, 20), {"unet": SHALLOW}, {"correlation": "on-demand"}
    ),
}


@pytest.mark.slow  # a minute each
@pytest.mark.parametrize("name", CASES)
def test_engines_match_the_eager_reference(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder = write_random_model(
        tmp_path / "model", preset="small", flow=FEW_UPDATES, prompt_tokens=5, **case.model
    )
    up = streamdiffvsr.load(
        streamdiffvsr.build(folder, size=case.size, out=tmp_path / "engines", **case.options)
    )
    reference = Reference(load_model(folder), case.options.get("steps", 4))
    state, expected_state = up.initial_state(seed=3), ReferenceState()
    for i in range(3):
        frame = _frame(case.size, i)
        out, state = up.step(frame, state)
        noise = frame_noise(3, i, (4, *padded_size(case.size)))
        expected, _, expected_state = reference.step(frame, expected_state, noise)
        assert out.shape == (4 * case.size[0], 4 * case.size[1], 3)
        assert expected_state.previous_hr is not None and state.previous_hr is not None
        assert np.abs(state.previous_hr - expected_state.previous_hr.numpy()).max() < RAW_TOLERANCE
        assert np.abs(out.astype(int) - expected).max() <= 1
        assert out.std() > 1, "a constant frame would prove nothing"


@pytest.mark.slow
def test_the_built_in_model_takes_the_flow_at_half_size_and_is_otherwise_its_reference(
    tmp_path: Path,
) -> None:
    folder = streamdiffvsr.build("tiny", size=(64, 68), out=tmp_path / "engines")
    assert read_manifest(folder).key.flow == "all-pairs-2"  # as its config prefers
    up, reference = streamdiffvsr.load(folder), Reference(load_model(BUILT_IN_FOLDER))
    state, expected_state = up.initial_state(seed=3), ReferenceState()
    for i in range(2):
        frame, noise = _frame((64, 68), i), frame_noise(3, i, (12, 64, 68))
        out, state = up.step(frame, state)
        expected, _, expected_state = reference.step(frame, expected_state, noise)
        levels = np.abs(out.astype(int) - expected)
        assert levels.max() <= 1 if i == 0 else levels.mean() < 2  # another flow, another picture


@pytest.mark.slow
def test_half_precision_stays_close(tmp_path: Path, parity_model: Path, parity_trace: Any) -> None:
    folder = streamdiffvsr.build(parity_model, size=(48, 64), precision="fp16", out=tmp_path / "e")
    up = streamdiffvsr.load(folder)
    state = up.initial_state()
    for f in range(3):
        noise = parity_trace[f"noise.{f}"][0]
        out, state = up.step(parity_trace[f"input_u8.{f}"], state, noise=noise)
        assert np.abs(state.previous_hr - parity_trace[f"raw.{f}"]).max() < 0.1
        assert np.abs(out.astype(int) - parity_trace[f"hr_u8.{f}"]).mean() < 1.0
    # The state is independent of the precision: the fp32 file form loads into fp16 engines.
    state.save(tmp_path / "s.safetensors")
    again = streamdiffvsr.StreamState.load(tmp_path / "s.safetensors")
    frame = parity_trace["input_u8.3"]
    np.testing.assert_array_equal(up.step(frame, state)[0], up.step(frame, again)[0])


def _frame(size: tuple[int, int], index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    ys, xs = np.mgrid[0 : size[0], 0 : size[1]]
    wave = 128 + 80 * np.sin((xs + 2 * index) / 4.0) + 40 * np.cos(ys / 3.0)
    return np.stack([wave, wave[::-1], 255 - wave], axis=-1).clip(0, 255).astype(np.uint8)
