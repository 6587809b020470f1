"""The eager reference: the model in the original's own order, without any caching.

Every engine is measured against it, for its numbers and for its speed: both frames are encoded for
every flow, every flow update is upsampled, and the hint, the prompt's projections and the time
embeddings are computed in each of the four steps. Stream-DiffVSR, jamichss/Stream-DiffVSR 9d148ee.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..graphs.arrays import Image
from ..graphs.schedule import StepTable, step_table
from ..graphs.spec import DEFAULT_STEPS, SCALE, padded_size
from .denoiser import as_batch
from .graphs import (
    bicubic,
    bicubic_kernel,
    colour_kernel,
    from_uint8,
    match_colour,
    replicate_pad,
    to_uint8,
    warp,
)
from .model import Model
from .raft import RAFT, pixel_grid, upsample_flow


@dataclass(frozen=True, slots=True)
class ReferenceState:
    """The data that one frame leaves for the next; None before the first frame of an epoch.

    previous_hr is the raw decode (1, 3, 4h, 4w), unclamped; previous_up the bicubic frame.
    """

    previous_hr: Tensor | None = None
    previous_up: Tensor | None = None


class GridSampledCorrelation:
    """RAFT's lookup as in torchvision: a bilinear sampler over the stored volume."""

    def __init__(self, current: Tensor, previous: Tensor, levels: int, radius: int) -> None:
        channels, height, width = current.shape[1:]
        volume = current.flatten(2).transpose(1, 2) @ previous.flatten(2) / channels**0.5
        self.pyramid = [volume.view(-1, 1, height, width)]
        for _ in range(levels - 1):
            self.pyramid.append(F.avg_pool2d(self.pyramid[-1], 2, 2))
        steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
        self.delta = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)

    def lookup(self, positions: Tensor) -> Tensor:
        """Looks up (n, 2), x first -> (n, levels (2r+1)^2), x offsets slowest within a level."""
        samples = []
        for volume in self.pyramid:
            size = torch.tensor([volume.shape[3] - 1, volume.shape[2] - 1])
            grid = 2 * (positions[:, None, None] + self.delta) / size - 1
            samples.append(F.grid_sample(volume, grid, align_corners=True).flatten(1))
            positions = positions / 2
        return torch.cat(samples, dim=1)


def estimate_flow(raft: RAFT, image: Tensor, previous: Tensor) -> Tensor:
    """Returns the flow (1, 2, H, W) from `image` to `previous` (1, 3, H, W).

    Every update is upsampled, and the last is returned.
    """
    config = raft.config
    fmap, previous_fmap = raft.feature_encoder(torch.cat([image, previous])).chunk(2)
    correlation = GridSampledCorrelation(
        fmap, previous_fmap, config.corr_block_num_levels, config.corr_block_radius
    )
    context = raft.context_encoder(image)
    hidden, inputs = torch.tanh(context[:, : raft.hidden]), F.relu(context[:, raft.hidden :])
    height, width = fmap.shape[2:]
    start = pixel_grid(height, width)
    positions = start.clone()
    upsampled = torch.zeros_like(image[:, :2])
    for _ in range(config.num_flow_updates):
        corr = correlation.lookup(positions.flatten(2)[0].T).T.reshape(1, -1, height, width)
        motion = raft.update_block.motion_encoder(positions - start, corr)
        for unit in raft.update_block.recurrent_block.units():
            hidden = unit(hidden, torch.cat([inputs, motion], dim=1))
        positions = positions + raft.update_block.flow_head(hidden)
        mask = None if raft.mask_predictor is None else raft.mask_predictor(hidden)
        upsampled = upsample_flow(positions - start, mask)
    return upsampled


class Reference:
    """The reference in eager float32 torch, run by `step(frame, state, noise)`.

    Args:
        model: Moved to the device.
        device: A torch device, "cpu" or "cuda".
    """

    def __init__(self, model: Model, steps: int = DEFAULT_STEPS, device: str = "cpu") -> None:
        self.model = model.to(device)
        self._device = torch.device(device)
        self.table: StepTable = step_table(model.configs.scheduler, steps)

    @torch.inference_mode()
    def step(
        self, frame: Image, state: ReferenceState, noise: npt.NDArray[Any]
    ) -> tuple[Image, Tensor, ReferenceState]:
        """Upscales one frame.

        Args:
            frame: (h, w, 3) uint8 RGB.
            state: The previous frame's, or a new one.
            noise: (4, h', w') standard normal, at the padded size.

        Returns:
            The output frame (4h, 4w, 3) uint8 RGB, the final latent (1, 4, h', w'), the next state.
        """
        with self._device:  # for constants made inside
            return self._step(
                torch.from_numpy(frame)[None].to(self._device),
                state,
                torch.from_numpy(noise)[None].to(self._device),
            )

    def _step(
        self, frame: Tensor, state: ReferenceState, noise: Tensor
    ) -> tuple[Image, Tensor, ReferenceState]:
        height, width = frame.shape[1:3]
        size = padded_size((height, width))
        lr = replicate_pad(from_uint8(frame), size)
        up = bicubic(lr)
        warped = None
        if state.previous_hr is not None and state.previous_up is not None:
            flow = estimate_flow(self.model.flow, up, state.previous_up)
            full = (SCALE * size[0], SCALE * size[1])
            warped = warp(replicate_pad(state.previous_hr, full), flow)
        latent = self._denoise(noise, lr, warped)
        vae = self.model.vae
        features = [] if warped is None else vae.temporal_features(warped)
        hr = vae.decode(latent, features)
        if vae.config.match_colour:
            hr = match_colour(hr, lr, colour_kernel(), bicubic_kernel())
        hr = hr[:, :, : SCALE * height, : SCALE * width]
        return to_uint8(hr)[0].cpu().numpy(), latent, ReferenceState(hr, up)

    def _denoise(self, latent: Tensor, lr: Tensor, warped: Tensor | None) -> Tensor:
        unet, controlnet, prompt = self.model.unet, self.model.controlnet, self.model.prompt_embeds
        for i, timestep in enumerate(self.table.timesteps):
            x, t = torch.cat([latent, lr], dim=1), as_batch(int(timestep))
            residuals = None
            if warped is not None:
                hint = controlnet.hint(warped)
                residuals = controlnet(x, controlnet.embed_time(t), prompt, hint)
            output = unet(x, unet.embed_time(t), prompt, residuals)
            keep, add = float(self.table.latent_scale[i]), float(self.table.output_scale[i])
            latent = keep * latent + add * output
        return latent
