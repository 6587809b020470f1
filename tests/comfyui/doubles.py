"""An upscaler that is quick, and as bound to state, seed and strength as the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from streamdiffvsr.runtime.frame_stream import (
    FrameStream,
    Image,
    S,
    Upscaled,
    UpscaledStream,
    mark_images,
)
from streamdiffvsr.runtime.state import PreviousFeatures, StreamState


class Remembering:
    """4x by repeating pixels; a part of each frame is the frame before, a corner is noise."""

    def __init__(self, size: tuple[int, int] = (48, 64), device: str = "cpu") -> None:
        self.size, self.identity, self.device = size, f"remembering {size}", device

    def stream(self, frames: list[Image], state: StreamState) -> FrameStream:
        return FrameStream(self.stream_frames(mark_images(frames), state), state)

    def stream_frames(
        self, frames: Iterable[S], state: StreamState | None = None, *, guidance_scale: float = 1.0
    ) -> UpscaledStream[S]:
        state = state or StreamState()
        for frame in frames:
            before = state.reset() if frame.cut else state
            out, state = self.step(frame.image, before, guidance_scale=guidance_scale)
            yield Upscaled(frame, out, state)

    def step(
        self, frame: Image, state: StreamState, *, guidance_scale: float = 1.0
    ) -> tuple[Image, StreamState]:
        assert frame.shape == (*self.size, 3)
        if state.features is not None:  # what is handed back is of this very state
            assert state.features.fmap[0] == state.frame_index
        hr = (frame.astype(np.float32) / 127.5 - 1).repeat(4, 0).repeat(4, 1)
        if state.previous_hr is not None:
            kept = 0.25 * guidance_scale
            hr = (1 - kept) * hr + kept * state.previous_hr[0].transpose(1, 2, 0)
        generator = np.random.default_rng([state.seed, state.frame_index])
        hr[:16, :16] = generator.uniform(-1, 1, 3)
        hr = hr.astype(np.float32)
        following = StreamState(
            seed=state.seed,
            frame_index=state.frame_index + 1,
            previous_hr=hr.transpose(2, 0, 1)[None],
            previous_lr=frame.copy(),
            features=PreviousFeatures(self, np.array([state.frame_index + 1])),
        )
        return np.rint(np.clip(hr / 2 + 0.5, 0, 1) * 255).astype(np.uint8), following
