"""The blocks of the UNet, the ControlNet and the autoencoder, and their phase form.

The phase form computes each convolution that follows a nearest-neighbour enlargement at the small
size, as one small convolution for each output phase; the results are the same sums.
"""

from __future__ import annotations

import math
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Double

Prompt = Tensor | None  # (1, L, D), or None if its projections are folded
TIME_EMBED_FACTOR = 4  # the time embedding is four times as wide as the first level


def sinusoidal_embedding(
    timestep: Tensor, width: int, flip_sin_to_cos: bool, freq_shift: float
) -> Tensor:
    """Embeds (n,) timesteps as (n, width) float32.

    Vaswani et al. (arXiv:1706.03762), section 3.5.
    """
    half = width // 2
    exponent = -math.log(10_000) * torch.arange(half, dtype=torch.float32) / (half - freq_shift)
    angle = timestep.float()[:, None] * exponent.exp().to(timestep.device)
    parts = (angle.cos(), angle.sin()) if flip_sin_to_cos else (angle.sin(), angle.cos())
    return torch.cat(parts, dim=-1)


class TimestepEmbedding(nn.Module):
    """The two-layer perceptron on the sinusoidal embedding: (1, C) -> (1, 4 C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, channels * TIME_EMBED_FACTOR)
        self.linear_2 = nn.Linear(channels * TIME_EMBED_FACTOR, channels * TIME_EMBED_FACTOR)

    def forward(self, embedding: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(embedding)))
        return out


class TimeProjection(nn.Linear):
    """One ResNet block's projection of the time embedding: (1, 4 C0) -> (1, C)."""

    def forward(self, time: Tensor) -> Tensor:
        return super().forward(F.silu(time))


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU and 3x3 convolution, twice, with the time added in between: (1, C, h, w)."""

    def __init__(self, inputs: int, outputs: int, time: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj: nn.Module = TimeProjection(time, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(time)[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        out: Tensor = hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return out


class Attention(nn.Module):
    """Multi-head attention of (1, n, C) queries over (1, m, D) context."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k: nn.Module = nn.Linear(context, channels, bias=False)
        self.to_v: nn.Module = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Prompt) -> Tensor:
        # Written out instead of one fused call: with the prompt folded, the scaled key is a
        # constant, which the fused call would scale and transpose again in every step.
        query = self._split(self.to_q(x))  # (1, heads, n, C / heads)
        key = self._split(self.to_k(context) * self.scale).transpose(2, 3)
        weights = torch.softmax(query @ key, dim=-1)  # (1, heads, n, m)
        mixed = weights @ self._split(self.to_v(context))
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class GEGLU(nn.Module):
    """Gated GELU (Shazeer, arXiv:2002.05202): (1, n, C) -> (1, n, 4 C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, channels * 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = hidden * F.gelu(gate)
        return out


class FeedForward(nn.Module):
    """The transformer's perceptron. `net` has a gap at 1, where training has a dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels), nn.Identity(), nn.Linear(channels * 4, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Two attentions and a perceptron. With `cross_only`, both attentions take the prompt."""

    def __init__(self, channels: int, prompt: int, heads: int, cross_only: bool) -> None:
        super().__init__()
        self.cross_only = cross_only
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, prompt if cross_only else channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, prompt, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, prompt: Prompt) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, prompt if self.cross_only else normed)
        x = x + self.attn2(self.norm2(x), prompt)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Transformer(nn.Module):
    """Transformer blocks over the pixels of (1, C, h, w), with a residual around them."""

    def __init__(
        self,
        channels: int,
        prompt: int,
        heads: int,
        *,
        layers: int,
        cross_only: bool,
        linear: bool,
        groups: int,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, prompt, heads, cross_only) for _ in range(layers)
        )
        self.proj_out = (
            nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor, prompt: Prompt) -> Tensor:
        hidden = self.norm(x)
        if self.linear:
            hidden = self.proj_in(hidden.flatten(2).transpose(1, 2))  # (1, h w, C)
        else:
            hidden = self.proj_in(hidden).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            hidden = block(hidden, prompt)
        if self.linear:
            hidden = self.proj_out(hidden).transpose(1, 2).reshape(x.shape)
        else:
            hidden = self.proj_out(hidden.transpose(1, 2).reshape(x.shape))
        out: Tensor = hidden + x
        return out


class Downsample(nn.Module):
    """Halves the size by a stride-2 convolution; odd sizes round up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Nearest-neighbour resize to the size of the skip that follows, then a convolution.

    The size is exactly double, unless an odd size was halved on the way down.

    Args:
        doubles: Whether it is exactly double at any size of a frame.
    """

    def __init__(self, channels: int, doubles: bool = False) -> None:
        super().__init__()
        self.doubles = doubles
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, size=size, mode="nearest"))
        return out


MIN_CHANNELS = 64
PHASES = tuple(product((0, 1), (0, 1)))  # (row parity, column parity) in pixel-shuffle order


class PhaseSplit(nn.Module):
    """`conv` on the nearest-doubled input, computed undoubled: (1, C, h, w) -> (1, C', 2h, 2w)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias = conv.bias
        for i, (row, column) in enumerate(PHASES):
            kernel = _merge(_merge(conv.weight.detach(), row, 2), column, 3)
            self.register_buffer(f"kernel_{i}", kernel)

    def forward(self, x: Tensor) -> Tensor:
        phases = []
        for i, (row, column) in enumerate(PHASES):
            # Even rows also see the row above, odd ones the row below; columns likewise.
            around = F.pad(x, (1 - column, column, 1 - row, row))
            kernel = cast(Tensor, getattr(self, f"kernel_{i}"))
            phases.append(F.conv2d(around, kernel, self.bias))
        return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)


def _merge(weight: Tensor, parity: int, dim: int) -> Tensor:
    """Merges three taps on the doubled grid into two on the original, along one axis."""
    before, centre, after = weight.unbind(dim)
    taps = (before, centre + after) if parity == 0 else (before + centre, after)
    return torch.stack(taps, dim)


class PhaseSplitUpsample(nn.Module):
    """`Upsample` with its convolution split, for a size that is exactly double."""

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.split = PhaseSplit(upsample.conv)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return cast(Tensor, self.split(x))


def split_phases(module: nn.Module) -> None:
    """Replaces every doubling convolution that is wide enough, in place; weights do not change."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if not (isinstance(child, Upsample) and child.doubles):
                continue
            if child.conv.in_channels >= MIN_CHANNELS:
                setattr(parent, name, PhaseSplitUpsample(child))
        if isinstance(parent, nn.Sequential):
            _split_sequence(parent)


def _split_sequence(layers: nn.Sequential) -> None:
    for i in range(len(layers) - 1):
        double, conv = layers[i], layers[i + 1]
        if not (isinstance(double, Double) and isinstance(conv, nn.Conv2d)):
            continue
        if conv.in_channels >= MIN_CHANNELS:
            layers[i], layers[i + 1] = nn.Identity(), PhaseSplit(conv)
