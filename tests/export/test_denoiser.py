"""UNet and ControlNet against diffusers' own, with the same weights, in many configurations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from streamdiffvsr.export.blocks import sinusoidal_embedding
from streamdiffvsr.export.config_files import read_config
from streamdiffvsr.export.configs import ControlNetConfig, UNetConfig
from streamdiffvsr.export.denoiser import ControlNet, UNet, as_batch
from streamdiffvsr.export.presets import PRESETS, SHARED_KEYS

TOLERANCE = 1e-5  # relative to the largest value
SIZE = (36, 44)  # multiples of 4 but not of 8
TINY = {k: v for k, v in PRESETS["small"].unet.items() if k != "_class_name"}
HINT = (8, 16, 24)

CONFIGS: dict[str, dict[str, Any]] = {
    "released shape": {},  # four levels: 36 -> 18 -> 9 -> 5 rows, and back to the skips' sizes
    "two levels, self-attention": {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "only_cross_attention": False,
        "use_linear_projection": False,
        "norm_num_groups": 32,
    },
    "everything per level": {
        "block_out_channels": (32, 48, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4, 8),
        "only_cross_attention": (True, False, True),
        "transformer_layers_per_block": (2, 1, 2),
        "norm_num_groups": 16,
    },
    "other embeddings and norms": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "only_cross_attention": True,
        "cross_attention_dim": 24,
        "use_linear_projection": False,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-3,
    },
}


@dataclass(frozen=True, slots=True)
class Pair:
    """The same networks twice, and inputs for them."""

    unet: UNet
    controlnet: ControlNet
    theirs: Any
    their_controlnet: Any
    x: Tensor
    prompt: Tensor
    warped: Tensor


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter moved away from its start: the zero convolutions, and norms of one."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    return module.eval().requires_grad_(False)


def save_config(module: Any, path: Path) -> Path:
    """Its config.json as diffusers writes it, every key included."""
    path.write_text(json.dumps(dict(module.config)), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("configs")
    torch.manual_seed(0)
    keys = {**TINY, **CONFIGS[request.param]}
    shared = {k: v for k, v in keys.items() if k in SHARED_KEYS}
    theirs = randomised(diffusers.UNet2DConditionModel(**keys), 1)
    their_controlnet = randomised(
        diffusers.ControlNetModel(**shared, conditioning_embedding_out_channels=HINT), 2
    )
    unet = UNet(read_config(save_config(theirs, folder / "unet.json"), UNetConfig))
    controlnet = ControlNet(
        read_config(save_config(their_controlnet, folder / "controlnet.json"), ControlNetConfig)
    )
    unet.load_state_dict(theirs.state_dict())
    controlnet.load_state_dict(their_controlnet.state_dict())
    height, width = SIZE
    return Pair(
        unet=unet.eval().requires_grad_(False),
        controlnet=controlnet.eval().requires_grad_(False),
        theirs=theirs,
        their_controlnet=their_controlnet,
        x=torch.randn(1, 7, height, width),
        prompt=torch.randn(1, 11, keys["cross_attention_dim"]),
        warped=torch.randn(1, 3, 4 * height, 4 * width),
    )


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()
    assert theirs.std() > 1e-3


def test_the_unet_alone_is_diffusers(pair: Pair) -> None:
    for t in (999, 1):
        ours = pair.unet(pair.x, pair.unet.embed_time(as_batch(t)), pair.prompt)
        close(ours, pair.theirs(pair.x, t, pair.prompt).sample)


def test_the_controlnet_is_diffusers(pair: Pair) -> None:
    net = pair.controlnet
    hint = net.hint(pair.warped)
    assert hint.shape == (1, net.config.block_out_channels[0], *SIZE)
    down, mid = net(pair.x, net.embed_time(as_batch(749)), pair.prompt, hint)
    their_down, their_mid = pair.their_controlnet(
        pair.x, 749, pair.prompt, controlnet_cond=pair.warped, return_dict=False
    )
    for ours, theirs in zip([*down, mid], [*their_down, their_mid], strict=True):
        close(ours, theirs)


def test_the_unet_with_residuals_is_diffusers(pair: Pair) -> None:
    net, t = pair.controlnet, as_batch(499)
    down, mid = net(pair.x, net.embed_time(t), pair.prompt, net.hint(pair.warped))
    ours = pair.unet(pair.x, pair.unet.embed_time(t), pair.prompt, (down, mid))
    expected = pair.theirs(
        pair.x,
        499,
        pair.prompt,
        down_block_additional_residuals=tuple(down),
        mid_block_additional_residual=mid,
    ).sample
    close(ours, expected)
    without = pair.unet(pair.x, pair.unet.embed_time(t), pair.prompt)
    assert (ours - without).abs().max() > 1e-3


def test_every_norm_has_diffusers_epsilon_and_groups(pair: Pair) -> None:
    """At activations of this size an epsilon alone is below the tolerance."""

    def norms(net: nn.Module) -> dict[str, tuple[float, int]]:
        kinds = (nn.GroupNorm, nn.LayerNorm)
        found = {n: m for n, m in net.named_modules() if isinstance(m, kinds)}
        return {n: (m.eps, getattr(m, "num_groups", 0)) for n, m in found.items()}

    assert norms(pair.unet) == norms(pair.theirs)
    assert norms(pair.controlnet) == norms(pair.their_controlnet)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_time_embedding_is_diffusers(flip: bool, shift: int) -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([999.0, 749.0, 1.0, 0.0])
    expected = get_timestep_embedding(t, 32, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    assert torch.equal(sinusoidal_embedding(t, 32, flip, shift), expected)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_residual_for_every_skip_or_an_error(missing: int, pair: Pair) -> None:
    net, t = pair.controlnet, as_batch(499)
    down, mid = net(pair.x, net.embed_time(t), pair.prompt, net.hint(pair.warped))
    down = down[:-1] if missing else [*down, down[-1]]
    with pytest.raises(ValueError, match="zip"):
        pair.unet(pair.x, pair.unet.embed_time(t), pair.prompt, (down, mid))
