"""The temporal tiny autoencoder: TAESD's convolutions, and a temporal processor in every block.

The previous frame reaches the decoder as plain inputs: the pooled outputs of the encoder's blocks,
run on the warped frame. Modules keep no state between calls. Attribute names and layer numbers are
the released checkpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configs import AutoencoderConfig

POOL = 4  # temporal features are compared at a quarter of the block's resolution
TEMPORAL_STRENGTH = 0.1  # how much of the processed feature is added to the block's own


def pool(features: Tensor) -> Tensor:
    """Averages over 4x4 pixels, dropping a remainder: (1, C, h, w) -> (1, C, h // 4, w // 4)."""
    return F.avg_pool2d(features, POOL, POOL)


class Block(nn.Module):
    """Three convolutions with a residual around them, optionally mixing in the previous frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.temporal_processor = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, padding=1),
        )
        self.alpha = nn.Parameter(torch.tensor(0.5))  # learnt, unbounded

    def forward(
        self, x: Tensor, previous: Tensor | None = None, gate: Tensor | None = None
    ) -> Tensor:
        """Takes x (1, C, h, w), the pooled `previous` (1, C, h // 4, w // 4) and `gate` (1,)."""
        out = self.conv(x)
        if previous is not None:
            update = TEMPORAL_STRENGTH * self._mix(pool(out), previous)
            if gate is not None:  # before enlarging: at full size it takes two passes over memory
                update = gate * update
            out = out + F.interpolate(update, size=out.shape[2:], mode="bilinear")
        return F.relu(out + x)

    def _mix(self, current: Tensor, previous: Tensor) -> Tensor:
        """Applies the temporal processor to both features as one sequence of pixels, current first.

        The convolutions run across row ends and across the seam between the two, as in the released
        model.
        """
        size, length = current.shape[2:], current.shape[2] * current.shape[3]
        sequence = torch.cat([current.flatten(2), previous.flatten(2)], dim=2)
        mixed = self.temporal_processor(sequence)
        first, second = mixed[:, :, :length], mixed[:, :, length:]
        update: Tensor = self.alpha * first + (1 - self.alpha) * second
        return update.view(update.shape[0], -1, *size)


class Double(nn.Module):
    """Nearest-neighbour upsampling by 2: (1, C, h, w) -> (1, C, 2h, 2w)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")


def _encoder_layers(config: AutoencoderConfig) -> list[nn.Module]:
    width = config.width
    layers: list[nn.Module] = []
    for i, blocks in enumerate(config.num_encoder_blocks):
        if i == 0:
            layers.append(nn.Conv2d(config.in_channels, width, 3, padding=1))
        else:
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
        layers += [Block(width) for _ in range(blocks)]
    return [*layers, nn.Conv2d(width, config.latent_channels, 3, padding=1)]


def _decoder_layers(config: AutoencoderConfig) -> list[nn.Module]:
    width = config.width
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1), nn.ReLU()]
    for i, blocks in enumerate(config.num_decoder_blocks):
        layers += [Block(width) for _ in range(blocks)]
        if i < len(config.num_decoder_blocks) - 1:
            layers.append(Double())
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
    return [*layers, nn.Conv2d(width, config.out_channels, 3, padding=1)]


class Layers(nn.Module):
    """A numbered list of layers, so that checkpoint keys read `encoder.layers.3...`."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)


class TemporalAutoencoder(nn.Module):
    """The autoencoder; latents are LR-sized, so encoder and decoder change the resolution by 4."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Layers(_encoder_layers(config))
        self.decoder = Layers(_decoder_layers(config))

    def encode(self, image: Tensor) -> Tensor:
        """Encodes (1, 3, H, W) in [-1, 1] to a latent (1, 4, h, w); used in training only."""
        return cast(Tensor, self.encoder.layers((image + 1) / 2))

    def temporal_features(self, warped: Tensor) -> list[Tensor]:
        """Returns the encoder's pooled block outputs, in the order of the decoder's blocks.

        Args:
            warped: The warped previous HR, (1, 3, H, W) in the model's range. (The encoder proper
                takes [0, 1]; this path does not rescale, as in the released model.)

        Returns:
            One (1, C, h_i // 4, w_i // 4) for each decoder block, lowest resolution first.
        """
        features, x = [], warped
        for layer in list(self.encoder.layers)[:-1]:
            x = layer(x)
            if isinstance(layer, Block):
                features.append(pool(x))
        return features[::-1]

    def decode(
        self, latent: Tensor, features: Sequence[Tensor] = (), gate: Tensor | None = None
    ) -> Tensor:
        """Decodes a latent (1, 4, h, w) to raw HR (1, 3, H, W), unclamped, nominally in [-1, 1].

        Without `features`, or with a gate of 0, the previous frame has no influence.
        """
        limit = self.config.latent_magnitude
        x = limit * torch.tanh(latent / self.config.scaling_factor / limit)
        previous = iter(features)
        for layer in self.decoder.layers:
            x = layer(x, next(previous, None), gate) if isinstance(layer, Block) else layer(x)
        return 2 * x - 1
