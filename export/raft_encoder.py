"""RAFT's encoders: images to maps at an eighth of their size. Names are torchvision's."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (2, 1, 2, 2)  # of the first convolution and the three layers: a factor of 8


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels)


def conv_norm_relu(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    norm: str = "none",
    relu: bool = True,
) -> nn.Sequential:
    """A padded convolution with bias, its norm if any, and a ReLU."""
    padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding)]
    if norm != "none":
        layers.append(_norm(norm, outputs))
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a residual; the first may halve the size."""

    def __init__(self, inputs: int, outputs: int, *, norm: str, stride: int) -> None:
        super().__init__()
        self.convnormrelu1 = conv_norm_relu(inputs, outputs, 3, stride=stride, norm=norm)
        self.convnormrelu2 = conv_norm_relu(outputs, outputs, 3, norm=norm)
        self.downsample = _shortcut(inputs, outputs, norm, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.convnormrelu2(self.convnormrelu1(x))
        return F.relu(self.downsample(x) + hidden)


class BottleneckBlock(nn.Module):
    """The same through a quarter of the channels, as the small model has it."""

    def __init__(self, inputs: int, outputs: int, *, norm: str, stride: int) -> None:
        super().__init__()
        narrow = outputs // 4
        self.convnormrelu1 = conv_norm_relu(inputs, narrow, 1, norm=norm)
        self.convnormrelu2 = conv_norm_relu(narrow, narrow, 3, stride=stride, norm=norm)
        self.convnormrelu3 = conv_norm_relu(narrow, outputs, 1, norm=norm)
        self.downsample = _shortcut(inputs, outputs, norm, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.convnormrelu3(self.convnormrelu2(self.convnormrelu1(x)))
        return F.relu(self.downsample(x) + hidden)


def _shortcut(inputs: int, outputs: int, norm: str, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    return conv_norm_relu(inputs, outputs, 1, stride=stride, norm=norm, relu=False)


BLOCKS = {"residual": ResidualBlock, "bottleneck": BottleneckBlock}


class Encoder(nn.Module):
    """(1, 3, H, W) -> (1, widths[-1], H/8, W/8)."""

    def __init__(self, widths: tuple[int, ...], block: str, norm: str) -> None:
        super().__init__()
        self.convnormrelu = conv_norm_relu(3, widths[0], 7, stride=STRIDES[0], norm=norm)
        make = BLOCKS[block]
        for i in (1, 2, 3):
            first = make(widths[i - 1], widths[i], norm=norm, stride=STRIDES[i])
            second = make(widths[i], widths[i], norm=norm, stride=1)
            setattr(self, f"layer{i}", nn.Sequential(first, second))
        self.conv = nn.Conv2d(widths[3], widths[4], 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.convnormrelu(image)
        for i in (1, 2, 3):
            x = getattr(self, f"layer{i}")(x)
        return cast(Tensor, self.conv(x))
