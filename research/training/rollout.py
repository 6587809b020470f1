"""The four steps as training runs them: with gradients through one step.

Rollout distillation in the spirit of Stream-DiffVSR (arXiv:2512.23709, section 3): every step is
trained on the actual output of the steps before it. Because the built-in model predicts the sample,
each step's output is an estimate of the final latent and can be judged by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import StreamDiffVSRError
from ...export.denoiser import as_batch
from ...graphs.schedule import StepTable, step_table
from ...graphs.spec import DEFAULT_STEPS
from .clips import Batch
from .networks import Networks

STEPS = DEFAULT_STEPS


@dataclass(frozen=True, slots=True)
class Target:
    """Clips, and the final latents (B, T, C, h, w) that a perfect denoiser would find for them."""

    clips: Batch
    latent: Tensor


def target(networks: Networks, clips: Batch) -> Target:
    """Returns the clips with the latents that the encoder, which is frozen here, gives for HR."""
    hr = clips.hr
    with torch.no_grad():
        latent = networks.vae.encode(hr.flatten(0, 1))  # (B T, C, h, w)
    return Target(clips, latent.view(*hr.shape[:2], *latent.shape[1:]))


@dataclass(frozen=True, slots=True)
class Rollout:
    """The result of a rollout, latents (B, C, h, w) in the diffusion's scale.

    Attributes:
        estimate: The final latent as estimated by the step that carries gradients.
        final: The decoder's input in use; the same tensor if the last step carries gradients.
    """

    estimate: Tensor
    final: Tensor | None


class Denoising:
    """Runs the networks' four steps over a batch."""

    def __init__(self, networks: Networks) -> None:
        scheduler = networks.configs.scheduler
        if scheduler.prediction_type != "sample" or not scheduler.set_alpha_to_one:
            raise StreamDiffVSRError(
                "this training cannot train this model",
                "its steps do not predict the sample, or its last one leaves noise",
                "set prediction_type to sample and set_alpha_to_one to true",
            )
        self.networks = networks
        self.table: StepTable = step_table(scheduler, STEPS)

    def roll(
        self, noise: Tensor, lr: Tensor, hint: Tensor | None, trained: int, *, finish: bool
    ) -> Rollout:
        """Runs the steps from `noise`, with gradients only in step `trained`.

        Args:
            noise: (B, C, h, w) standard normal.
            lr: (B, 3, h, w) in [-1, 1].
            hint: The ControlNet's, (B, C0, h, w), or None: no guidance.
            finish: Continue after the trained step, to the latent that a user would get.
        """
        latent, estimate = noise, noise
        for i in range(STEPS):
            with torch.set_grad_enabled(i == trained):
                output = self._predict(i, latent, lr, hint)
            if i == trained:
                estimate = output
                if not finish:
                    return Rollout(estimate, output if i == STEPS - 1 else None)
            keep, add = float(self.table.latent_scale[i]), float(self.table.output_scale[i])
            if i < STEPS - 1:
                latent = keep * latent + add * output.detach()
        return Rollout(estimate, output)

    def _predict(self, i: int, latent: Tensor, lr: Tensor, hint: Tensor | None) -> Tensor:
        unet, controlnet = self.networks.unet, self.networks.controlnet
        prompt, t = self.networks.prompt, as_batch(int(self.table.timesteps[i]))
        x = torch.cat([latent, lr], dim=1)
        residuals = None
        if hint is not None:
            residuals = controlnet(x, controlnet.embed_time(t), prompt, hint)
        output: Tensor = unet(x, unet.embed_time(t), prompt, residuals)
        return output


def noise_like(lr: Tensor, channels: int, *key: int) -> Tensor:
    """Returns standard normal values (B, channels, h, w) that depend only on the key."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part) % 2**62
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lr), channels, *lr.shape[2:], generator=generator)
