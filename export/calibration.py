"""What `denoise` is given when it runs: the tensors that its quantisation is calibrated on.

The float32 modules upscale clips frame after frame, each frame guided by the one before it, and
what `denoise` takes at every step is kept. A model's own errors come back to it in the next frame,
so a single picture, or noise, would not show the ranges that it meets. Knows no quantiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..schedule import step_table
from ..spec import MIN_SIDE, Geometry, graph_specs
from .graph_folder import CORRELATIONS, model_dims
from .graphs import build_graphs
from .model import Model

Image = npt.NDArray[np.uint8]
Clip = Sequence[Image]
SampleInputs = dict[str, npt.NDArray[Any]]


def denoise_inputs(
    model: Model,
    geometry: Geometry,
    clips: Sequence[Clip],
    *,
    steps: int = 4,
    correlation: str = "all-pairs",
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> list[SampleInputs]:
    """The inputs of the fp16 `denoise`, by name, of every step of every frame, in order.

    Args:
        geometry: Of the engines; the size of the clips is the one on which `denoise` runs, which is
            a tile's where there are tiles.
        clips: (h, w, 3) uint8 RGB frames of `geometry.denoised`, in order of time. The first frame
            of each has no guidance, every other is guided by what the model made of the last.
        correlation: RAFT's lookup, "all-pairs" or "on-demand".
        seed: Of the noise.
        progress: Called with the fraction of the frames that is done.
    """
    runner = _Runner(model, geometry, steps, correlation, seed)
    inputs: list[SampleInputs] = []
    total = sum(len(clip) for clip in clips)
    for done, taken in enumerate(_frames(runner, clips), start=1):
        inputs += taken
        progress(done / total)
    return inputs


def _frames(runner: _Runner, clips: Sequence[Clip]) -> Iterator[list[SampleInputs]]:
    for clip in clips:
        runner.start()
        for image in clip:
            yield runner.frame(image)


class _Runner:
    """The seven float32 modules in a row: frames in, what `denoise` takes out."""

    def __init__(
        self, model: Model, geometry: Geometry, steps: int, correlation: str, seed: int
    ) -> None:
        size, scale = geometry.denoised, geometry.flow_scale
        whole = Geometry(size, scale if min(size) >= scale * MIN_SIDE else 1)
        table, dims = step_table(model.configs.scheduler, steps), model_dims(model)
        self._graphs = build_graphs(model, whole, "fp32", table, CORRELATIONS[correlation])
        self._specs = graph_specs(whole, dims, "fp32")
        self._dtypes = {t.name: t.dtype for t in graph_specs(whole, dims, "fp16")["denoise"].inputs}
        self._steps = [torch.tensor([i], dtype=torch.int32) for i in range(steps)]
        self._noise = torch.Generator().manual_seed(seed)
        self.start()

    def start(self) -> None:
        """A new epoch: the next frame has no previous one."""
        self._previous: tuple[Tensor, Tensor] | None = None  # its features and its raw hr

    @torch.inference_mode()
    def frame(self, image: Image) -> list[SampleInputs]:
        """One frame; returns what `denoise` was given at each of its steps."""
        lr, up = self._graphs["prepare"](torch.from_numpy(image.copy())[None])
        fmap, context = self._graphs["features"](up)
        hint, warped, gate = self._zeros("guide", "hint"), None, torch.zeros(1)
        if self._previous is not None:
            flow = self._graphs["flow"](fmap, self._previous[0], context)
            warped, hint = self._graphs["guide"](self._previous[1], flow)
            gate = torch.ones(1)
        latent = torch.randn(self._zeros("denoise", "denoised").shape, generator=self._noise)
        same = self._as_given(lr=lr, hint=hint, gate=gate)
        taken = []
        for step in self._steps:
            taken.append(same | self._as_given(latent=latent, step=step))
            latent = self._graphs["denoise"](latent, lr, hint, step, gate)
        self._previous = fmap, self._decoded(latent, lr, warped, gate)
        return taken

    def _decoded(self, latent: Tensor, lr: Tensor, warped: Tensor | None, gate: Tensor) -> Tensor:
        if warped is None:
            names = [t.name for t in self._specs["temporal"].outputs]
            features = [self._zeros("temporal", name) for name in names]
        else:
            features = list(self._graphs["temporal"](warped))
        matched = [lr] if any(t.name == "lr" for t in self._specs["decode"].inputs) else []
        hr: Tensor = self._graphs["decode"](latent, *matched, *features, gate)[0]
        return hr

    def _as_given(self, **tensors: Tensor) -> SampleInputs:
        return {
            name: x.numpy().astype(self._dtypes[name], order="C") for name, x in tensors.items()
        }

    def _zeros(self, graph: str, output: str) -> Tensor:
        found = next(t for t in self._specs[graph].outputs if t.name == output)
        return torch.zeros(found.shape)
