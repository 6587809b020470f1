"""Upscalers for tests of jobs: quick, and as bound to state, seed and frame number as the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from streamdiffvsr.runtime.frame_stream import Image, S, Upscaled, UpscaledStream
from streamdiffvsr.runtime.state import StreamState


class Nearest:
    """4x by repeating pixels; the picture depends on nothing else."""

    identity = "nearest"

    def __init__(self, size: tuple[int, int] = (48, 64)) -> None:
        self.size = size

    def stream_frames(
        self, frames: Iterable[S], state: StreamState | None = None
    ) -> UpscaledStream[S]:
        state = state or StreamState()
        for frame in frames:
            out, state = self.step(frame.image, state.reset() if frame.cut else state)
            yield Upscaled(frame, out, state)

    def step(self, frame: Image, state: StreamState) -> tuple[Image, StreamState]:
        hr = self.raw(frame, state)
        out = np.rint(np.clip(hr / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
        following = StreamState(
            seed=state.seed,
            frame_index=state.frame_index + 1,
            previous_hr=hr.transpose(2, 0, 1)[None],
            previous_lr=frame.copy(),
        )
        return out, following

    def raw(self, frame: Image, state: StreamState) -> np.ndarray:
        """(H, W, 3) in [-1, 1]."""
        return (frame.astype(np.float32) / 127.5 - 1).repeat(4, 0).repeat(4, 1)


class Remembering(Nearest):
    """A quarter of each frame is the frame before; a corner shows seed and number."""

    identity = "remembering"

    def raw(self, frame: Image, state: StreamState) -> np.ndarray:
        hr = super().raw(frame, state)
        if state.previous_hr is not None:
            hr = 0.75 * hr + 0.25 * state.previous_hr[0].transpose(1, 2, 0)
        generator = np.random.default_rng([state.seed, state.frame_index])
        hr[:16, :16] = generator.uniform(-1, 1, 3)
        return hr.astype(np.float32)
