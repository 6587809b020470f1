"""The ControlNet: turns the warped previous frame into residuals for the UNet's skips."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Prompt
from .configs import ControlNetConfig
from .denoiser import Denoiser


class ConditioningEmbedding(nn.Module):
    """The hint: the warped frame at HR brought down to LR, (1, 3, H, W) -> (1, C0, h, w).

    It depends on the frame and not on the step, so an engine runs it once per frame.
    """

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        widths = config.conditioning_embedding_out_channels
        self.conv_in = nn.Conv2d(config.conditioning_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for inputs, outputs in pairwise(widths):
            self.blocks.append(nn.Conv2d(inputs, inputs, 3, padding=1))
            self.blocks.append(nn.Conv2d(inputs, outputs, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(widths[-1], config.block_out_channels[0], 3, padding=1)

    def forward(self, warped: Tensor) -> Tensor:
        x = F.silu(self.conv_in(warped))
        for block in self.blocks:
            x = F.silu(block(x))
        return cast(Tensor, self.conv_out(x))


class ControlNet(Denoiser):
    """Zhang et al. (arXiv:2302.05543): a copy of the way down, read out by 1x1 convolutions."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config)
        widths, layers = config.block_out_channels, config.layers_per_block
        self.controlnet_cond_embedding = ConditioningEmbedding(config)
        taps = [widths[0]]
        for level, width in enumerate(widths):
            taps += [width] * (layers + (level < len(widths) - 1))
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(c, c, 1) for c in taps)
        self.controlnet_mid_block = nn.Conv2d(widths[-1], widths[-1], 1)

    def hint(self, warped: Tensor) -> Tensor:
        """(1, 3, H, W) in the model's range, as it is -> (1, C0, h, w)."""
        return cast(Tensor, self.controlnet_cond_embedding(warped))

    def forward(
        self, x: Tensor, time: Tensor, prompt: Prompt, hint: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Residuals for the UNet's skips, in the order the UNet makes them, and for its middle.

        Args:
            x: Latent and LR concatenated, (1, 7, h, w), as the UNet takes them.
            time: Time embedding of this ControlNet, (1, 4 C0).
            prompt: (1, L, D).
            hint: (1, C0, h, w), from `hint`.
        """
        x, skips = self.descend(x, time, prompt, hint)
        taps = zip(self.controlnet_down_blocks, skips, strict=True)
        return [conv(skip) for conv, skip in taps], self.controlnet_mid_block(x)
