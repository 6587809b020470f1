"""The configs of the model sizes that this project builds itself, in the released key names.

`full` has the released model's shape (NUMERICS.md sections 1 and 3), `parity` that of the recorded
model which the tests keep, `small` the released structure at narrow widths, and `tiny` that of the
built-in model, which has settings of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Keys = Mapping[str, Any]

SHARED_KEYS = (  # the keys that the ControlNet copies from the UNet
    "in_channels",
    "block_out_channels",
    "down_block_types",
    "layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "only_cross_attention",
    "use_linear_projection",
    "transformer_layers_per_block",
    "norm_num_groups",
    "norm_eps",
    "flip_sin_to_cos",
    "freq_shift",
)


@dataclass(frozen=True, slots=True)
class Preset:
    """One model's config files. `flow` is a RAFT config, or the name of one of torchvision's."""

    unet: Keys
    controlnet: Keys
    vae: Keys
    flow: str | Keys
    scheduler: Keys

    def overridden(
        self,
        unet: Keys | None,
        controlnet: Keys | None,
        vae: Keys | None,
        flow: str | Keys | None,
        scheduler: Keys | None,
    ) -> Preset:
        """Returns the preset with other values; the ControlNet follows the UNet in shared keys."""
        wide = {**self.unet, **(unet or {})}
        follows = {key: wide[key] for key in SHARED_KEYS if key in wide}
        if isinstance(flow, Mapping) and isinstance(self.flow, Mapping):
            flow = {**self.flow, **flow}
        return replace(
            self,
            unet=wide,
            controlnet={**self.controlnet, **follows, **(controlnet or {})},
            vae={**self.vae, **(vae or {})},
            flow=self.flow if flow is None else flow,
            scheduler={**self.scheduler, **(scheduler or {})},
        )


def _unet(widths: list[int], *, heads: int, prompt: int, groups: int) -> dict[str, Any]:
    attends = len(widths) - 1
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": 7,
        "out_channels": 4,
        "block_out_channels": widths,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * attends,
        "up_block_types": ["CrossAttnUpBlock2D"] * attends + ["UpBlock2D"],
        "layers_per_block": 2,
        "attention_head_dim": heads,
        "cross_attention_dim": prompt,
        "only_cross_attention": [True] * attends + [False],
        "use_linear_projection": True,
        "norm_num_groups": groups,
    }


def _preset(
    unet: Keys,
    *,
    hint: list[int],
    width: int,
    flow: str | Keys,
    decoder_blocks: tuple[int, int, int] = (3, 3, 1),
    scaling_factor: float = 1.0,
    match_colour: bool = False,
    scheduler: Keys | None = None,
) -> Preset:
    controlnet = {key: unet[key] for key in SHARED_KEYS if key in unet}
    return Preset(
        unet=unet,
        controlnet={
            "_class_name": "ControlNetModel",
            **controlnet,
            "conditioning_embedding_out_channels": hint,
        },
        vae={
            "_class_name": "TemporalAutoencoderTiny",
            "encoder_block_out_channels": [width] * 3,
            "decoder_block_out_channels": [width] * 3,
            "num_encoder_blocks": list(decoder_blocks[::-1]),
            "num_decoder_blocks": list(decoder_blocks),
            "latent_channels": unet["out_channels"],
            "scaling_factor": scaling_factor,
            **({"match_colour": True} if match_colour else {}),
        },
        flow=flow,
        scheduler=scheduler or SCHEDULER,
    )


SCHEDULER: Keys = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
# RAFT-small's structure, narrower, with fewer updates: about 40 000 parameters.
SMALL_FLOW: Keys = {
    "feature_encoder_layers": [8, 8, 16, 16, 32],
    "feature_encoder_block": "bottleneck",
    "feature_encoder_norm_layer": "instance",
    "context_encoder_layers": [8, 8, 16, 16, 48],
    "context_encoder_block": "bottleneck",
    "context_encoder_norm_layer": "none",
    "corr_block_num_levels": 4,
    "corr_block_radius": 3,
    "motion_encoder_corr_layers": [32],
    "motion_encoder_flow_layers": [16, 8],
    "motion_encoder_out_channels": 26,
    "recurrent_block_hidden_state_size": 24,
    "recurrent_block_kernel_size": [[3, 3]],
    "flow_head_hidden_size": 16,
    "mask_predictor_hidden_size": 0,
    "num_flow_updates": 6,
}
# The built-in model: the same parts, narrow, and shaped by what two CPU cores can do in half a
# second. Twelve latent channels instead of four carry the detail that 16-channel convolutions
# cannot invent; predicting the sample instead of v spares them from copying the noise; the latent
# is scaled up so that the noise between the steps does not drown it. The norms have few groups and
# a large epsilon, because they must not remove the frame's brightness.
TINY_LATENT = 12
TINY_WIDTHS = [16, 32, 48, 64]
TINY_UNET: Keys = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": TINY_LATENT + 3,
    "out_channels": TINY_LATENT,
    "block_out_channels": TINY_WIDTHS,
    "down_block_types": ["DownBlock2D"] * 3 + ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"] + ["UpBlock2D"] * 3,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
    "only_cross_attention": [True, True, True, False],
    "use_linear_projection": True,
    "norm_num_groups": 2,
    "norm_eps": 1.0,
}
# RAFT's structure at widths that suit convolutions, for frames at half the output's size.
TINY_FLOW: Keys = {
    "feature_encoder_layers": [16, 16, 32, 32, 32],
    "feature_encoder_block": "residual",
    "feature_encoder_norm_layer": "instance",
    "context_encoder_layers": [16, 16, 32, 32, 64],
    "context_encoder_block": "residual",
    "context_encoder_norm_layer": "instance",
    "corr_block_num_levels": 1,
    "corr_block_radius": 4,
    "motion_encoder_corr_layers": [32],
    "motion_encoder_flow_layers": [16, 16],
    "motion_encoder_out_channels": 32,
    "recurrent_block_hidden_state_size": 32,
    "recurrent_block_kernel_size": [[3, 3]],
    "flow_head_hidden_size": 32,
    "mask_predictor_hidden_size": 0,
    "num_flow_updates": 4,
    "flow_scale": 2,
}
TINY_SCHEDULER: Keys = {**SCHEDULER, "prediction_type": "sample", "set_alpha_to_one": True}
PRESETS: Mapping[str, Preset] = {
    "small": _preset(
        _unet([32, 32, 64, 64], heads=2, prompt=32, groups=8),
        hint=[8, 16, 32],
        width=16,
        flow=SMALL_FLOW,
    ),
    "tiny": _preset(
        TINY_UNET,
        hint=[16, 16, 32],
        width=16,
        flow=TINY_FLOW,
        decoder_blocks=(3, 1, 1),
        scaling_factor=4.0,
        match_colour=True,
        scheduler=TINY_SCHEDULER,
    ),
    "parity": _preset(
        _unet([32, 32, 64, 64], heads=8, prompt=32, groups=32),
        hint=[8, 16, 32],
        width=16,
        flow="raft_large",
    ),
    "full": _preset(
        _unet([256, 512, 512, 1024], heads=8, prompt=1024, groups=32),
        hint=[64, 128, 256],
        width=64,
        flow="raft_large",
    ),
}
