"""The built-in clip: the demo upscales it, `bench` takes its frames, and fp8 is judged on it."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parent / "assets" / "demo"
CLIP, TRUTH = ASSETS / "clip.mp4", ASSETS / "truth.png"
TRUTH_FRAME = 16  # the frame of the clip that `TRUTH` shows: the recurrence has settled by then
