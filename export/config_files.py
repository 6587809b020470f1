"""Reads the configuration files of a model folder into checked configurations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..graphs.schedule import BETA_SCHEDULES, PREDICTIONS, SPACINGS, ScheduleConfig
from ..graphs.spec import FLOW_SCALES
from .configs import (
    RAFT_LARGE,
    RAFT_SMALL,
    AutoencoderConfig,
    ConfigReader,
    ControlNetConfig,
    ModelConfigs,
    RAFTConfig,
    UNetConfig,
)
from .folder_layout import part_folder

KNOWN = {"raft_large": RAFT_LARGE, "raft_small": RAFT_SMALL}
SUFFIXES = (".safetensors", ".pth")
MAX_FLOW_WIDTH = 4096
BLOCKS, NORMS = ("residual", "bottleneck"), ("instance", "batch", "none")
KERNEL_SIDES = (1, 3, 5, 7)
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
    weights = sorted(p for p in flow.glob("*") if p.suffix in SUFFIXES and p.is_file())
    config = flow / "config.json"
    if config.is_file():
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
        return _raft(ConfigReader.open(files.config))
    return next(config for stem, config in KNOWN.items() if files.weights.name.startswith(stem))


def _raft(file: ConfigReader) -> RAFTConfig:
    """Reads the fields of RAFTConfig from `flow/config.json`; RAFT-large's where missing."""
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
    """Checks that the widths fit each other; a module would fail long after its construction."""
    for encoder in ("feature_encoder", "context_encoder"):
        key, widths = f"{encoder}_layers", list(values[f"{encoder}_layers"])
        if widths[0] != widths[1]:  # layer 1 has no shortcut that could change the width
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


MAX_WIDTH = 16_384
MAX_LEVELS = 8
MAX_LAYERS = 16
HINT_STAGES = 3  # a x4 model: two stride-2 convolutions between three widths
VAE_STAGES = 3  # two halvings: the latent is LR-sized

DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")
DEFAULT_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
DEFAULT_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3

# Key -> the values that the modules support, the default first.
DENOISER_ONLY: dict[str, tuple[object, ...]] = {
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
UNET_ONLY: dict[str, tuple[object, ...]] = {
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
}
CONTROLNET_ONLY: dict[str, tuple[object, ...]] = {
    "controlnet_conditioning_channel_order": ("rgb",),
    "global_pool_conditions": (False,),
    "conditioning_channels": (3,),
}
VAE_ONLY: dict[str, tuple[object, ...]] = {
    "act_fn": ("relu",),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
    "in_channels": (3,),
    "out_channels": (3,),
    "shift_factor": (0.0,),
}
SCHEDULER_ONLY: dict[str, tuple[object, ...]] = {
    "thresholding": (False,),
    "trained_betas": (None,),
    "rescale_betas_zero_snr": (False,),
}
# Read only by training or other pipelines, or without effect on these block types.
DENOISER_HARMLESS = (
    "sample_size",
    "dropout",
    "upcast_attention",
    "addition_time_embed_dim",
    "addition_embed_type_num_heads",
    "mid_block_only_cross_attention",
)
VAE_HARMLESS = ("block_out_channels", "force_upcast", "latent_shift")
SCHEDULER_HARMLESS = ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value")


def read_configs(folder: Path) -> ModelConfigs:
    """Reads all configs of a model folder, and checks each of them and that they fit together.

    Raises:
        StreamDiffVSRError: Names the file, the key, the value and what is supported.
    """
    return ModelConfigs(
        unet=read_unet(part_folder(folder, "unet") / "config.json"),
        controlnet=read_controlnet(part_folder(folder, "controlnet") / "config.json"),
        vae=read_vae(part_folder(folder, "vae") / "config.json"),
        flow=read_flow(folder),
        scheduler=read_scheduler(folder / "scheduler" / "scheduler_config.json"),
    )


def read_unet(path: Path) -> UNetConfig:
    """Reads `unet/config.json`, the config of diffusers' UNet2DConditionModel."""
    file = ConfigReader.open(path)
    shared = _denoiser(file, UNET_ONLY)
    levels = len(shared["block_out_channels"])
    config = UNetConfig(
        **shared,
        out_channels=file.integer("out_channels", 4, 1, MAX_WIDTH),
        up_block_types=_block_types(file, "up_block_types", DEFAULT_UP, UP_BLOCKS, levels),
    )
    file.finish(DENOISER_HARMLESS)
    return config


def read_controlnet(path: Path) -> ControlNetConfig:
    """Reads `controlnet/config.json`, the config of diffusers' ControlNetModel."""
    file = ConfigReader.open(path)
    key = "conditioning_embedding_out_channels"
    hint = file.integers(key, (16, 32, 96, 256), 1, MAX_WIDTH, lengths=(1, MAX_LEVELS))
    if len(hint) != HINT_STAGES:
        needs = f"a list of {HINT_STAGES}, for the two halvings from HR to LR"
        file.refuse(key, list(hint), needs)
    config = ControlNetConfig(
        **_denoiser(file, CONTROLNET_ONLY),
        conditioning_channels=3,
        conditioning_embedding_out_channels=hint,
    )
    file.finish(DENOISER_HARMLESS)
    return config


def read_vae(path: Path) -> AutoencoderConfig:
    """Reads `vae/config.json`, the config of the temporal tiny autoencoder."""
    file = ConfigReader.open(path)
    for key, supported in VAE_ONLY.items():
        file.only(key, *supported)
    stages = (VAE_STAGES, VAE_STAGES)
    blocks = {
        key: file.integers(key, default, 1, MAX_LAYERS, lengths=stages)
        for key, default in (
            ("num_encoder_blocks", (1, 3, 3, 3)),
            ("num_decoder_blocks", (3, 3, 3, 1)),
        )
    }
    if blocks["num_decoder_blocks"] != blocks["num_encoder_blocks"][::-1]:
        file.refuse(
            "num_decoder_blocks",
            list(blocks["num_decoder_blocks"]),
            "num_encoder_blocks reversed: each decoder block takes one encoder block's features",
        )
    widths: list[int] = []
    for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
        widths += file.integers(key, (64,) * 4, 1, MAX_WIDTH, lengths=stages)
        if len(set(widths)) != 1:
            file.refuse(key, file.raw(key, None), "one width everywhere, encoder and decoder")
    config = AutoencoderConfig(
        in_channels=3,
        out_channels=3,
        latent_channels=file.integer("latent_channels", 4, 1, 256),
        width=widths[0],
        latent_magnitude=file.number("latent_magnitude", 3.0, 1e-3, 1e6),
        scaling_factor=file.number("scaling_factor", 1.0, 1e-6, 1e6),
        match_colour=file.flag("match_colour", False),
        **blocks,
    )
    file.finish(VAE_HARMLESS)
    return config


def read_scheduler(path: Path) -> ScheduleConfig:
    """Reads `scheduler/scheduler_config.json`, the config of diffusers' DDIMScheduler."""
    file = ConfigReader.open(path)
    for key, supported in SCHEDULER_ONLY.items():
        file.only(key, *supported)
    if file.raw("clip_sample", True) is not False:  # diffusers' default is the unsupported one
        value = file.raw("clip_sample", "absent, which means true")
        file.refuse("clip_sample", value, "false: latents are not clipped")
    train = file.integer("num_train_timesteps", 1000, 1, 100_000)
    values: dict[str, Any] = {
        "num_train_timesteps": train,
        "beta_start": file.number("beta_start", 0.0001, 1e-9, 0.999),
        "beta_end": file.number("beta_end", 0.02, 1e-9, 0.999),
        "beta_schedule": file.text("beta_schedule", "linear", BETA_SCHEDULES),
        "prediction_type": file.text("prediction_type", "epsilon", PREDICTIONS),
        "timestep_spacing": file.text("timestep_spacing", "leading", SPACINGS),
        "steps_offset": file.integer("steps_offset", 0, 0, train - 1),
        "set_alpha_to_one": file.flag("set_alpha_to_one", True),
    }
    file.finish(SCHEDULER_HARMLESS)
    try:
        return ScheduleConfig(**values)
    except ValueError as error:
        raise StreamDiffVSRError(f"{path} cannot be used", str(error)) from None


def _denoiser(file: ConfigReader, only: dict[str, tuple[object, ...]]) -> dict[str, Any]:
    for key, supported in (DENOISER_ONLY | only).items():
        file.only(key, *supported)
    widths = file.integers(
        "block_out_channels", (320, 640, 1280, 1280), 4, MAX_WIDTH, lengths=(1, MAX_LEVELS)
    )
    if widths[0] % 2:
        file.refuse(
            "block_out_channels", list(widths), "an even first width, for the sines of time"
        )
    levels = len(widths)
    groups = file.integer("norm_num_groups", 32, 1, MAX_WIDTH)
    # diffusers misnamed the number of heads; if the right name is there, it takes precedence.
    named = file.raw("num_attention_heads", None) is not None
    key = "num_attention_heads" if named else "attention_head_dim"
    heads = file.per_level(key, 8, 1, MAX_WIDTH, levels=levels)
    for width, count in zip(widths, heads, strict=True):
        if width % groups or width % count:
            needs = f"multiples of norm_num_groups ({groups}) and of the heads {list(heads)}"
            file.refuse("block_out_channels", list(widths), needs)
    return {
        "in_channels": file.integer("in_channels", 4, 1, MAX_WIDTH),
        "block_out_channels": widths,
        "down_block_types": _block_types(
            file, "down_block_types", DEFAULT_DOWN, DOWN_BLOCKS, levels
        ),
        "layers_per_block": file.integer("layers_per_block", 2, 1, MAX_LAYERS),
        "heads": heads,
        "cross_attention_dim": file.integer("cross_attention_dim", 1280, 1, MAX_WIDTH),
        "only_cross_attention": file.flags_per_level("only_cross_attention", False, levels=levels),
        "use_linear_projection": file.flag("use_linear_projection", False),
        "transformer_layers": file.per_level(
            "transformer_layers_per_block", 1, 1, MAX_LAYERS, levels=levels
        ),
        "norm_num_groups": groups,
        "norm_eps": file.number("norm_eps", 1e-5, 0.0, 1.0),
        "flip_sin_to_cos": file.flag("flip_sin_to_cos", True),
        "freq_shift": file.number("freq_shift", 0, 0, 1),
    }


def _block_types(
    file: ConfigReader, key: str, default: tuple[str, ...], known: tuple[str, ...], levels: int
) -> tuple[str, ...]:
    types = file.items(key, default, (levels, levels))
    for block in types:
        if block not in known:
            file.refuse(key, block, " or ".join(known))
    return types
