"""The configurations of the networks, and the checked reader that fills them from JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import StreamDiffVSRError
from ..graphs.schedule import ScheduleConfig


@dataclass(frozen=True, slots=True)
class DenoiserConfig:
    """The common part of the UNet's and the ControlNet's configs: the way down, and the attention.

    `heads[i]` is the number of attention heads at level i (diffusers calls it attention_head_dim).
    With `only_cross_attention[i]`, both attentions of a block take the prompt; none is
    self-attention.
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
    """The ControlNet (Zhang et al., arXiv:2302.05543), whose input is the warped previous frame."""

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
    match_colour: bool = False  # ours: the output takes LR's broad colours (`graphs.match_colour`)


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
    flow_scale: int = 1  # the flow is computed at HR divided by this, as in training


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


MAX_CONFIG_BYTES = 1_000_000  # a real one has about 2 kB
MAX_SHOWN = 60  # characters of a bad value that a message repeats

log = logging.getLogger(__name__)


def shown(value: object) -> str:
    """Returns a value as a message shows it: in JSON, cut to a readable length."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


class ConfigReader:
    """Typed access to one config file, which records the keys that were read."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self._values = values
        self._seen: set[str] = set()

    @classmethod
    def open(cls, path: Path) -> ConfigReader:
        """Reads a JSON object.

        Raises:
            StreamDiffVSRError: The file is missing, too large, not JSON, or not a JSON object.
        """
        what = f"cannot read {path}"
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise StreamDiffVSRError(what, f"a config has at most {MAX_CONFIG_BYTES} bytes")
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StreamDiffVSRError(
                what, "no such file", "the folder layout is in docs/models.md"
            ) from None
        except OSError as error:
            raise StreamDiffVSRError(what, error.strerror or str(error)) from None
        except (ValueError, RecursionError) as error:  # also UnicodeDecodeError, JSONDecodeError
            raise StreamDiffVSRError(
                what, f"it is not valid JSON ({error})", "fetch the file again"
            ) from None
        if not isinstance(values, dict):
            raise StreamDiffVSRError(what, "it holds no JSON object", "fetch the file again")
        return cls(path, values)

    def refuse(self, key: str, value: object, supported: str) -> NoReturn:
        """Raises an error with the value that cannot be used, and the supported ones."""
        raise StreamDiffVSRError(
            f"{self.path}: {key} is {shown(value)}", f"supported is {supported}"
        )

    def has(self, key: str) -> bool:
        """Returns whether the file has the key, even if its value is null."""
        return key in self._values

    def raw(self, key: str, default: object) -> Any:
        """Returns the value as it is in the file, or the default if the key is missing."""
        self._seen.add(key)
        return self._values.get(key, default)

    def only(self, key: str, *supported: object) -> None:
        """Refuses any value but these; a missing key stands for the first."""
        value = self.raw(key, supported[0])
        if not any(value is s or (s is not None and value == s) for s in supported):
            self.refuse(key, value, " or ".join(shown(s) for s in supported))

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """Returns a whole number within [low, high]."""
        return self._integer(key, self.raw(key, default), low, high)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """Returns a number within [low, high]."""
        value = self.raw(key, default)
        if type(value) not in (int, float) or not low <= value <= high:  # NaN is not within
            self.refuse(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false."""
        value = self.raw(key, default)
        if type(value) is not bool:
            self.refuse(key, value, "true or false")
        return value

    def text(self, key: str, default: str, supported: Iterable[str]) -> str:
        """Returns one of the supported words."""
        value, words = self.raw(key, default), tuple(supported)
        if value not in words:
            self.refuse(key, value, " or ".join(shown(word) for word in words))
        return str(value)

    def integers(
        self, key: str, default: tuple[int, ...], low: int, high: int, *, lengths: tuple[int, int]
    ) -> tuple[int, ...]:
        """Returns a list of whole numbers within [low, high], its length within `lengths`."""
        values = self.items(key, default, lengths)
        return tuple(self._integer(key, value, low, high) for value in values)

    def per_level(
        self, key: str, default: int, low: int, high: int, *, levels: int
    ) -> tuple[int, ...]:
        """Returns a number per level; a single number applies to all levels."""
        value = self.raw(key, default)
        if isinstance(value, list):
            return self.integers(key, (), low, high, lengths=(levels, levels))
        return (self._integer(key, value, low, high),) * levels

    def flags_per_level(self, key: str, default: bool, *, levels: int) -> tuple[bool, ...]:
        """Returns a flag per level; a single flag applies to all levels."""
        value = self.raw(key, default)
        flags = value if isinstance(value, list) else [value] * levels
        if len(flags) != levels or any(type(flag) is not bool for flag in flags):
            self.refuse(key, value, f"true, false, or a list of {levels} of them")
        return tuple(flags)

    def items(
        self, key: str, default: tuple[Any, ...], lengths: tuple[int, int]
    ) -> tuple[Any, ...]:
        """Returns a list of any values, its length within `lengths`."""
        value = self.raw(key, list(default))
        low, high = lengths
        if not isinstance(value, list) or not low <= len(value) <= high:
            count = f"{low}" if low == high else f"{low} to {high}"
            self.refuse(key, value, f"a list of {count}")
        return tuple(value)

    def finish(self, harmless: Iterable[str]) -> None:
        """Logs the keys that were not read: one may mean a model of another kind.

        Args:
            harmless: Keys that are known not to affect inference.
        """
        known = self._seen | set(harmless)
        unknown = sorted(k for k in self._values if k not in known and not k.startswith("_"))
        if unknown:
            log.warning("%s: ignoring unknown keys: %s", self.path, ", ".join(unknown[:8]))

    def _integer(self, key: str, value: object, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, value, f"a whole number from {low} to {high}")
        return value
