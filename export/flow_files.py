"""The `flow/` folder: which RAFT it holds and where its weights are. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..spec import FLOW_SCALES
from .config_reader import ConfigReader
from .configs import RAFT_LARGE, RAFT_SMALL, RAFTConfig

KNOWN = {"raft_large": RAFT_LARGE, "raft_small": RAFT_SMALL}
SUFFIXES = (".safetensors", ".pth")
MAX_FLOW_WIDTH = 4096
BLOCKS, NORMS = ("residual", "bottleneck"), ("instance", "batch", "none")
KERNEL_SIDES = (1, 3, 5, 7)
GET_RAFT = "see docs/models.md, which says how to get raft_large.safetensors"


@dataclass(frozen=True, slots=True)
class FlowFiles:
    """RAFT's weights, and its config file unless the weights' name stands for one."""

    weights: Path
    config: Path | None

    def all(self) -> tuple[Path, ...]:
        """Every file that has a say in the flow."""
        return (self.weights,) if self.config is None else (self.config, self.weights)


def find_flow(folder: Path) -> FlowFiles:
    """`flow/config.json` with the one weights file beside it, else raft_large, else raft_small.

    A name may go on after raft_large or raft_small, as torchvision's own file names do.

    Raises:
        StreamDiffVSRError: There is no weights file, or several with a config.json.
    """
    flow = folder / "flow"
    weights = sorted(p for p in flow.glob("*") if p.suffix in SUFFIXES and p.is_file())
    config = flow / "config.json"
    if config.is_file():
        if len(weights) != 1:
            names = ", ".join(p.name for p in weights) or "none"
            why = f"beside config.json there must be one weights file; found {names}"
            raise StreamDiffVSRError(f"cannot use {flow}", why, "keep the one that belongs to it")
        return FlowFiles(weights[0], config)
    for stem in KNOWN:
        for suffix in SUFFIXES:
            for path in weights:
                if path.name.startswith(stem) and path.suffix == suffix:
                    return FlowFiles(path, None)
    raise StreamDiffVSRError(
        f"no optical-flow weights in {flow}",
        "looked for raft_large and raft_small, .safetensors or .pth",
        GET_RAFT,
    )


def read_flow(folder: Path) -> RAFTConfig:
    """The config of the RAFT that `find_flow` finds.

    Raises:
        StreamDiffVSRError: No weights, or a value in config.json that RAFT cannot have.
    """
    files = find_flow(folder)
    if files.config is not None:
        return _raft(ConfigReader.open(files.config))
    return next(config for stem, config in KNOWN.items() if files.weights.name.startswith(stem))


def _raft(file: ConfigReader) -> RAFTConfig:
    """`flow/config.json`: the fields of RAFTConfig, RAFT-large's where missing."""
    limits = {"corr_block_num_levels": 6, "corr_block_radius": 16, "num_flow_updates": 64}
    lengths = {"motion_encoder_corr_layers": (1, 2), "motion_encoder_flow_layers": (2, 2)}
    values: dict[str, Any] = {}
    for field in fields(RAFTConfig):
        key, default = field.name, getattr(RAFT_LARGE, field.name)
        if key == "recurrent_block_kernel_size":
            values[key] = _kernels(file, key, default)
        elif isinstance(default, tuple):
            count = lengths.get(key, (5, 5))
            values[key] = file.integers(key, default, 1, MAX_FLOW_WIDTH, lengths=count)
        elif isinstance(default, str):
            values[key] = file.text(key, default, BLOCKS if key.endswith("block") else NORMS)
        else:
            low = 0 if key == "mask_predictor_hidden_size" else 1
            values[key] = file.integer(key, default, low, limits.get(key, MAX_FLOW_WIDTH))
    if values["flow_scale"] not in FLOW_SCALES:
        file.refuse("flow_scale", values["flow_scale"], "1, 2 or 4")
    _check_widths(file, values)
    file.finish(())
    return RAFTConfig(**values)


def _check_widths(file: ConfigReader, values: dict[str, Any]) -> None:
    """The widths must fit each other, or a module would fail long after its construction."""
    for encoder in ("feature_encoder", "context_encoder"):
        key, widths = f"{encoder}_layers", list(values[f"{encoder}_layers"])
        if widths[0] != widths[1]:  # the first layer has no shortcut that could change the width
            file.refuse(key, widths, "equal first and second widths")
        if values[f"{encoder}_block"] == "bottleneck" and any(w % 4 for w in widths[1:4]):
            file.refuse(key, widths, "multiples of 4 for bottleneck blocks")
    hidden = values["recurrent_block_hidden_state_size"]
    if values["context_encoder_layers"][-1] <= hidden:
        needs = f"a last width above recurrent_block_hidden_state_size ({hidden})"
        file.refuse("context_encoder_layers", list(values["context_encoder_layers"]), needs)
    if values["motion_encoder_out_channels"] <= 2:
        file.refuse(
            "motion_encoder_out_channels",
            values["motion_encoder_out_channels"],
            "above 2: the flow itself takes two",
        )


def _kernels(
    file: ConfigReader, key: str, default: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    kernels = file.items(key, tuple(list(kernel) for kernel in default), (1, 2))
    for kernel in kernels:
        pair = isinstance(kernel, list) and len(kernel) == 2
        if not pair or any(type(side) is not int or side not in KERNEL_SIDES for side in kernel):
            file.refuse(key, kernel, "a pair of 1, 3, 5 or 7")
    return tuple((kernel[0], kernel[1]) for kernel in kernels)
