"""The denoiser: the UNet, the ControlNet that guides it, and their common parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.spec import SCALE
from .blocks import (
    TIME_EMBED_FACTOR,
    Downsample,
    Prompt,
    ResnetBlock,
    TimestepEmbedding,
    Transformer,
    Upsample,
    sinusoidal_embedding,
)
from .configs import ControlNetConfig, DenoiserConfig, UNetConfig


class Level(nn.Module):
    """One resolution: ResNet blocks, each followed by a transformer if the level has them."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.attends = bool(attentions)

    def layer(self, i: int, x: Tensor, time: Tensor, prompt: Prompt) -> Tensor:
        """Applies the i-th ResNet block and its transformer: (1, C, h, w) -> (1, C', h, w)."""
        x = self.resnets[i](x, time)
        if self.attends:
            x = self.attentions[i](x, prompt)
        return x


class DownLevel(Level):
    """A level of the way down, which returns every layer's result as a skip."""

    def __init__(
        self, resnets: list[ResnetBlock], attentions: list[Transformer], downsample: bool
    ) -> None:
        super().__init__(resnets, attentions)
        channels = resnets[-1].conv2.out_channels
        self.downsamplers = nn.ModuleList([Downsample(channels)]) if downsample else None

    def forward(self, x: Tensor, time: Tensor, prompt: Prompt) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, prompt)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """ResNet block, transformer with self-attention, ResNet block, at the lowest resolution."""

    def __init__(self, first: ResnetBlock, attention: Transformer, last: ResnetBlock) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([first, last])
        self.attentions = nn.ModuleList([attention])

    def forward(self, x: Tensor, time: Tensor, prompt: Prompt) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, time), prompt)
        out: Tensor = self.resnets[1](x, time)
        return out


def resnet(config: DenoiserConfig, inputs: int, outputs: int) -> ResnetBlock:
    """Returns a ResNet block with this model's norm and time width."""
    time = config.block_out_channels[0] * TIME_EMBED_FACTOR
    return ResnetBlock(inputs, outputs, time, config.norm_num_groups, config.norm_eps)


def transformer(
    config: DenoiserConfig, level: int, *, cross_only: bool | None = None
) -> Transformer:
    """Returns a transformer of this model at one level; `cross_only` overrides the config's."""
    return Transformer(
        config.block_out_channels[level],
        config.cross_attention_dim,
        config.heads[level],
        layers=config.transformer_layers[level],
        cross_only=config.cross_only[level] if cross_only is None else cross_only,
        linear=config.use_linear_projection,
        groups=config.norm_num_groups,
    )


class Denoiser(nn.Module):
    """Time embedding, first convolution, the levels down and the middle."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0])
        self.down_blocks = nn.ModuleList(self._down(level) for level in range(len(widths)))
        last = len(widths) - 1
        self.mid_block = MidBlock(
            resnet(config, widths[-1], widths[-1]),
            transformer(config, last, cross_only=False),
            resnet(config, widths[-1], widths[-1]),
        )

    def _down(self, level: int) -> DownLevel:
        config, widths = self.config, self.config.block_out_channels
        inputs = [widths[max(level - 1, 0)]] + [widths[level]] * (config.layers_per_block - 1)
        attends = config.down_block_types[level].startswith("CrossAttn")
        return DownLevel(
            [resnet(config, channels, widths[level]) for channels in inputs],
            [transformer(config, level) for _ in inputs] if attends else [],
            downsample=level < len(widths) - 1,
        )

    def embed_time(self, timestep: Tensor) -> Tensor:
        """Embeds a (1,) training timestep as (1, 4 C0), in the weights' dtype."""
        config = self.config
        wave = sinusoidal_embedding(
            timestep, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift
        )
        out: Tensor = self.time_embedding(wave.to(self.conv_in.weight.dtype))
        return out

    def descend(
        self, x: Tensor, time: Tensor, prompt: Prompt, hint: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Takes (1, in, h, w) to the middle's output and the skips, in the order they are made.

        `hint` (1, C0, h, w) is added after the first convolution.
        """
        x = self.conv_in(x)
        if hint is not None:
            x = x + hint
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, time, prompt)
            skips += more
        return self.mid_block(x, time, prompt), skips


def as_batch(timestep: int | Tensor) -> Tensor:
    """Returns a timestep as the (1,) float32 tensor that `embed_time` takes."""
    return torch.as_tensor(timestep, dtype=torch.float32).reshape(1)


class UpLevel(Level):
    """A level of the way up, each of whose layers takes the last skip and its own input."""

    def __init__(
        self, resnets: list[ResnetBlock], attentions: list[Transformer], level: int
    ) -> None:
        super().__init__(resnets, attentions)
        channels = resnets[-1].conv2.out_channels
        # A frame's sides are multiples of SCALE, so its first halvings leave no remainder.
        doubles = SCALE % 2**level == 0
        self.upsamplers = nn.ModuleList([Upsample(channels, doubles)]) if level else None

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
        # The skips, newest first: this level's layers, then the skip from the level above.
        skips = [widths[level]] * config.layers_per_block + [widths[max(level - 1, 0)]]
        before = [widths[min(level + 1, len(widths) - 1)]] + [widths[level]] * (layers - 1)
        attends = config.up_block_types[i].startswith("CrossAttn")
        return UpLevel(
            [resnet(config, b + s, widths[level]) for b, s in zip(before, skips, strict=True)],
            [transformer(config, level) for _ in range(layers)] if attends else [],
            level,
        )

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        prompt: Prompt,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Returns one prediction, (1, 4, h, w).

        Args:
            x: Latent and LR concatenated, (1, 7, h, w).
            time: Time embedding (1, 4 C0), or the input of the folded time projections.
            prompt: (1, L, D).
            residuals: The ControlNet's, for every skip (in the order made) and for the middle.
        """
        x, skips = self.descend(x, time, prompt)
        if residuals is not None:
            skips = [skip + extra for skip, extra in zip(skips, residuals[0], strict=True)]
            x = x + residuals[1]
        for block in self.up_blocks:
            x = block(x, skips, time, prompt)
        return cast(Tensor, self.conv_out(F.silu(self.conv_norm_out(x))))


class ConditioningEmbedding(nn.Module):
    """The hint: the warped HR frame reduced to LR's size, (1, 3, H, W) -> (1, C0, h, w).

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
        """Returns the hint (1, C0, h, w) of a warped frame (1, 3, H, W) in the model's range."""
        return cast(Tensor, self.controlnet_cond_embedding(warped))

    def forward(
        self, x: Tensor, time: Tensor, prompt: Prompt, hint: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Returns residuals for the UNet's skips, in the order it makes them, and for its middle.

        Args:
            x: Latent and LR concatenated, (1, 7, h, w), as for the UNet.
            time: Time embedding of this ControlNet, (1, 4 C0).
            prompt: (1, L, D).
            hint: (1, C0, h, w), from `hint`.
        """
        x, skips = self.descend(x, time, prompt, hint)
        taps = zip(self.controlnet_down_blocks, skips, strict=True)
        return [conv(skip) for conv, skip in taps], self.controlnet_mid_block(x)
