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
from ..state import StreamState
from ..upscaler import Upscaler
from .budget import BICUBIC

Image = npt.NDArray[np.uint8]


class LiveEngine:
    """One Upscaler run frame by frame.

    Attributes:
        state: After the last frame; on a GPU its output stays there.
    """

    def __init__(self, upscaler: Upscaler) -> None:
        self._times = StageTimes()
        if not upscaler.in_slots:
            engines = timed(upscaler.engines, self._times)
            upscaler = Upscaler(upscaler.manifest, engines, upscaler.device)
        self._upscaler = upscaler
        self.state = upscaler.initial_state()

    @property
    def size(self) -> Size:
        """LR size (h, w) of its frames."""
        return self._upscaler.size

    def step(self, image: Image) -> Image:
        """(h, w, 3) uint8 RGB -> (4h, 4w, 3) uint8 RGB."""
        out, self.state = self._upscaler.step(image, self.state)
        return out

    def stage_ms(self) -> dict[str, float]:
        """What each graph took in the last frame; empty where they run on a GPU's own time."""
        return self._times.take()

    def close(self) -> None:
        """Give its streams back."""
        self._upscaler.close()


class QualityLevels:
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
        self._active.state = StreamState(seed=seed)

    @property
    def size(self) -> Size:
        """LR size (h, w) of its frames."""
        return self._active.size

    def forget(self) -> None:
        """Begin a new epoch: the next frame is made without a previous one."""
        self._active.state = self._active.state.reset()

    def step(self, rung: str, image: Image) -> tuple[Image, dict[str, float]]:
        """The frame by that rung, and the milliseconds of its stages."""
        engine = self.engines[rung]
        if engine is not self._active:
            engine.state = self._active.state
            self._active = engine
        return engine.step(image), engine.stage_ms()

    def close(self) -> None:
        """Give back what its engines hold."""
        for engine in self.engines.values():
            engine.close()
