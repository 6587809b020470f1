"""Stage 1: the temporal autoencoder's encoder and decoder, on single frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from .clips import Batch, ClipMaker
from .loop import Losses
from .losses import pixel_loss, psnr
from .networks import Networks
from .validation import Validation

KEY = 1
SIDE = 64  # HR pixels of a crop
CLIPS = 16


@dataclass
class AutoencoderStage:
    """Reconstruction, with an anchor.

    The first three latent channels are pulled to the frame downscaled to LR: what the UNet must get
    right before any detail is then a copy of its own input.
    """

    networks: Networks
    clips: ClipMaker
    validation: Validation
    steps: int
    name: str = "autoencoder"
    groups: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        parameters = self.networks.trainable("vae.encoder", "vae.decoder")
        self.groups = [{"params": parameters, "lr": 3e-3}]

    def draw(self, step: int) -> Batch:
        return self.clips.batch((KEY, step), CLIPS, 1, (SIDE, SIDE))

    def losses(self, step: int, drawn: Batch) -> Iterator[Losses]:
        hr = drawn.hr[:, 0]
        vae = self.networks.vae
        latent = vae.encode(hr)
        pixels = pixel_loss(vae.decode(latent), hr)
        small = F.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True)
        unit = latent / vae.config.scaling_factor
        anchor = F.l1_loss(unit[:, :3], small)
        size = (unit.abs() - 1).clamp(min=0).square().mean()  # beyond 1 the tanh would saturate
        total = pixels + 0.2 * anchor + 0.05 * size
        yield {"total": total, "pixels": pixels, "anchor": anchor}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        vae = self.networks.vae
        pairs = [(vae.decode(vae.encode(hr)), hr) for hr, _ in self.validation.frames]
        return {
            "psnr": sum(psnr(a, b) for a, b in pairs) / len(pairs),
            "bicubic": self.validation.bicubic,
        }
