"""RAFT optical flow (Teed and Deng, 2020): encoders, recurrent update, and the whole model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configs import RAFTConfig
from .correlation import AllPairs, Correlation

STRIDES = (2, 1, 2, 2)  # of the first convolution and the three layers: 8 in all


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
    """Returns a padded convolution with bias, with its norm and ReLU if any."""
    padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding)]
    if norm != "none":
        layers.append(_norm(norm, outputs))
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a residual around them; the first may halve the size."""

    def __init__(self, inputs: int, outputs: int, *, norm: str, stride: int) -> None:
        super().__init__()
        self.convnormrelu1 = conv_norm_relu(inputs, outputs, 3, stride=stride, norm=norm)
        self.convnormrelu2 = conv_norm_relu(outputs, outputs, 3, norm=norm)
        self.downsample = _shortcut(inputs, outputs, norm, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.convnormrelu2(self.convnormrelu1(x))
        return F.relu(self.downsample(x) + hidden)


class BottleneckBlock(nn.Module):
    """A residual block through a quarter of the channels, as in the small model."""

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
    """The feature or context encoder: (1, 3, H, W) -> (1, widths[-1], H/8, W/8)."""

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


FACTOR = 8  # the flow is computed at an eighth of the image's resolution
MASK_SCALE = 0.25  # balances the gradients of mask and flow; part of the trained weights' meaning


class MotionEncoder(nn.Module):
    """Correlation features and the present flow -> motion features, the flow itself last."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        samples = config.corr_block_num_levels * (2 * config.corr_block_radius + 1) ** 2
        corr, flow = config.motion_encoder_corr_layers, config.motion_encoder_flow_layers
        self.convcorr1 = conv_norm_relu(samples, corr[0], 1)
        two = len(corr) == 2
        self.convcorr2 = conv_norm_relu(corr[0], corr[1], 3) if two else nn.Identity()
        self.convflow1 = conv_norm_relu(2, flow[0], 7)
        self.convflow2 = conv_norm_relu(flow[0], flow[1], 3)
        self.conv = conv_norm_relu(corr[-1] + flow[-1], config.motion_encoder_out_channels - 2, 3)

    def forward(self, flow: Tensor, corr: Tensor) -> Tensor:
        corr = self.convcorr2(self.convcorr1(corr))
        features = self.convflow2(self.convflow1(flow))
        return torch.cat([self.conv(torch.cat([corr, features], dim=1)), flow], dim=1)


class ConvGRU(nn.Module):
    """A convolutional gated recurrent unit (Cho et al., arXiv:1406.1078)."""

    def __init__(self, hidden: int, inputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.hidden = hidden
        self.convz = nn.Conv2d(hidden + inputs, hidden, kernel, padding=padding)
        self.convr = nn.Conv2d(hidden + inputs, hidden, kernel, padding=padding)
        self.convq = nn.Conv2d(hidden + inputs, hidden, kernel, padding=padding)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Applies the unit to the state h (1, hidden, ..) and the input x (1, inputs, ..)."""
        hx = torch.cat([h, x], dim=1)
        z, r = self.convz(hx).sigmoid(), self.convr(hx).sigmoid()
        q = self.convq(torch.cat([r * h, x], dim=1)).tanh()
        out: Tensor = (1 - z) * h + z * q
        return out

    def unroll(self, context: Tensor) -> GRUStep:
        """Returns `forward` for x = (context, motion), the context's part computed in advance."""
        hidden, count = self.hidden, context.shape[1]
        convs = (self.convz, self.convr, self.convq)
        weight = torch.cat([conv.weight for conv in convs])
        bias = torch.cat([cast(Tensor, conv.bias) for conv in convs])
        padding = cast("tuple[int, int]", self.convz.padding)
        terms = F.conv2d(context, weight[:, hidden : hidden + count], bias, padding=padding)
        changing = torch.cat([weight[:, :hidden], weight[:, hidden + count :]], dim=1)
        gates, candidate = torch.split(changing, [2 * hidden, hidden])
        gate_terms, candidate_terms = torch.split(terms, [2 * hidden, hidden], dim=1)
        return GRUStep(gates, candidate, gate_terms, candidate_terms, padding)


@dataclass(frozen=True, slots=True)
class GRUStep:
    """A `ConvGRU` for one context, whose terms are added instead of convolved in each step."""

    gates: Tensor  # (2 hidden, hidden + motion, *kernel): z and r at once
    candidate: Tensor  # (hidden, hidden + motion, *kernel)
    gate_terms: Tensor  # (1, 2 hidden, h, w)
    candidate_terms: Tensor  # (1, hidden, h, w)
    padding: tuple[int, int]

    def __call__(self, h: Tensor, motion: Tensor) -> Tensor:
        zr = F.conv2d(torch.cat([h, motion], dim=1), self.gates, padding=self.padding)
        z, r = (zr + self.gate_terms).sigmoid().chunk(2, dim=1)
        q = F.conv2d(torch.cat([r * h, motion], dim=1), self.candidate, padding=self.padding)
        return h + z * ((q + self.candidate_terms).tanh() - h)


class RecurrentBlock(nn.Module):
    """One recurrent unit, or two: one along rows and one along columns."""

    def __init__(self, config: RAFTConfig, context: int) -> None:
        super().__init__()
        hidden = config.recurrent_block_hidden_state_size
        inputs = context + config.motion_encoder_out_channels
        self.count = len(config.recurrent_block_kernel_size)
        for i, kernel in enumerate(config.recurrent_block_kernel_size, start=1):
            setattr(self, f"convgru{i}", ConvGRU(hidden, inputs, kernel))

    def units(self) -> list[ConvGRU]:
        return [cast(ConvGRU, getattr(self, f"convgru{i + 1}")) for i in range(self.count)]


class FlowHead(nn.Module):
    """Hidden state -> the change of the flow, (1, 2, h, w)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv2(F.relu(self.conv1(x))))


class UpdateBlock(nn.Module):
    """The parts of one update, under torchvision's names."""

    def __init__(self, config: RAFTConfig, context: int) -> None:
        super().__init__()
        hidden = config.recurrent_block_hidden_state_size
        self.motion_encoder = MotionEncoder(config)
        self.recurrent_block = RecurrentBlock(config, context)
        self.flow_head = FlowHead(hidden, config.flow_head_hidden_size)


class MaskPredictor(nn.Module):
    """Hidden state -> the weights of the convex upsampling, (1, 9 * 64, h, w)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.convrelu = conv_norm_relu(inputs, hidden, 3)
        self.conv = nn.Conv2d(hidden, FACTOR * FACTOR * 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        return MASK_SCALE * cast(Tensor, self.conv(self.convrelu(x)))


def upsample_flow(flow: Tensor, mask: Tensor | None) -> Tensor:
    """Upsamples (1, 2, h, w) in pixels at 1/8 to (1, 2, 8 h, 8 w) in full-size pixels.

    With a mask, each fine pixel is a convex combination of its 3x3 coarse neighbours (RAFT, section
    3.3); without one, upsampling is bilinear with aligned corners, as in the small model.
    """
    height, width = flow.shape[2:]
    if mask is None:
        size = (FACTOR * height, FACTOR * width)
        return FACTOR * F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
    batch = flow.shape[0]
    logits = mask.float().view(batch, 9, FACTOR * FACTOR, height, width)
    # The softmax divides last: over an inner axis, engines would transpose the whole mask.
    weights = (logits - logits.amax(dim=1, keepdim=True)).exp()
    padded = F.pad(FACTOR * flow, (1, 1, 1, 1))
    # The neighbours as nine shifted views: every runtime has Slice, few have im2col.
    neighbours = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    around = torch.stack(neighbours, dim=1)  # (1, 9, 2, h, w)
    sums = [(weights * around[:, :, c : c + 1]).sum(1) for c in (0, 1)]  # (b, 64, h, w) each
    fine = torch.stack(sums, dim=1) / weights.sum(1)[:, None]
    return F.pixel_shuffle(fine.flatten(1, 2), FACTOR)


MakeCorrelation = Callable[[Tensor, Tensor, int, int], Correlation]
MIN_SIDE = 128  # the coarsest correlation level must still be two pixels wide


def pixel_grid(height: int, width: int) -> Tensor:
    """Returns pixel coordinates (1, 2, h, w) in float32, x first."""
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([xs, ys])[None]


class RAFT(nn.Module):
    """RAFT: `encode` each frame, then `estimate` the flow from the current to the previous."""

    def __init__(self, config: RAFTConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden = config.recurrent_block_hidden_state_size
        self.feature_encoder = Encoder(
            config.feature_encoder_layers,
            config.feature_encoder_block,
            config.feature_encoder_norm_layer,
        )
        self.context_encoder = Encoder(
            config.context_encoder_layers,
            config.context_encoder_block,
            config.context_encoder_norm_layer,
        )
        context = config.context_encoder_layers[-1] - self.hidden
        self.update_block = UpdateBlock(config, context)
        self.mask_predictor = (
            MaskPredictor(self.hidden, config.mask_predictor_hidden_size)
            if config.mask_predictor_hidden_size
            else None
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes (1, 3, H, W), nominally in [-1, 1], H and W multiples of 8 and at least 128.

        Returns:
            Features to match (1, F, H/8, W/8) and context (1, hidden + C, H/8, W/8).
        """
        return self.feature_encoder(image), self.context_encoder(image)

    def estimate(
        self,
        fmap: Tensor,
        previous_fmap: Tensor,
        context: Tensor,
        make_correlation: MakeCorrelation = AllPairs,
    ) -> Tensor:
        """Returns the flow in pixels of the image, (1, 2, H, W) float32, x first.

        It points from a pixel of the current frame to its place in the previous one. Positions,
        correlation and flow stay in float32 in any precision; only the last update's hidden state
        is upsampled.
        """
        config = self.config
        correlation = make_correlation(
            fmap, previous_fmap, config.corr_block_num_levels, config.corr_block_radius
        )
        hidden = torch.tanh(context[:, : self.hidden])
        inputs = F.relu(context[:, self.hidden :])
        updates = [unit.unroll(inputs) for unit in self.update_block.recurrent_block.units()]
        batch, _, height, width = fmap.shape
        start = pixel_grid(height, width).to(fmap.device)
        # Zero, but not a constant, whose first lookup would be folded into kilobytes per pixel.
        flow = 0 * fmap[:, :2].float()
        for _ in range(config.num_flow_updates):
            corr = correlation.lookup((start + flow).flatten(2).transpose(1, 2).flatten(0, 1))
            corr = corr.view(batch, height * width, -1).transpose(1, 2)  # (b, samples, h w)
            corr = corr.reshape(batch, -1, height, width).to(fmap.dtype)
            motion = self.update_block.motion_encoder(flow.to(fmap.dtype), corr)
            for update in updates:
                hidden = update(hidden, motion)
            flow = flow + self.update_block.flow_head(hidden).float()
        mask = None if self.mask_predictor is None else self.mask_predictor(hidden)
        return upsample_flow(flow, mask)
