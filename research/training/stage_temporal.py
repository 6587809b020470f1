"""Stage 4: ControlNet and temporal processors on sequences, guided by the model's own output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...export.graphs import warp
from .batched_flow import hr_flow
from .clips import Batch, ClipMaker
from .loop import Losses
from .losses import psnr, steady_loss, temporal_loss
from .networks import Networks
from .photographs import VALIDATION
from .rollout import STEPS, Denoising, Target, noise_like, target

KEY, VALIDATION_KEY = 4, 1_000_000
SIDE = 128  # HR pixels
CLIPS = 6
FRAMES = (4, 6, 6, 16)  # lengths to draw from: long clips show errors that feed back
TRAINED_STEP = (0.2, 0.1, 0.1, 0.6)
LATENT_WEIGHT = 0.1
# Weight of the change of the error: first the model learns detail, at the end to keep it steady.
TEMPORAL_WEIGHTS, STEADYING = (1.5, 3.0), 0.75


@dataclass
class TemporalStage:
    """Sequences in which every frame is trained on, guided by the model's own previous output.

    The gradient stops at the frame, but the error that feeds back is the model's own, over all
    frames of the clip, so that it learns to correct it. Some clips have a cut.
    """

    networks: Networks
    clips: ClipMaker
    steps: int
    name: str = "temporal"
    groups: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        networks = self.networks
        guidance = networks.trainable("controlnet")
        trained = networks.trainable("unet", "prompt", "controlnet", "vae.decoder")
        mixing = [p for n, p in networks.vae.decoder.named_parameters() if _mixes(n)]
        others = {id(p) for p in guidance + mixing}
        self.denoising = Denoising(networks)
        self.groups = [
            {"params": guidance + mixing, "lr": 1e-3},
            {"params": [p for p in trained if id(p) not in others], "lr": 5e-4},
        ]
        self.held_out = ClipMaker(self.clips.seed, VALIDATION).batch(
            (KEY, VALIDATION_KEY), 4, 8, (192, 192)
        )

    def draw(self, step: int) -> Target:
        rng = np.random.default_rng([self.clips.seed, KEY, step])
        frames = int(rng.choice(FRAMES))
        clips = self.clips.batch((KEY, step), CLIPS, frames, (SIDE, SIDE))
        return target(self.networks, clips)

    def losses(self, step: int, drawn: Target) -> Iterator[Losses]:
        rng = np.random.default_rng([self.clips.seed, KEY, step, 1])
        batch = drawn.clips
        temporal_weight = TEMPORAL_WEIGHTS[step >= STEADYING * self.steps]
        previous: Tensor | None = None
        for n in range(batch.hr.shape[1]):
            trained = int(rng.choice(STEPS, p=TRAINED_STEP))
            output, final, estimate = self._frame(batch, n, previous, trained, (step, n))
            truth = batch.hr[:, n]
            latent = F.l1_loss(estimate, drawn.latent[:, n])
            latent = latent / self.networks.vae.config.scaling_factor
            pixels = steady_loss(output, truth)
            total = pixels + LATENT_WEIGHT * latent
            values = {"pixels": pixels, "latent": latent}
            if previous is not None:
                change = temporal_loss(
                    output - truth,
                    previous - batch.hr[:, n - 1],
                    batch.flow[:, n],
                    batch.visible[:, n],
                )
                total, values["change"] = total + temporal_weight * change, change
            yield {"total": total, **values}
            previous = final

    def _frame(
        self, batch: Batch, n: int, previous: Tensor | None, trained: int, key: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs frame n; returns the output that learns, the one passed on, and the estimate."""
        networks, lr = self.networks, batch.lr[:, n]
        vae, hint, features = networks.vae, None, []
        if previous is not None:
            warped = warp(previous, hr_flow(networks.flow, lr, batch.lr[:, n - 1]))
            hint, features = networks.controlnet.hint(warped), vae.temporal_features(warped)
        noise = noise_like(lr, vae.config.latent_channels, self.clips.seed, KEY, *key)
        rolled = self.denoising.roll(noise, lr, hint, trained, finish=True)
        output = vae.decode(rolled.estimate, features)
        if trained == STEPS - 1:
            return output, output.detach(), rolled.estimate
        assert rolled.final is not None
        with torch.no_grad():
            return output, vae.decode(rolled.final, features), rolled.estimate

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Returns the last frame's PSNR in dB and the error's change, guided and unguided."""
        batch, figures = self.held_out, {}
        for name, guided in (("", True), ("_unguided", False)):
            previous: Tensor | None = None
            changes: list[float] = []
            for n in range(batch.hr.shape[1]):
                given = previous if guided else None
                output, _, _ = self._frame(batch, n, given, STEPS - 1, (VALIDATION_KEY, n))
                error = output.clamp(-1, 1) - batch.hr[:, n]
                if previous is not None:
                    before = previous.clamp(-1, 1) - batch.hr[:, n - 1]
                    change = temporal_loss(error, before, batch.flow[:, n], batch.visible[:, n])
                    changes.append(change.item())
                previous = output
            figures[f"psnr{name}"] = psnr(output, batch.hr[:, -1])
            figures[f"change{name}"] = sum(changes) / len(changes)
        up = F.interpolate(batch.lr[:, -1], scale_factor=4, mode="bicubic")
        return {**figures, "bicubic": psnr(up, batch.hr[:, -1])}


def _mixes(name: str) -> bool:
    return "temporal_processor" in name or name.endswith("alpha")
