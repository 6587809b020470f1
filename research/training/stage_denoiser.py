"""Stage 3: the UNet by rollout distillation, on single frames, with the decoder following."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .clips import ClipMaker
from .loop import Losses
from .losses import pixel_loss, psnr
from .networks import Networks
from .rollout import STEPS, Denoising, Target, noise_like, target
from .validation import Validation

KEY = 3
SIDE = 128  # HR pixels
CLIPS = 8
TRAINED_STEP = (0.35, 0.1, 0.15, 0.4)  # how often each step is trained
LATENT_WEIGHT = 0.2


@dataclass
class DenoiserStage:
    """The UNet without guidance; latents are compared with the frozen encoder's, frames with HR."""

    networks: Networks
    clips: ClipMaker
    validation: Validation
    steps: int
    name: str = "denoiser"
    groups: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        networks = self.networks
        networks.trainable("unet", "prompt", "vae.decoder")
        self.denoising = Denoising(networks)
        self.groups = [
            {"params": [*networks.unet.parameters(), networks.prompt], "lr": 1e-3},
            {"params": [*networks.vae.decoder.parameters()], "lr": 4e-4},
        ]

    def draw(self, step: int) -> Target:
        return target(self.networks, self.clips.batch((KEY, step), CLIPS, 1, (SIDE, SIDE)))

    def losses(self, step: int, drawn: Target) -> Iterator[Losses]:
        hr, lr = drawn.clips.hr[:, 0], drawn.clips.lr[:, 0]
        vae = self.networks.vae
        key = (self.clips.seed, KEY, step)
        trained = np.random.default_rng(key).choice(STEPS, p=TRAINED_STEP)
        noise = noise_like(lr, vae.config.latent_channels, *key)
        estimate = self.denoising.roll(noise, lr, None, int(trained), finish=False).estimate
        latent = F.l1_loss(estimate, drawn.latent[:, 0]) / vae.config.scaling_factor
        pixels = pixel_loss(vae.decode(estimate), hr)
        yield {"total": pixels + LATENT_WEIGHT * latent, "pixels": pixels, "latent": latent}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Returns PSNR in dB, and the largest difference of a channel's mean in 8-bit steps."""
        scores, shifts = [], []
        for hr, lr in self.validation.frames:
            noise = noise_like(lr, self.networks.vae.config.latent_channels, KEY)
            final = self.denoising.roll(noise, lr, None, STEPS, finish=True).final
            assert final is not None
            output = self.networks.vae.decode(final)
            scores.append(psnr(output, hr))
            shift = output.clamp(-1, 1).mean((2, 3)) - lr.mean((2, 3))
            shifts.append(127.5 * shift.abs().max().item())
        return {
            "psnr": sum(scores) / len(scores),
            "bicubic": self.validation.bicubic,
            "colour_shift": max(shifts),
        }
