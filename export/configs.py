"""The configurations of the networks: their keys as in the files, their bounds, and their rules.

msgspec checks the types when `config_files.read_config` reads a file; what concerns several keys is
checked whenever a configuration is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

from msgspec import Meta, Struct

from ..errors import StreamDiffVSRError, refuse, shown
from ..graphs.schedule import ScheduleConfig
from ..graphs.spec import FlowScale

Value = TypeVar("Value")

Width = Annotated[int, Meta(ge=1, le=16_384)]
Layers = Annotated[int, Meta(ge=1, le=16)]
Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
Widths = Annotated[
    tuple[Annotated[int, Meta(ge=4, le=16_384)], ...], Meta(min_length=1, max_length=8)
]
DownBlock = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
UpBlock = Literal["UpBlock2D", "CrossAttnUpBlock2D"]
# A x4 model: two stride-2 convolutions from HR to LR, two halvings to an LR-sized latent.
ThreeWidths = tuple[Width, Width, Width]
ThreeLayers = tuple[Layers, Layers, Layers]

FlowWidth = Annotated[int, Meta(ge=1, le=4096)]
FiveWidths = tuple[FlowWidth, FlowWidth, FlowWidth, FlowWidth, FlowWidth]
FlowBlock = Literal["residual", "bottleneck"]
FlowNorm = Literal["instance", "batch", "none"]
Side = Literal[1, 3, 5, 7]


class DenoiserConfig(Struct, frozen=True, kw_only=True):
    """The common part of the UNet's and the ControlNet's configs: the way down, and the attention.

    With `only_cross_attention` at a level, both attentions of a block take the prompt; none is
    self-attention.
    """

    in_channels: Width = 4
    block_out_channels: Widths = (320, 640, 1280, 1280)
    down_block_types: tuple[DownBlock, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    layers_per_block: Layers = 2
    attention_head_dim: Width | tuple[Width, ...] = 8  # diffusers misnamed the number of heads
    num_attention_heads: Width | tuple[Width, ...] | None = None  # takes precedence
    cross_attention_dim: Width = 1280
    only_cross_attention: bool | tuple[bool, ...] = False
    use_linear_projection: bool = False
    transformer_layers_per_block: Layers | tuple[Layers, ...] = 1
    norm_num_groups: Width = 32
    norm_eps: Unit = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: Unit = 0.0

    def __post_init__(self) -> None:
        widths, groups, heads = self.block_out_channels, self.norm_num_groups, self._named_heads
        for key in (
            "down_block_types",
            "up_block_types",
            "attention_head_dim",
            "num_attention_heads",
            "only_cross_attention",
            "transformer_layers_per_block",
        ):
            value = getattr(self, key, None)
            if isinstance(value, tuple) and len(value) != len(widths):
                refuse(key, value, f"a list of {len(widths)}, one per level")
        if widths[0] % 2:
            refuse("block_out_channels", widths, "an even first width, for the sines of time")
        if any(w % groups or w % n for w, n in zip(widths, self.heads, strict=True)):
            needs = f"multiples of norm_num_groups ({groups}) and of the heads {shown(heads)}"
            refuse("block_out_channels", widths, needs)

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads at each level."""
        return self._per_level(self._named_heads)

    @property
    def cross_only(self) -> tuple[bool, ...]:
        """`only_cross_attention` at each level."""
        return self._per_level(self.only_cross_attention)

    @property
    def transformer_layers(self) -> tuple[int, ...]:
        """The number of transformer blocks in each attention of each level."""
        return self._per_level(self.transformer_layers_per_block)

    @property
    def _named_heads(self) -> int | tuple[int, ...]:
        named = self.num_attention_heads
        return self.attention_head_dim if named is None else named

    def _per_level(self, value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)


class UNetConfig(DenoiserConfig, frozen=True, kw_only=True):
    """The denoising UNet (Rombach et al., arXiv:2112.10752), conditioned on LR by concatenation."""

    out_channels: Width = 4
    up_block_types: tuple[UpBlock, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)


class ControlNetConfig(DenoiserConfig, frozen=True, kw_only=True):
    """The ControlNet (Zhang et al., arXiv:2302.05543), whose input is the warped previous frame."""

    conditioning_channels: ClassVar[int] = 3
    conditioning_embedding_out_channels: ThreeWidths


class AutoencoderConfig(Struct, frozen=True, kw_only=True):
    """The temporal tiny autoencoder: TAESD's blocks with a temporal processor in each."""

    in_channels: ClassVar[int] = 3
    out_channels: ClassVar[int] = 3
    latent_channels: Annotated[int, Meta(ge=1, le=256)] = 4
    encoder_block_out_channels: ThreeWidths
    decoder_block_out_channels: ThreeWidths
    num_encoder_blocks: ThreeLayers
    num_decoder_blocks: ThreeLayers
    latent_magnitude: Annotated[float, Meta(ge=1e-3, le=1e6)] = 3.0
    scaling_factor: Annotated[float, Meta(ge=1e-6, le=1e6)] = 1.0
    match_colour: bool = False  # ours: the output takes LR's broad colours (`graphs.match_colour`)

    def __post_init__(self) -> None:
        if self.num_decoder_blocks != self.num_encoder_blocks[::-1]:
            needs = "num_encoder_blocks reversed: a decoder block takes an encoder block's features"
            refuse("num_decoder_blocks", self.num_decoder_blocks, needs)
        for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
            if set(widths := getattr(self, key)) != {self.width}:
                refuse(key, widths, "one width everywhere, encoder and decoder")

    @property
    def width(self) -> int:
        """The number of channels of every block."""
        return self.encoder_block_out_channels[0]


class RAFTConfig(Struct, frozen=True, kw_only=True):
    """RAFT (Teed, Deng, arXiv:2003.12039) in the parameters of torchvision's builder.

    The defaults are RAFT-large.
    """

    feature_encoder_layers: FiveWidths = (64, 64, 96, 128, 256)
    feature_encoder_block: FlowBlock = "residual"
    feature_encoder_norm_layer: FlowNorm = "instance"
    context_encoder_layers: FiveWidths = (64, 64, 96, 128, 256)
    context_encoder_block: FlowBlock = "residual"
    context_encoder_norm_layer: FlowNorm = "batch"
    corr_block_num_levels: Annotated[int, Meta(ge=1, le=6)] = 4
    corr_block_radius: Annotated[int, Meta(ge=1, le=16)] = 4
    motion_encoder_corr_layers: Annotated[
        tuple[FlowWidth, ...], Meta(min_length=1, max_length=2)
    ] = (256, 192)
    motion_encoder_flow_layers: tuple[FlowWidth, FlowWidth] = (128, 64)
    motion_encoder_out_channels: Annotated[int, Meta(ge=3, le=4096)] = 128  # two are the flow
    recurrent_block_hidden_state_size: FlowWidth = 128
    recurrent_block_kernel_size: Annotated[
        tuple[tuple[Side, Side], ...], Meta(min_length=1, max_length=2)
    ] = ((1, 5), (5, 1))
    flow_head_hidden_size: FlowWidth = 256
    # 0: no mask predictor, the flow is upsampled bilinearly
    mask_predictor_hidden_size: Annotated[int, Meta(ge=0, le=4096)] = 256
    num_flow_updates: Annotated[int, Meta(ge=1, le=64)] = 12
    flow_scale: FlowScale = 1  # the flow is computed at HR divided by this, as in training

    def __post_init__(self) -> None:
        """Checks that the widths fit each other; a module would fail long after its making."""
        for key, widths, block in (
            ("feature_encoder_layers", self.feature_encoder_layers, self.feature_encoder_block),
            ("context_encoder_layers", self.context_encoder_layers, self.context_encoder_block),
        ):
            if widths[0] != widths[1]:  # layer 1 has no shortcut that could change the width
                refuse(key, widths, "equal first and second widths")
            if block == "bottleneck" and any(width % 4 for width in widths[1:4]):
                refuse(key, widths, "multiples of 4 for bottleneck blocks")
        hidden = self.recurrent_block_hidden_state_size
        if self.context_encoder_layers[-1] <= hidden:
            needs = f"a last width above recurrent_block_hidden_state_size ({hidden})"
            refuse("context_encoder_layers", self.context_encoder_layers, needs)


RAFT_LARGE = RAFTConfig()
RAFT_SMALL = RAFTConfig(
    feature_encoder_layers=(32, 32, 64, 96, 128),
    feature_encoder_block="bottleneck",
    context_encoder_layers=(32, 32, 64, 96, 160),
    context_encoder_block="bottleneck",
    context_encoder_norm_layer="none",
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
    """Everything about a model except its weights."""

    unet: UNetConfig
    controlnet: ControlNetConfig
    vae: AutoencoderConfig
    flow: RAFTConfig
    scheduler: ScheduleConfig

    def __post_init__(self) -> None:
        """Checks that the parts fit each other; the error names the two configs that disagree."""
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
