"""Reads the configuration files of a model folder into checked configurations."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import msgspec
from msgspec import inspect

from ..errors import StreamDiffVSRError, refuse, shown
from ..graphs.schedule import ScheduleConfig
from ..reading import parse_json, read_small
from .configs import (
    RAFT_LARGE,
    RAFT_SMALL,
    AutoencoderConfig,
    ControlNetConfig,
    ModelConfigs,
    RAFTConfig,
    UNetConfig,
)
from .folder_layout import SCHEDULER_FILE, part_folder

Config = TypeVar("Config")
Only = dict[str, tuple[object, ...]]
MAX_CONFIG_BYTES = 1_000_000  # a real one has about 2 kB
KNOWN = {"raft_large": RAFT_LARGE, "raft_small": RAFT_SMALL}
SUFFIXES = (".safetensors", ".pth")
GET_RAFT = "see docs/models.md, which says how to get raft_large.safetensors"


@dataclass(frozen=True, slots=True)
class FlowFiles:
    """RAFT's weights, and its config file unless the name of the weights implies one."""

    weights: Path
    config: Path | None

    def all(self) -> tuple[Path, ...]:
        """Returns every file that affects the flow."""
        return (self.weights,) if self.config is None else (self.config, self.weights)


def find_flow(folder: Path) -> FlowFiles:
    """Finds `flow/config.json` and its one weights file, else raft_large, else raft_small.

    A name may continue after raft_large or raft_small, as torchvision's own file names do.

    Raises:
        StreamDiffVSRError: There is no weights file, or several with a config.json.
    """
    flow = folder / "flow"
    found = (p for p in flow.glob("*") if p.suffix in SUFFIXES)
    weights = sorted(p for p in found if p.exists() and not p.is_dir())
    config = flow / "config.json"
    if config.exists():
        if len(weights) != 1:
            names = ", ".join(p.name for p in weights) or "none"
            why = f"with config.json there must be exactly one weights file; found {names}"
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
    """Returns the config of the RAFT that `find_flow` finds.

    Raises:
        StreamDiffVSRError: No weights, or a value in config.json that RAFT cannot have.
    """
    files = find_flow(folder)
    if files.config is not None:
        return read_config(files.config, RAFTConfig)
    return next(config for stem, config in KNOWN.items() if files.weights.name.startswith(stem))


# Key -> the values that the modules support, the default first.
DENOISER_ONLY: Only = {
    "act_fn": ("silu", "swish"),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (1,),
    "resnet_time_scale_shift": ("default",),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "projection_class_embeddings_input_dim": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
}
ONLY: dict[type, Only] = {
    UNetConfig: DENOISER_ONLY
    | {
        "center_input_sample": (False,),
        "reverse_transformer_layers_per_block": (None,),
        "dual_cross_attention": (False,),
        "resnet_skip_time_act": (False,),
        "resnet_out_scale_factor": (1.0,),
        "time_embedding_type": ("positional",),
        "time_embedding_dim": (None,),
        "time_embedding_act_fn": (None,),
        "timestep_post_act": (None,),
        "time_cond_proj_dim": (None,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "attention_type": ("default",),
        "class_embeddings_concat": (False,),
        "cross_attention_norm": (None,),
    },
    ControlNetConfig: DENOISER_ONLY
    | {
        "controlnet_conditioning_channel_order": ("rgb",),
        "global_pool_conditions": (False,),
        "conditioning_channels": (3,),
    },
    AutoencoderConfig: {
        "act_fn": ("relu",),
        "upsample_fn": ("nearest",),
        "upsampling_scaling_factor": (2,),
        "in_channels": (3,),
        "out_channels": (3,),
        "shift_factor": (0.0,),
    },
    ScheduleConfig: {
        "thresholding": (False,),
        "trained_betas": (None,),
        "rescale_betas_zero_snr": (False,),
    },
}
CLIPS = "absent, which means true"  # diffusers' default of clip_sample is the unsupported one
# Read only by training or other pipelines, or without effect on these block types.
DENOISER_HARMLESS = (
    "sample_size",
    "dropout",
    "upcast_attention",
    "addition_time_embed_dim",
    "addition_embed_type_num_heads",
    "mid_block_only_cross_attention",
)
HARMLESS: dict[type, tuple[str, ...]] = {
    UNetConfig: DENOISER_HARMLESS,
    ControlNetConfig: DENOISER_HARMLESS,
    AutoencoderConfig: ("block_out_channels", "force_upcast", "latent_shift"),
    ScheduleConfig: (
        "clip_sample",
        "clip_sample_range",
        "dynamic_thresholding_ratio",
        "sample_max_value",
    ),
}

log = logging.getLogger(__name__)


def read_configs(folder: Path) -> ModelConfigs:
    """Reads all configs of a model folder, and checks each of them and that they fit together.

    Raises:
        StreamDiffVSRError: Names the file, the key, the value and what is supported.
    """
    return ModelConfigs(
        unet=read_config(part_folder(folder, "unet") / "config.json", UNetConfig),
        controlnet=read_config(part_folder(folder, "controlnet") / "config.json", ControlNetConfig),
        vae=read_config(part_folder(folder, "vae") / "config.json", AutoencoderConfig),
        flow=read_flow(folder),
        scheduler=read_config(folder / SCHEDULER_FILE, ScheduleConfig),
    )


def read_config(path: Path, kind: type[Config]) -> Config:
    """Reads one file, and logs the keys that it ignores: one may mean a model of another kind.

    Raises:
        StreamDiffVSRError: The file is no JSON object, or has a value that cannot be used.
    """
    values = _json_object(path)
    only = ONLY.get(kind, {})
    try:
        for key, supported in only.items():
            value = values.get(key, supported[0])
            if not any(value is s or (s is not None and value == s) for s in supported):
                refuse(key, value, " or ".join(map(shown, supported)))
        if kind is ScheduleConfig and (clip := values.get("clip_sample", CLIPS)) is not False:
            refuse("clip_sample", clip, "false: latents are not clipped")
        used = _fields(kind, values)
        config = kind(**used)
    except ValueError as error:
        raise StreamDiffVSRError(f"cannot use {path}", str(error)) from None
    known = {*used, *only, *HARMLESS.get(kind, ())}
    unknown = sorted(key for key in values if key not in known and not key.startswith("_"))
    if unknown:
        log.warning("%s: ignoring unknown keys: %s", path, ", ".join(unknown[:8]))
    return config


def _json_object(path: Path) -> dict[str, Any]:
    what = f"cannot read {path}"
    try:
        content = read_small(path, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        raise StreamDiffVSRError(
            what, "no such file", "the folder layout is in docs/models.md"
        ) from None
    except OSError as error:
        raise StreamDiffVSRError(what, error.strerror or str(error)) from None
    except ValueError:
        why = f"a config has at most {MAX_CONFIG_BYTES} bytes"
        raise StreamDiffVSRError(what, why, "fetch the file again") from None
    try:
        values = parse_json(content)
    except ValueError as error:
        raise StreamDiffVSRError(
            what, f"it is not valid JSON ({error})", "fetch the file again"
        ) from None
    if not isinstance(values, dict):
        raise StreamDiffVSRError(what, "it holds no JSON object", "fetch the file again")
    return values


def _fields(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of the fields that a file has, each checked against its type."""
    hints, used = get_type_hints(kind, include_extras=True), {}
    for field in cast(inspect.StructType, inspect.type_info(kind)).fields:
        key, supported = field.name, _described(field.type)
        if key == "attention_head_dim" and values.get("num_attention_heads") is not None:
            continue  # the right name takes precedence, and the other may have any value
        if key in values:
            try:
                used[key] = msgspec.convert(values[key], hints[key])
            except (msgspec.ValidationError, UnicodeEncodeError) as error:
                value = values[key]
                for index in re.findall(r"\[(\d+)\]", str(error).rpartition(" - at `$")[2]):
                    value = value[int(index)]  # what is wrong in a list
                refuse(key, value, supported)
        elif field.required:
            raise ValueError(f"{key} is absent: supported is {supported}")
    return used


def _described(kind: inspect.Type) -> str:
    """Returns what a message calls the values of a type."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            return "a whole number" if low is None else f"a whole number from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return "a number" if low is None else f"a number from {low:g} to {high:g}"
        case inspect.LiteralType(values=values):
            return " or ".join(map(shown, values))
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)}, each {_described(items[0])}"
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            count = "" if low is None else f" of {low} to {high}"
            return f"a list{count}, each {_described(item)}"
        case inspect.UnionType(types=types):
            return f"{_described(types[0])}, or a list of them"
    return "true or false" if isinstance(kind, inspect.BoolType) else "a word"
