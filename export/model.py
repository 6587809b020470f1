"""Opens a model folder: its networks with their weights, and its embedded prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import torch
from msgspec import structs
from torch import Tensor, nn

from ..errors import StreamDiffVSRError
from .autoencoder import TemporalAutoencoder
from .config_files import find_flow, read_configs
from .configs import ModelConfigs
from .denoiser import ControlNet, UNet
from .folder_layout import explain_layout, part_weights
from .model_source import PROMPT_FILE, files_digest, model_digest, text_files
from .raft import RAFT
from .weight_files import TRANSFORMERS_STEMS, WeightFiles, check_header, find_weights
from .weights import load_into, read_safetensors, read_weights, save_whole

TENSOR_NAME = "prompt_embeds"
MAX_TOKENS = 1024
KEY_DIGITS = 32  # of the text encoder's digest, in the file name of a cached embedding


def prompt_embeds(folder: Path, width: int) -> Tensor:
    """Returns the embedding of the empty prompt, (1, L, width) float32.

    Args:
        folder: A model folder.
        width: The networks' cross_attention_dim.

    Raises:
        StreamDiffVSRError: There is nothing to take it from, or it has another shape.
    """
    given = folder / PROMPT_FILE
    if given.exists():
        return _read(given, width)
    key = files_digest(folder, text_files(folder))[:KEY_DIGITS]
    name = f"prompt_embeds.{key}.safetensors"
    places = (folder / name, platformdirs.user_cache_path("streamdiffvsr") / "prompts" / name)
    for place in places:
        # A broken or foreign file needs no message: the embedding is computed again.
        with contextlib.suppress(StreamDiffVSRError):
            return _read(place, width)
    embeds = _checked(_encode(folder), folder / "text_encoder", width)
    for place in places:
        with contextlib.suppress(OSError):  # not writable: the next place, or none
            save_whole(place, {TENSOR_NAME: embeds})
            break
    return embeds


def _read(path: Path, width: int) -> Tensor:
    tensors = read_safetensors(path)
    if len(tensors) != 1:
        names = ", ".join(sorted(tensors)[:3]) or "none"
        raise StreamDiffVSRError(f"cannot use {path}", f"it must hold one tensor, not {names}")
    return _checked(next(iter(tensors.values())), path, width)


def _checked(embeds: Tensor, origin: Path, width: int) -> Tensor:
    shape = tuple(embeds.shape)
    fits = len(shape) == 3 and shape[0] == 1 and shape[2] == width
    if not fits or not 1 <= shape[1] <= MAX_TOKENS or not embeds.is_floating_point():
        raise StreamDiffVSRError(
            f"{origin} does not fit the networks",
            f"the prompt embedding is {shape}, expected (1, tokens, {width})",
            "use the text encoder or the embedding of the same model",
        )
    return embeds


def _encode(folder: Path) -> Tensor:
    """Tokenizes '' padded to the full length, and returns the last hidden state, (1, L, C)."""
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        raise StreamDiffVSRError(
            f"{folder} has a text encoder but no {PROMPT_FILE}",
            "computing it needs transformers",
            "install it: pip install 'streamdiffvsr[export]'",
        ) from None
    source = folder / "text_encoder"
    files = find_weights(source, *TRANSFORMERS_STEMS).files
    for path in files:
        if path.suffix == ".safetensors":
            check_header(path)
    variant = "fp16" if ".fp16." in files[0].name else None
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        loaded: Any = CLIPTextModel.from_pretrained(
            source, local_files_only=True, variant=variant, output_loading_info=True
        )
        encoder, report = loaded
    except Exception as error:  # transformers raises almost anything for a broken folder
        raise StreamDiffVSRError(f"cannot load {source}", str(error)[:200]) from None
    if report["missing_keys"]:  # transformers would leave them random and only log that
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise StreamDiffVSRError(f"cannot load {source}", f"its weights lack {missing}")
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt")
    with torch.inference_mode():
        hidden: Tensor = encoder.float().eval()(tokens.input_ids).last_hidden_state
    if not hidden.isfinite().all():
        raise StreamDiffVSRError(f"{source} is damaged", "its output is NaN or infinite")
    return hidden.clone()


Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Model:
    """A whole model in float32, in evaluation mode, without gradients; loaded on the CPU.

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
        """Returns the model on another torch device; the networks are moved, not copied."""
        for network in (self.unet, self.controlnet, self.vae, self.flow):
            network.to(device)
        return replace(self, prompt_embeds=self.prompt_embeds.to(device))


def load_model(folder: Path, *, match_colour: bool | None = None) -> Model:
    """Loads a model folder (docs/models.md describes the layout).

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
        configs = replace(configs, vae=structs.replace(configs.vae, match_colour=match_colour))
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
    """Returns a network with the weights read from `files`, without initialising it first."""
    with torch.device("meta"):
        network = make()
    load_into(network, read_weights(files), origin=files.all()[0])
    return network.eval().requires_grad_(False)
