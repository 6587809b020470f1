"""The temporal autoencoder: diffusers' AutoencoderTiny without features, its paper form with."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from msgspec.structs import replace
from torch import Tensor

from streamdiffvsr.export.autoencoder import Block, TemporalAutoencoder, pool
from streamdiffvsr.export.configs import AutoencoderConfig

CONFIG = AutoencoderConfig(
    latent_channels=4,
    encoder_block_out_channels=(12, 12, 12),
    decoder_block_out_channels=(12, 12, 12),
    num_encoder_blocks=(1, 3, 3),
    num_decoder_blocks=(3, 3, 1),
    latent_magnitude=3.0,
    scaling_factor=1.0,
)
SIZE = (18, 23)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def make(config: AutoencoderConfig = CONFIG) -> TemporalAutoencoder:
    torch.manual_seed(0)
    vae = TemporalAutoencoder(config)
    for name, p in vae.named_parameters():
        if name.endswith("alpha"):
            p.data += 0.4 * torch.randn(())
        elif "temporal_processor" in name:  # a visible contribution
            p.data *= 6
        else:
            p.data *= 1.5
    return vae.eval().requires_grad_(False)


def theirs(vae: TemporalAutoencoder) -> Any:
    config = vae.config
    other = diffusers.AutoencoderTiny(
        encoder_block_out_channels=config.encoder_block_out_channels,
        decoder_block_out_channels=config.decoder_block_out_channels,
        num_encoder_blocks=config.num_encoder_blocks,
        num_decoder_blocks=config.num_decoder_blocks,
        latent_channels=config.latent_channels,
        scaling_factor=config.scaling_factor,
    ).eval()
    temporal = {k for k in vae.state_dict() if "temporal_processor" in k or k.endswith("alpha")}
    # Strict: every other name is diffusers', none is left over.
    other.load_state_dict({k: v for k, v in vae.state_dict().items() if k not in temporal})
    return other.requires_grad_(False)


CONFIGS = [
    CONFIG,
    replace(
        CONFIG,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 2, 1),
        num_decoder_blocks=(1, 2, 1),
    ),
    replace(CONFIG, latent_channels=6),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_without_features_decoding_is_diffusers(config: AutoencoderConfig) -> None:
    vae = make(config)
    latent = 4 * noise(1, config.latent_channels, *SIZE)  # far into the tanh
    expected = theirs(vae).decode(latent).sample
    out = vae.decode(latent)
    assert out.shape == (1, 3, 4 * SIZE[0], 4 * SIZE[1])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.02


@pytest.mark.parametrize("config", CONFIGS)
def test_encoding_is_diffusers(config: AutoencoderConfig) -> None:
    vae = make(config)
    image = noise(1, 3, 40, 52).clamp(-1, 1)
    out = vae.encode(image)
    assert out.shape == (1, config.latent_channels, 10, 13)
    torch.testing.assert_close(out, theirs(vae).encode(image).latents, atol=1e-5, rtol=0)


def test_the_scaling_factor_divides_before_the_limit() -> None:
    plain, scaled = make(), make(replace(CONFIG, scaling_factor=2.5))
    latent = 4 * noise(1, 4, *SIZE)
    torch.testing.assert_close(scaled.decode(latent), plain.decode(latent / 2.5))


def test_the_latents_magnitude_is_the_limit() -> None:
    vae = make(replace(CONFIG, latent_magnitude=0.5))
    latent = noise(1, 4, *SIZE)
    limited = 0.5 * torch.tanh(latent / 0.5)
    expected = theirs(vae).decoder.layers(limited) * 2 - 1
    torch.testing.assert_close(vae.decode(latent), expected, atol=1e-5, rtol=0)


def test_features_are_diffusers_encoder_blocks_reversed_on_the_frame_as_it_is() -> None:
    vae = make()
    warped = 1.4 * noise(1, 3, 4 * SIZE[0], 4 * SIZE[1])
    expected, x = [], warped
    for layer in theirs(vae).encoder.layers[:-1]:
        x = layer(x)
        if type(layer).__name__ == "AutoencoderTinyBlock":
            expected.insert(0, F.avg_pool2d(x, 4, 4))
    features = vae.temporal_features(warped)
    sizes = [(4, 5)] * 3 + [(9, 11)] * 3 + [(18, 23)]
    assert [tuple(f.shape) for f in features] == [(1, 12, *size) for size in sizes]
    for ours, other in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)
    # Blocks of one size differ, so their order counts.
    assert (features[0] - features[2]).abs().max() > 1e-2


@pytest.mark.parametrize("size", [(16, 20), (18, 23), (9, 4)])
def test_a_block_mixes_as_released(size: tuple[int, int]) -> None:
    """The temporal processor written out: current first, one sequence, no break at row ends."""
    block = make().decoder.layers[2]
    assert isinstance(block, Block)
    x, previous = noise(1, 12, *size), noise(1, 12, size[0] // 4, size[1] // 4)
    y = block.conv(x)
    height, width = size[0] // 4, size[1] // 4
    pooled = y[..., : 4 * height, : 4 * width].unflatten(2, (height, 4)).unflatten(4, (width, 4))
    q = pooled.mean(dim=(3, 5))
    sequence = torch.cat([q.reshape(1, 12, -1), previous.reshape(1, 12, -1)], dim=2)
    first, second = block.temporal_processor(sequence).chunk(2, dim=2)
    update = (block.alpha * first + (1 - block.alpha) * second).reshape(1, 12, height, width)
    spread = F.interpolate(update, size=size, mode="bilinear", align_corners=False)
    expected = F.relu(y + 0.1 * spread + x)
    out = block(x, previous)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert (out - block(x)).abs().max() > 1e-2
    # Swapped, the sequence would be another one.
    assert (block.alpha - 0.5).abs() > 1e-2


def test_every_decoder_block_takes_its_own_feature() -> None:
    vae = make()
    latent, warped = noise(1, 4, *SIZE), noise(1, 3, 4 * SIZE[0], 4 * SIZE[1])
    features = vae.temporal_features(warped)
    base = vae.decode(latent, features)
    for i in range(len(features)):
        changed = [f + (1.0 if i == j else 0.0) for j, f in enumerate(features)]
        assert (vae.decode(latent, changed) - base).abs().max() > 1e-4, i
    x = 3 * torch.tanh(latent / 3)
    rest = iter(features)
    for layer in vae.decoder.layers:
        x = layer(x, next(rest)) if isinstance(layer, Block) else layer(x)
    assert next(rest, None) is None
    torch.testing.assert_close(base, 2 * x - 1)


def test_the_gate_is_the_strength_of_the_temporal_processor() -> None:
    vae = make()
    latent, warped = noise(1, 4, *SIZE), noise(1, 3, 4 * SIZE[0], 4 * SIZE[1])
    features = vae.temporal_features(warped)
    closed, open_ = (vae.decode(latent, features, torch.tensor([g])) for g in (0.0, 1.0))
    assert torch.equal(closed, vae.decode(latent))
    assert torch.equal(open_, vae.decode(latent, features))
    half = vae.decode(latent, features, torch.tensor([0.5]))
    assert (half - closed).abs().max() > 1e-3 and (half - open_).abs().max() > 1e-3


def test_pooling_drops_a_remainder() -> None:
    x = noise(1, 2, 9, 7)
    expected = torch.stack([x[..., :4, :4], x[..., 4:8, :4]], dim=2).mean(dim=(3, 4))
    torch.testing.assert_close(pool(x), expected[..., None])
