"""Writes a complete model folder with seeded random weights, for tests, benchmarks and trials.

The weights are scaled so that activations keep their size through the networks and an
auto-regressive run stays finite and moving. They are untrained: the output is noise.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .autoencoder import TemporalAutoencoder
from .config_files import KNOWN, SUFFIXES, read_configs
from .configs import ModelConfigs
from .denoiser import ControlNet, UNet
from .model import TENSOR_NAME
from .model_source import PROMPT_FILE
from .presets import PRESETS, Keys, Preset
from .raft import RAFT
from .weight_files import DIFFUSERS_STEM, HEADER_LENGTH_BYTES

Fill = Callable[[str, torch.Size], Tensor]

DTYPES = {"float32": ("F32", torch.float32), "float16": ("F16", torch.float16)}
BRANCH_GAIN = 0.5  # of what is added to a residual stream, so that it does not grow with depth
BIAS_STD, NORM_STD = 0.05, 0.1
# Pattern of a weight's name -> its standard deviation times sqrt(fan in); the first match counts.
# The default keeps the size of activations through a ReLU, and nearly so through a SiLU after a
# norm.
DEFAULT_GAIN = math.sqrt(2.0)
DENOISER_GAINS = {
    r"^controlnet_(down|mid)": 0.3,  # guidance, visible but not dominant
    r"\.conv2\.|\.to_out\.|\.ff\.net\.2\.|\.proj_out\.": BRANCH_GAIN,
    r"\.to_[qkv]\.|time_emb": 1.0,
}
GAINS: dict[str, dict[str, float]] = {
    "unet": DENOISER_GAINS,
    "controlnet": DENOISER_GAINS,
    "vae": {
        r"\.conv\.4\.": 0.3,
        r"temporal_processor": 2.0,
    },
    "flow": {
        r"flow_head\.conv2": 0.1,  # a few pixels after all updates
        r"convnormrelu[23]\.": BRANCH_GAIN,
        r"\.conv[zrq]\.|encoder\.conv\.": 1.0,
    },
}
IMAGE_CHANNELS = 3
ALIGNMENT = 8  # of the first tensor's bytes in the file
IMAGE_GAIN, IMAGE_MEAN = 0.25, 0.5  # of the decoder's last convolution: [0, 1] before 2 y - 1


def write_random_model(
    folder: Path,
    *,
    preset: str = "small",
    unet: Keys | None = None,
    controlnet: Keys | None = None,
    vae: Keys | None = None,
    flow: str | Keys | None = None,
    scheduler: Keys | None = None,
    prompt_tokens: int = 77,
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """Writes config files and weights in the layout of docs/models.md; returns the folder.

    Args:
        folder: Files of the same names are overwritten.
        preset: `small`, `tiny`, `parity` or `full`.
        unet, controlnet, vae, scheduler: Values that replace the preset's, in diffusers' key names.
            The ControlNet follows the UNet's widths unless its own are given.
        flow: RAFT's values that replace the preset's, or `raft_large` or `raft_small`.
        prompt_tokens: Length of the prompt embedding.
        seed: Equal seeds give equal files.
        dtype: `float32`, or `float16` for files of half the size.

    Raises:
        StreamDiffVSRError: The values do not describe a model.
    """
    _check_known("preset", preset, PRESETS)
    _check_known("dtype", dtype, DTYPES)
    chosen = PRESETS[preset].overridden(unet, controlnet, vae, flow, scheduler)
    flow_file = write_configs(folder, chosen)
    configs = read_configs(folder)
    for part, module in networks(configs).items():
        path = folder / part / f"{DIFFUSERS_STEM}.safetensors" if part != "flow" else flow_file
        fill = partial(_fill, GAINS[part], f"{seed}/{part}")
        write_safetensors(path, module.state_dict(), fill, dtype)
    width = configs.unet.cross_attention_dim
    prompt = {TENSOR_NAME: torch.empty(1, prompt_tokens, width, device="meta")}
    write_safetensors(folder / PROMPT_FILE, prompt, lambda name, s: _normal(f"{seed}/{name}", s))
    return folder


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UsageError(f"no {what} {name!r}", f"there are {', '.join(known)}")


def networks(configs: ModelConfigs) -> dict[str, nn.Module]:
    """Returns the four networks on the meta device: names and shapes without memory."""
    with torch.device("meta"):
        return {
            "unet": UNet(configs.unet),
            "controlnet": ControlNet(configs.controlnet),
            "vae": TemporalAutoencoder(configs.vae),
            "flow": RAFT(configs.flow),
        }


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], fill: Fill, dtype: str = "float32"
) -> None:
    """Writes a safetensors file one tensor at a time, so only the largest needs memory.

    Args:
        path: Overwritten in place.
        tensors: Names and shapes; may be on the meta device. Integers are written as zeros.
        fill: Returns the float32 values for a name and shape.
        dtype: The dtype in which floats are written.
    """
    code, kind = DTYPES[dtype]
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        floats = tensor.is_floating_point()
        begin, size = end, kind.itemsize if floats else tensor.element_size()
        end += tensor.numel() * size
        header[name] = {
            "dtype": code if floats else "I64",
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(HEADER_LENGTH_BYTES, "little") + text)
        for name, tensor in tensors.items():
            floats = tensor.is_floating_point()
            values = (
                fill(name, tensor.shape).to(kind)
                if floats
                else torch.zeros_like(tensor, device="cpu")
            )
            file.write(values.contiguous().numpy().data)


def _fill(gains: Mapping[str, float], seed: str, name: str, shape: torch.Size) -> Tensor:
    """Returns the values of one weight, bias, norm or running statistic, float32."""
    noise = _normal(f"{seed}/{name}", shape)
    if name.endswith("running_var"):
        return torch.ones(shape)
    if name.endswith("running_mean"):
        return torch.zeros(shape)
    if name.endswith("alpha"):
        return 0.5 + NORM_STD * noise
    to_image = name.startswith("decoder.") and shape[0] == IMAGE_CHANNELS
    if name.endswith("bias"):
        return (IMAGE_MEAN if to_image else 0.0) + BIAS_STD * noise
    if len(shape) == 1:
        return 1.0 + NORM_STD * noise
    gain = next((g for pattern, g in gains.items() if re.search(pattern, name)), DEFAULT_GAIN)
    return (IMAGE_GAIN if to_image else gain) / math.sqrt(math.prod(shape[1:])) * noise


def _normal(seed: str, shape: torch.Size) -> Tensor:
    """Returns standard normal values that depend only on the text of the seed."""
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little"))
    return torch.randn(shape, generator=generator)


def write_configs(folder: Path, preset: Preset) -> Path:
    """Writes the config files; returns RAFT's weights path, whose name says which RAFT it is."""
    files: dict[str, Keys] = {
        "unet/config.json": preset.unet,
        "controlnet/config.json": preset.controlnet,
        "vae/config.json": preset.vae,
        "scheduler/scheduler_config.json": preset.scheduler,
    }
    flow = folder / "flow"
    if isinstance(preset.flow, str):
        _check_known("RAFT", preset.flow, KNOWN)
        (flow / "config.json").unlink(missing_ok=True)
        weights = flow / f"{preset.flow}.safetensors"
    else:
        files["flow/config.json"] = preset.flow
        weights = flow / "raft.safetensors"
    for name, keys in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(keys), indent=2) + "\n", encoding="utf-8")
    flow.mkdir(parents=True, exist_ok=True)
    for other in flow.iterdir():  # files of another preset would be ambiguous
        if other != weights and other.suffix in SUFFIXES:
            other.unlink()
    weights.touch()  # readers of the configs find the RAFT by this name
    return weights
