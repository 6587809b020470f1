"""The denoising UNet: predicts v (or the noise) from the latent and LR, 7 channels in, 4 out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Prompt, ResnetBlock, Transformer, Upsample
from .configs import UNetConfig
from .denoiser import Denoiser, Level, resnet, transformer


class UpLevel(Level):
    """A level of the way up: each layer takes the last skip beside its input."""

    def __init__(
        self, resnets: list[ResnetBlock], attentions: list[Transformer], upsample: bool
    ) -> None:
        super().__init__(resnets, attentions)
        channels = resnets[-1].conv2.out_channels
        self.upsamplers = nn.ModuleList([Upsample(channels)]) if upsample else None

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, prompt: Prompt) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.layer(i, torch.cat([x, skips.pop()], dim=1), time, prompt)
        if self.upsamplers is not None:
            height, width = skips[-1].shape[2:]  # the next level's size, odd ones included
            x = self.upsamplers[0](x, (height, width))
        return x


class UNet(Denoiser):
    """Rombach et al. (arXiv:2112.10752), with the ControlNet's residuals added to its skips."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        self.up_blocks = nn.ModuleList(self._up(config, i) for i in range(len(widths)))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def _up(self, config: UNetConfig, i: int) -> UpLevel:
        widths, layers = config.block_out_channels, config.layers_per_block + 1
        level = len(widths) - 1 - i
        # The skips, last made first: this level's layers, then what the level above handed down.
        skips = [widths[level]] * config.layers_per_block + [widths[max(level - 1, 0)]]
        before = [widths[min(level + 1, len(widths) - 1)]] + [widths[level]] * (layers - 1)
        attends = config.up_block_types[i].startswith("CrossAttn")
        return UpLevel(
            [resnet(config, b + s, widths[level]) for b, s in zip(before, skips, strict=True)],
            [transformer(config, level) for _ in range(layers)] if attends else [],
            upsample=level > 0,
        )

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        prompt: Prompt,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """One prediction.

        Args:
            x: Latent and LR concatenated, (1, 7, h, w).
            time: Time embedding (1, 4 C0), or whatever the time projections were folded to take.
            prompt: (1, L, D).
            residuals: The ControlNet's, for every skip (in the order made) and for the middle.

        Returns:
            (1, 4, h, w).
        """
        x, skips = self.descend(x, time, prompt)
        if residuals is not None:
            skips = [skip + extra for skip, extra in zip(skips, residuals[0], strict=True)]
            x = x + residuals[1]
        for block in self.up_blocks:
            x = block(x, skips, time, prompt)
        return cast(Tensor, self.conv_out(F.silu(self.conv_norm_out(x))))
