"""Tests that the model's config or the user decides whether the output gets the input's colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="engines are built with the export extra")

import streamdiffvsr
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.building.spec import resolve
from streamdiffvsr.engines.cache import default_folder
from streamdiffvsr.errors import UsageError
from streamdiffvsr.runtime.upscaler import Upscaler

SIZE = (48, 64)


@pytest.mark.parametrize(
    ("asked", "of_tiny", "of_parity"), [("auto", "", ""), ("on", "", "on"), ("off", "off", "")]
)
def test_only_what_differs_from_the_model_is_another_set(
    parity_model: Path, asked: str, of_tiny: str, of_parity: str
) -> None:
    for model, colour in (("tiny", of_tiny), (str(parity_model), of_parity)):
        order, _ = resolve(BuildRequest(model=model, color_match=asked), SIZE)
        plain, _ = resolve(BuildRequest(model=model), SIZE)
        assert order.key.colour == colour
        assert (default_folder(order.key) == default_folder(plain.key)) == (not colour)


def test_another_word_is_refused() -> None:
    with pytest.raises(UsageError, match="color match 'maybe' is not possible; use auto, on, off"):
        resolve(BuildRequest(color_match="maybe"), SIZE)


def broad_error(up: Upscaler, frame: np.ndarray) -> float:
    """Mean difference of the broad colours of output and input, in levels."""
    out, _ = up.step(frame, up.initial_state())
    blocks = out.reshape(SIZE[0] // 8, 32, SIZE[1] // 8, 32, 3).mean(axis=(1, 3))
    wanted = frame.reshape(SIZE[0] // 8, 8, SIZE[1] // 8, 8, 3).mean(axis=(1, 3))
    return float(np.abs(blocks - wanted).mean())


@pytest.mark.slow
def test_the_broad_colours_are_the_inputs(
    parity_model: Path, parity_engines: Path, tmp_path: Path
) -> None:
    """Weights that were never trained make any colours; matched, they are the input's."""
    frame = np.random.default_rng(0).integers(60, 196, (6, 8, 3)).astype(np.uint8)
    frame = np.ascontiguousarray(frame.repeat(8, 0).repeat(8, 1))
    folder = streamdiffvsr.build(parity_model, size=SIZE, color_match="on", out=tmp_path / "on")
    without = broad_error(streamdiffvsr.load(parity_engines), frame)
    assert without > 10
    assert broad_error(streamdiffvsr.load(folder), frame) < 0.2 * without
