"""The ways of making a live frame at one size, and the state that goes from one to the other.

Each rung but bicubic is an `Upscaler`; the state of the last frame stays on its device until
another rung needs it. It decides nothing: which rung, and when to forget, is its user's to say.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...engines.timed import StageTimes, timed
from ...spec import Size
from ..ring import Ring
from ..state import StreamState
from ..upscaler import AHEAD, Upscaler
from .budget import BICUBIC

Image = npt.NDArray[np.uint8]


class LiveEngine:
    """One Upscaler run frame by frame; on a GPU through a ring, so the state stays there."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._times = StageTimes()
        self._ring: Ring | None = None
        if upscaler.in_slots:
            self._ring = upscaler.ring(AHEAD["latency"])
        else:
            upscaler = Upscaler(upscaler.manifest, timed(upscaler.engines, self._times))
        self._upscaler = upscaler
        self._state = upscaler.initial_state()

    @property
    def size(self) -> Size:
        """LR size (h, w) of its frames."""
        return self._upscaler.size

    @property
    def state(self) -> StreamState:
        """After the last frame."""
        return self._state if self._ring is None else self._ring.state

    def start(self, state: StreamState) -> None:
        """Go on from a state."""
        if self._ring is None:
            self._state = state
        else:
            self._ring.start(state)

    def step(self, image: Image) -> Image:
        """(h, w, 3) uint8 RGB -> (4h, 4w, 3) uint8 RGB."""
        if self._ring is None:
            out, self._state = self._upscaler.step(image, self._state)
            return out
        self._ring.begin(image)
        return self._ring.finish()

    def stage_ms(self) -> dict[str, float]:
        """What each graph took in the last frame; empty where they run on a GPU's own time."""
        return self._times.take()

    def close(self) -> None:
        """Give its streams back."""
        if self._ring is not None:
            self._ring.schedule.close()


class Ladder:
    """The engines of one size by rung, best first, sharing one state.

    Args:
        engines: At least one, the best first; all of one size.
        seed: Of the noise.
        described: What they are, in a few words.
        device: What they run on, "cpu" or "cuda".
    """

    def __init__(
        self,
        engines: Mapping[str, LiveEngine],
        *,
        seed: int,
        described: str,
        device: str = "cpu",
    ) -> None:
        if not engines:
            raise ValueError("a ladder needs an engine")
        self.engines, self.described, self.device = dict(engines), described, device
        self.rungs = (*engines, BICUBIC)
        self._active = next(iter(self.engines.values()))
        self._active.start(StreamState(seed=seed))

    @property
    def size(self) -> Size:
        """LR size (h, w) of its frames."""
        return self._active.size

    def forget(self) -> None:
        """Begin a new epoch: the next frame is made without a previous one."""
        self._active.start(self._active.state.reset())

    def step(self, rung: str, image: Image) -> tuple[Image, dict[str, float]]:
        """The frame by that rung, and the milliseconds of its stages."""
        engine = self.engines[rung]
        if engine is not self._active:
            engine.start(self._active.state)
            self._active = engine
        return engine.step(image), engine.stage_ms()

    def close(self) -> None:
        """Give back what its engines hold."""
        for engine in self.engines.values():
            engine.close()
