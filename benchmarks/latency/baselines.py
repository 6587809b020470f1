"""What a frame costs by other means, on the same frames and machine, between the same rounds.

The eager reference runs the model in the original's order with its weights, on the same device.
Bicubic is what there is without a model. Any command can be a baseline: it is run on two videos of
different lengths, so that its start-up does not count as frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...engines.manifest import Manifest
from ...errors import StreamDiffVSRError
from ...runtime.media.frames.resize import Bicubic
from ...runtime.noise import frame_noise
from ...spec import SCALE, padded_size
from .frames import endless
from .quantiles import median, quantiles, ratios

Image = npt.NDArray[np.uint8]


class Baseline(Protocol):
    """Something that upscales the clip frame by frame."""

    id: str
    describe: str
    most: int  # frames of a round; a slow one is not run as often

    def frame(self) -> None:
        """Upscale the next frame, to its end."""
        ...


class BicubicBaseline:
    """swscale's, one thread, as live shows it where the model is too slow."""

    id, most = "bicubic", 1000
    describe = "bicubic x4 by swscale on the CPU"

    def __init__(self, manifest: Manifest) -> None:
        self._frames = endless(manifest.graphs.geometry.size)
        self._enlarge = Bicubic(SCALE)

    def frame(self) -> None:
        """See `Baseline`."""
        self._enlarge(next(self._frames))


class ReferenceBaseline:
    """The original's order of work, eager torch in float32.

    Raises:
        StreamDiffVSRError: The model of the engines is not to be found, or torch is missing.
    """

    id, most = "reference", 4

    def __init__(self, manifest: Manifest) -> None:
        from ...host import TORCH_MODULES, require_export

        require_export(TORCH_MODULES)
        self._steps = self._run(manifest)
        device = manifest.key.device
        self.describe = f"eager torch on {device} in the original's order, fp32, the same weights"
        next(self._steps)  # the first has no guidance, and finds its kernels

    def frame(self) -> None:
        """See `Baseline`."""
        next(self._steps)

    @staticmethod
    def _run(manifest: Manifest) -> Iterator[None]:
        from ...export.hub import resolve_model
        from ...export.model import load_model
        from ...export.reference import Reference, ReferenceState

        key = manifest.key
        model = load_model(resolve_model(manifest.model_name, None), match_colour=key.match_colour)
        if model.digest != manifest.key.model_digest:
            raise StreamDiffVSRError(
                "the reference cannot be run",
                f"{manifest.model_name} is not the model of these engines any more",
                "build them again",
            )
        size = manifest.graphs.geometry.size
        reference = Reference(model, manifest.key.steps, manifest.key.device)
        shape = (model.configs.vae.latent_channels, *padded_size(size))
        state = ReferenceState()
        for index, frame in enumerate(endless(size)):
            _, _, state = reference.step(frame, state, frame_noise(0, index, shape))
            yield


class Race:
    """A baseline beside a subject's plain loop, a round of each in turn."""

    def __init__(self, baseline: Baseline, subject: str) -> None:
        self.baseline, self.subject = baseline, subject
        self._ms: list[float] = []
        self._rounds: list[float] = []
        for _ in range(2):
            baseline.frame()

    def run(self, count: int) -> None:
        """A round of it."""
        times = []
        for _ in range(min(count, self.baseline.most)):
            started = time.perf_counter()
            self.baseline.frame()
            times.append(1e3 * (time.perf_counter() - started))
        self._ms += times
        self._rounds.append(median(times))

    def result(self, subject_rounds: list[float]) -> dict[str, Any]:
        """As in a result; its frame over the subject's, round by round."""
        paired = min(len(self._rounds), len(subject_rounds))
        told = ratios(self._rounds[:paired], subject_rounds[:paired])
        return {
            "id": self.baseline.id,
            "describe": self.baseline.describe,
            "subject": self.subject,
            "frame_ms": quantiles(self._ms),
            "start_up_s": None,
            **(told or {"ratio": None, "spread": None, "pairs": 0}),
        }
