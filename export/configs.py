"""The configs of a model folder as checked dataclasses: every width and depth comes from here.

Field names are diffusers' (UNet, ControlNet, autoencoder) and torchvision's (RAFT), so a released
`config.json` reads as it is. A value that would change the computation in a way the modules do not
implement is refused by name; keys that do not touch inference are ignored. Knows no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import StreamDiffVSRError
from ..schedule import ScheduleConfig


@dataclass(frozen=True, slots=True)
class DenoiserConfig:
    """What the UNet and the ControlNet share: the way down, and the attention.

    `heads[i]` is the number of attention heads at level i (diffusers calls it attention_head_dim).
    `only_cross_attention[i]`: both attentions of a block take the prompt, none is self-attention.
    """

    in_channels: int
    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    layers_per_block: int
    heads: tuple[int, ...]
    cross_attention_dim: int
    only_cross_attention: tuple[bool, ...]
    use_linear_projection: bool
    transformer_layers: tuple[int, ...]
    norm_num_groups: int
    norm_eps: float
    flip_sin_to_cos: bool
    freq_shift: float


@dataclass(frozen=True, slots=True)
class UNetConfig(DenoiserConfig):
    """The denoising UNet (Rombach et al., arXiv:2112.10752), conditioned on LR by concatenation."""

    out_channels: int
    up_block_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ControlNetConfig(DenoiserConfig):
    """The ControlNet (Zhang et al., arXiv:2302.05543) that sees the warped previous frame."""

    conditioning_channels: int
    conditioning_embedding_out_channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """The temporal tiny autoencoder: TAESD's blocks with a temporal processor in each."""

    in_channels: int
    out_channels: int
    latent_channels: int
    width: int
    num_encoder_blocks: tuple[int, ...]
    num_decoder_blocks: tuple[int, ...]
    latent_magnitude: float
    scaling_factor: float
    match_colour: bool = (
        False  # ours: the output's broad colours are made LR's (`image.match_colour`)
    )


@dataclass(frozen=True, slots=True)
class RAFTConfig:
    """RAFT (Teed, Deng, arXiv:2003.12039) in the parameters of torchvision's builder."""

    feature_encoder_layers: tuple[int, ...]
    feature_encoder_block: str
    feature_encoder_norm_layer: str
    context_encoder_layers: tuple[int, ...]
    context_encoder_block: str
    context_encoder_norm_layer: str
    corr_block_num_levels: int
    corr_block_radius: int
    motion_encoder_corr_layers: tuple[int, ...]
    motion_encoder_flow_layers: tuple[int, ...]
    motion_encoder_out_channels: int
    recurrent_block_hidden_state_size: int
    recurrent_block_kernel_size: tuple[tuple[int, int], ...]
    flow_head_hidden_size: int
    mask_predictor_hidden_size: int  # 0: no mask predictor, the flow is upsampled bilinearly
    num_flow_updates: int = 12
    flow_scale: int = 1  # the flow is best found at HR divided by this: what it was trained at


RAFT_LARGE = RAFTConfig(
    feature_encoder_layers=(64, 64, 96, 128, 256),
    feature_encoder_block="residual",
    feature_encoder_norm_layer="instance",
    context_encoder_layers=(64, 64, 96, 128, 256),
    context_encoder_block="residual",
    context_encoder_norm_layer="batch",
    corr_block_num_levels=4,
    corr_block_radius=4,
    motion_encoder_corr_layers=(256, 192),
    motion_encoder_flow_layers=(128, 64),
    motion_encoder_out_channels=128,
    recurrent_block_hidden_state_size=128,
    recurrent_block_kernel_size=((1, 5), (5, 1)),
    flow_head_hidden_size=256,
    mask_predictor_hidden_size=256,
)
RAFT_SMALL = RAFTConfig(
    feature_encoder_layers=(32, 32, 64, 96, 128),
    feature_encoder_block="bottleneck",
    feature_encoder_norm_layer="instance",
    context_encoder_layers=(32, 32, 64, 96, 160),
    context_encoder_block="bottleneck",
    context_encoder_norm_layer="none",
    corr_block_num_levels=4,
    corr_block_radius=3,
    motion_encoder_corr_layers=(96,),
    motion_encoder_flow_layers=(64, 32),
    motion_encoder_out_channels=82,
    recurrent_block_hidden_state_size=96,
    recurrent_block_kernel_size=((3, 3),),
    flow_head_hidden_size=128,
    mask_predictor_hidden_size=0,
)


@dataclass(frozen=True, slots=True)
class ModelConfigs:
    """Everything about a model but its weights."""

    unet: UNetConfig
    controlnet: ControlNetConfig
    vae: AutoencoderConfig
    flow: RAFTConfig
    scheduler: ScheduleConfig

    def __post_init__(self) -> None:
        """The parts must fit each other: names the two configs that disagree."""
        u, c, v = self.unet, self.controlnet, self.vae
        pairs = (
            ("unet in_channels", u.in_channels, "latent_channels + 3", v.latent_channels + 3),
            ("unet out_channels", u.out_channels, "vae latent_channels", v.latent_channels),
            ("controlnet in_channels", c.in_channels, "unet in_channels", u.in_channels),
            ("controlnet widths", c.block_out_channels, "unet widths", u.block_out_channels),
            ("controlnet layers", c.layers_per_block, "unet layers", u.layers_per_block),
            ("controlnet prompt width", c.cross_attention_dim, "unet's", u.cross_attention_dim),
        )
        for name, value, other, expected in pairs:
            if value != expected:
                raise StreamDiffVSRError(
                    "the model's parts do not fit together",
                    f"{name} is {value} but {other} is {expected}",
                    "use parts of one model",
                )
