"""The original's recorded run, and whether engines give it."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamdiffvsr.runtime.upscaler import Upscaler

FRAMES = 4
RAW_TOLERANCE = 1e-4  # NUMERICS.md section 1, float32, absolute


def assert_gives_the_recorded_run(up: Upscaler, trace: dict[str, Any]) -> None:
    """Every frame, each from our own frame before: raw output and uint8."""
    state = up.initial_state(seed=0)
    for f in range(FRAMES):
        out, state = up.step(trace[f"input_u8.{f}"], state, noise=trace[f"noise.{f}"][0])
        raw = state.previous_hr
        assert raw is not None and raw.shape == (1, 3, 192, 256)
        assert np.abs(raw - trace[f"raw.{f}"]).max() < RAW_TOLERANCE
        levels = np.abs(out.astype(int) - trace[f"hr_u8.{f}"])
        assert levels.max() <= 1 and (levels > 0).mean() < 1e-3
