"""The way down and the middle: the half of the UNet that the ControlNet is a copy of.

`Denoiser` holds what both have under the names both use; the UNet adds the way up, the ControlNet
its hint and its zero convolutions. Knows neither of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import (
    TIME_EMBED_FACTOR,
    Downsample,
    Prompt,
    ResnetBlock,
    TimestepEmbedding,
    Transformer,
    sinusoidal_embedding,
)
from .configs import DenoiserConfig


class Level(nn.Module):
    """One resolution: ResNet blocks, each followed by a transformer where the level has them."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[Transformer]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.attends = bool(attentions)

    def layer(self, i: int, x: Tensor, time: Tensor, prompt: Prompt) -> Tensor:
        """The i-th ResNet block with its transformer: (1, C, h, w) -> (1, C', h, w)."""
        x = self.resnets[i](x, time)
        if self.attends:
            x = self.attentions[i](x, prompt)
        return x


class DownLevel(Level):
    """A level of the way down: hands out every layer's result as a skip."""

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
    """A ResNet block of this model's norm and time width."""
    time = config.block_out_channels[0] * TIME_EMBED_FACTOR
    return ResnetBlock(inputs, outputs, time, config.norm_num_groups, config.norm_eps)


def transformer(
    config: DenoiserConfig, level: int, *, cross_only: bool | None = None
) -> Transformer:
    """A transformer of this model at one level; `cross_only` overrides the config's."""
    return Transformer(
        config.block_out_channels[level],
        config.cross_attention_dim,
        config.heads[level],
        layers=config.transformer_layers[level],
        cross_only=config.only_cross_attention[level] if cross_only is None else cross_only,
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
        """(1,) training timestep -> (1, 4 C0) embedding, in the weights' dtype."""
        config = self.config
        wave = sinusoidal_embedding(
            timestep, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift
        )
        out: Tensor = self.time_embedding(wave.to(self.conv_in.weight.dtype))
        return out

    def descend(
        self, x: Tensor, time: Tensor, prompt: Prompt, hint: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(1, in, h, w) -> the middle's output and the skips, in the order they were made.

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
    """A timestep as the (1,) float32 tensor that `embed_time` takes."""
    return torch.as_tensor(timestep, dtype=torch.float32).reshape(1)
