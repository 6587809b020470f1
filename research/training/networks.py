"""The four networks of a model for training: their initial weights, and which of them learn."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ...export.autoencoder import Block, TemporalAutoencoder
from ...export.blocks import ResnetBlock
from ...export.config_files import read_configs
from ...export.configs import ModelConfigs
from ...export.denoiser import ControlNet, UNet
from ...export.presets import PRESETS, Preset
from ...export.raft import RAFT
from ...export.random_model import write_configs
from .flow_start import read_correlation

COLOURS = 3
COPY_GAIN, NOISE_GAIN = 0.3, 0.1
PROMPT_TOKENS = 4  # the released model has 77 for the same prompt; a narrow model needs few


class Networks(nn.Module):
    """UNet, ControlNet, temporal autoencoder, RAFT, and the prompt's embedding (1, L, D)."""

    def __init__(self, configs: ModelConfigs) -> None:
        super().__init__()
        self.configs = configs
        self.unet = UNet(configs.unet)
        self.controlnet = ControlNet(configs.controlnet)
        self.vae = TemporalAutoencoder(configs.vae)
        self.flow = RAFT(configs.flow)
        prompt = torch.randn(1, PROMPT_TOKENS, configs.unet.cross_attention_dim)
        self.prompt = nn.Parameter(prompt)
        _initialise(self)

    def trainable(self, *names: str) -> list[nn.Parameter]:
        """Freezes all but the parameters whose names start with one of `names`; returns those."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(names))
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def fresh(preset: Preset, seed: int) -> Networks:
    """Returns networks of a preset with seeded initial weights."""
    with TemporaryDirectory() as folder:
        write_configs(Path(folder), preset)
        configs = read_configs(Path(folder))
    torch.manual_seed(seed)
    networks = Networks(configs)
    # Channels last is a third faster on a CPU, and as fast as anything on a GPU.
    networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks


def tiny() -> Preset:
    """Returns the built-in model's preset."""
    return PRESETS["tiny"]


def _initialise(networks: Networks) -> None:
    """Sets initial weights: convolutions keep the size of activations; branches and guidance are 0.

    torch's own initial weights shrink a signal by a third per convolution, and there are no norms
    here to restore it: the autoencoder learnt five times more slowly from them.
    """
    for part in (networks.vae, networks.unet, networks.controlnet):
        # The denoisers' shortcuts and resizes are a chain without activations: no gain for those.
        gain = 2.0 if part is networks.vae else 1.0
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=(gain / fan_in) ** 0.5)
    for module in networks.vae.modules():
        if isinstance(module, Block):
            _zero(module.conv[4])
            _zero(module.temporal_processor[2])
    for name, module in [*networks.unet.named_modules(), *networks.controlnet.named_modules()]:
        if name.endswith(("conv2", "proj_out", "to_out.0")):
            _zero(module)
    read_correlation(networks.flow)
    control = networks.controlnet
    for module in [*control.controlnet_down_blocks, control.controlnet_mid_block]:
        _zero(module)
    for denoiser in (networks.unet, networks.controlnet):
        with torch.no_grad():  # at first the noise is to be ignored
            denoiser.conv_in.weight[:, : networks.configs.vae.latent_channels] *= NOISE_GAIN
    _copy_lr(networks.unet, networks.configs.vae.scaling_factor)


@torch.no_grad()
def _copy_lr(unet: UNet, scaling_factor: float) -> None:
    """Makes the untrained UNet pass on LR as the first three latent channels.

    LR runs through the outermost skips as three channels and their negatives. Together they have no
    mean that the last norm could remove, and SiLU(x) - SiLU(-x) = x undoes the activation, so
    brightness and colour pass unchanged. They are small, so that the norm's epsilon outweighs them.
    """
    latent = unet.config.in_channels - COLOURS
    signs = torch.cat([torch.eye(COLOURS), -torch.eye(COLOURS)])  # (6, 3)
    unet.conv_in.weight[: 2 * COLOURS] = 0
    unet.conv_in.weight[: 2 * COLOURS, latent:, 1, 1] = COPY_GAIN * signs
    _zero_bias(unet.conv_in)
    resnets = [m for m in unet.up_blocks[-1].modules() if isinstance(m, ResnetBlock)]
    for index, layer in enumerate(resnets):
        shortcut, width = layer.conv_shortcut, layer.conv2.out_channels
        assert shortcut is not None  # it takes a skip in addition to its input
        share = 1.0 / len(resnets)  # every layer brings one more copy, as an outermost skip
        shortcut.weight[: 2 * COLOURS] = 0
        for channel in range(2 * COLOURS):
            shortcut.weight[channel, -width + channel] = share
            if index:
                shortcut.weight[channel, channel] = 1.0
        _zero_bias(shortcut)
    unet.conv_out.weight[:COLOURS] = 0
    unet.conv_out.weight[:COLOURS, : 2 * COLOURS, 1, 1] = scaling_factor / COPY_GAIN * signs.T
    unet.conv_out.weight[COLOURS:] *= 0.1
    _zero_bias(unet.conv_out)


def _zero_bias(module: nn.Conv2d) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
