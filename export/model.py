"""A model folder as modules ready to run: configs and weights, checked against each other.

Knows neither backends nor where a folder comes from (`hub.py` does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import StreamDiffVSRError
from .autoencoder import TemporalAutoencoder
from .config_files import read_configs
from .configs import ModelConfigs
from .controlnet import ControlNet
from .digest import model_digest
from .flow_files import find_flow
from .prompt import prompt_embeds
from .raft import RAFT
from .seed_layout import explain_layout, part_weights
from .unet import UNet
from .weight_files import WeightFiles
from .weights import load_into, read_weights

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Model:
    """All of a model in float32, in evaluation mode, without gradients; loaded on the CPU.

    Attributes:
        configs: Every width, depth and constant.
        unet, controlnet, vae, flow: The networks.
        prompt_embeds: The embedding of the empty prompt, (1, L, D).
        digest: SHA-256 of the folder's content, see `model_digest`.
    """

    configs: ModelConfigs
    unet: UNet
    controlnet: ControlNet
    vae: TemporalAutoencoder
    flow: RAFT
    prompt_embeds: Tensor
    digest: str

    def to(self, device: str) -> Model:
        """The same on another device of torch; the networks are moved, not copied."""
        for network in (self.unet, self.controlnet, self.vae, self.flow):
            network.to(device)
        return replace(self, prompt_embeds=self.prompt_embeds.to(device))


def load_model(folder: Path, *, match_colour: bool | None = None) -> Model:
    """Load a model folder (the layout is in docs/models.md).

    Args:
        match_colour: Whether the output takes LR's broad colours; None: as the config says.

    Raises:
        StreamDiffVSRError: One line that names the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise StreamDiffVSRError(f"no model folder {folder}", "there is no such folder")
    explain_layout(folder)
    configs = read_configs(folder)
    if match_colour is not None:
        configs = replace(configs, vae=replace(configs.vae, match_colour=match_colour))
    digest = model_digest(folder)
    return Model(
        configs=configs,
        unet=_network(lambda: UNet(configs.unet), part_weights(folder, "unet")),
        controlnet=_network(
            lambda: ControlNet(configs.controlnet), part_weights(folder, "controlnet")
        ),
        vae=_network(lambda: TemporalAutoencoder(configs.vae), part_weights(folder, "vae")),
        flow=_network(lambda: RAFT(configs.flow), WeightFiles((find_flow(folder).weights,))),
        prompt_embeds=prompt_embeds(folder, configs.unet.cross_attention_dim),
        digest=digest,
    )


def _network(make: Callable[[], Network], files: WeightFiles) -> Network:
    """A network around the weights as read: nothing is initialised only to be overwritten."""
    with torch.device("meta"):
        network = make()
    load_into(network, read_weights(files), origin=files.all()[0])
    return network.eval().requires_grad_(False)
