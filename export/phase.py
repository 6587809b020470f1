"""Nearest-neighbour doubling and the 3x3 convolution after it, as four 2x2 convolutions.

Each output pixel of the pair sees at most 2x2 different input pixels, which ones depending on the
parity of its row and column; summing the kernel's weights over pixels that coincide gives one 2x2
kernel for each of the four phases. The same result to rounding for 16/36 of the multiplications.
Applies where the size exactly doubles, and pays from 64 channels on (docs/performance.md).
"""

from __future__ import annotations

from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Double
from .blocks import Upsample

MIN_CHANNELS = 64
PHASES = tuple(product((0, 1), (0, 1)))  # (row parity, column parity) in pixel-shuffle order


class PhaseSplit(nn.Module):
    """(1, C, h, w) -> (1, C', 2h, 2w), equal to `conv` on the nearest-doubled input."""

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
    """Three taps on the doubled grid -> two on the original, along one axis."""
    before, centre, after = weight.unbind(dim)
    taps = (before, centre + after) if parity == 0 else (before + centre, after)
    return torch.stack(taps, dim)


class PhaseSplitUpsample(nn.Module):
    """`Upsample` with its convolution split; an odd size is not an exact double and stays whole."""

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.whole, self.split = upsample, PhaseSplit(upsample.conv)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if size == (2 * x.shape[2], 2 * x.shape[3]):
            return cast(Tensor, self.split(x))
        return cast(Tensor, self.whole(x, size))


def split_phases(module: nn.Module) -> None:
    """Replace every doubling convolution that is wide enough, in place; weights are not changed."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Upsample) and child.conv.in_channels >= MIN_CHANNELS:
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
