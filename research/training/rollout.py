"""The four steps as training runs them: gradients through one step, the others as they are.

Rollout distillation in the spirit of Stream-DiffVSR (arXiv:2512.23709, section 3): every step is
trained on what the steps before it really hand over. Because the built-in model predicts the
sample, each step's output is an estimate of the final latent and can be judged on its own.
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
    """What the encoder, frozen by then, makes of HR."""
    hr = clips.hr
    with torch.no_grad():
        latent = networks.vae.encode(hr.flatten(0, 1))  # (B T, C, h, w)
    return Target(clips, latent.view(*hr.shape[:2], *latent.shape[1:]))


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a rollout hands out, latents (B, C, h, w) in the diffusion's scale.

    Attributes:
        estimate: Of the final latent, by the step that carries gradients.
        final: What the decoder gets in use; the same tensor if the last step carries gradients.
    """

    estimate: Tensor
    final: Tensor | None


class Denoising:
    """The networks' four steps over a batch."""

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
        """Run the steps from `noise` with gradients in step `trained` alone.

        Args:
            noise: (B, C, h, w) standard normal.
            lr: (B, 3, h, w) in [-1, 1].
            hint: The ControlNet's, (B, C0, h, w), or None: no guidance.
            finish: Go on after the trained step, to what a user would get.
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
    """Standard normal (B, channels, h, w) that depends on the key alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part) % 2**62
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lr), channels, *lr.shape[2:], generator=generator)
