"""Writes trained networks to a model folder, with the digests of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from safetensors.torch import save_file
from torch import Tensor, nn

from ...export.model import TENSOR_NAME
from ...export.model_source import PROMPT_FILE
from ...export.presets import Preset
from ...export.random_model import write_configs
from ...export.weight_files import DIFFUSERS_STEM
from .networks import Networks

DIGESTS = "SHA256SUMS"


def write_model(networks: Networks, folder: Path, preset: Preset) -> None:
    """Writes configs and float16 weights in the layout of docs/models.md."""
    flow_file = write_configs(folder, preset)
    paths = {
        part: folder / part / f"{DIFFUSERS_STEM}.safetensors"
        for part in ("unet", "controlnet", "vae")
    } | {"flow": flow_file}
    for part, path in paths.items():
        module = cast(nn.Module, getattr(networks, part))
        save_file(_half(module.state_dict()), path)
    save_file(_half({TENSOR_NAME: networks.prompt.detach()}), folder / PROMPT_FILE)
    write_digests(folder)


def _half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def write_digests(folder: Path) -> None:
    """Writes `SHA256SUMS` of the configs and weights, for `sha256sum --check`."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".json", ".safetensors")
    ]
    (folder / DIGESTS).write_text("".join(lines), encoding="utf-8", newline="\n")
