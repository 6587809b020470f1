"""The gate of an fp8 engine: its own graph's distance from the reference, in decibels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from streamdiffvsr.engines.parity import FP8_FLOOR, check_parity, decibels, noise_to_signal
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import GraphSpec, TensorSpec, golden_file

SHAPE = (1, 4, 32, 32)
DRAW = np.random.default_rng(0)
TRUE = DRAW.normal(size=SHAPE).astype(np.float32)
NOISE = DRAW.normal(size=SHAPE).astype(np.float32)
OTHER_NOISE = DRAW.normal(size=SHAPE).astype(np.float32)


def gate(folder: Path, quantised: float | None, output: np.ndarray) -> Any:
    """Judge an engine whose graph has this much noise, in shares of the signal."""
    spec = GraphSpec(
        "denoise",
        (TensorSpec("latent", SHAPE, "float16"),),
        (TensorSpec("denoised", SHAPE, "float16"),),
    )
    record = {"in.latent": TRUE.astype(np.float16), "out.denoised": TRUE}
    if quantised is not None:
        record["quantised.denoised"] = (TRUE + quantised * NOISE).astype(np.float16)
    save_file(record, folder / golden_file("denoise"))
    engine: Any = SimpleNamespace(describe=lambda: spec)
    return check_parity(
        engine, folder, "fp16", lambda _, given, made: np.copyto(made["denoised"], output)
    )


@pytest.mark.parametrize(("quantised", "engine"), [(0.05, 0.03), (0.05, 0.09), (1e-4, 5e-3)])
def test_as_near_as_its_graph_is_accepted(tmp_path, quantised, engine):
    entry = gate(tmp_path, quantised, TRUE + engine * OTHER_NOISE)
    assert entry.error == pytest.approx(engine, rel=0.1)
    assert entry.tolerance == pytest.approx(max(FP8_FLOOR, 2 * quantised), rel=0.1)


@pytest.mark.parametrize(
    "output",
    [
        TRUE + 0.15 * OTHER_NOISE,
        np.zeros_like(TRUE),
        np.where(np.arange(32) == 7, np.nan, TRUE),
        -TRUE,
        1.2 * TRUE,
    ],
    ids=["noise", "black", "not a number", "negative", "too bright"],
)
def test_further_off_is_refused_in_one_line(tmp_path, output):
    with pytest.raises(
        StreamDiffVSRError, match=r"signal-to-noise ratio of .*needs 19\.\d dB"
    ) as no:
        gate(tmp_path, 0.05, output)
    assert "\n" not in str(no.value)


def test_other_sets_keep_the_elementwise_tolerance(tmp_path):
    """One value far off, which a mean would hide."""
    output = TRUE.copy()
    output[0, 0, 0, 0] += 1.0
    assert gate(tmp_path, 0.05, output).error < 0.05
    with pytest.raises(StreamDiffVSRError, match=r"differs from the reference"):
        gate(tmp_path, None, output)


def test_decibels_as_a_user_reads_them():
    assert decibels(0.1) == "20.0 dB" and decibels(float("nan")) == "not finite"
    assert decibels(noise_to_signal(TRUE, TRUE)) == "180.0 dB"
