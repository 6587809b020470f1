"""Config files: what is read, and what is refused by name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.config_files import read_config, read_configs, read_flow
from streamdiffvsr.export.configs import RAFT_LARGE, RAFT_SMALL, ControlNetConfig, UNetConfig
from streamdiffvsr.graphs.schedule import ScheduleConfig

Edit = Callable[[str, dict[str, Any]], Path]
UNET, CONTROLNET, VAE = "unet/config.json", "controlnet/config.json", "vae/config.json"
SCALARS = (
    "in_channels",
    "layers_per_block",
    "cross_attention_dim",
    "use_linear_projection",
    "norm_num_groups",
    "norm_eps",
    "flip_sin_to_cos",
    "freq_shift",
)
SCHEDULER, FLOW = "scheduler/scheduler_config.json", "flow/config.json"


def test_reads_the_recorded_model(parity_model: Path) -> None:
    configs = read_configs(parity_model)
    assert configs.unet.block_out_channels == (32, 32, 64, 64)
    assert configs.unet.heads == (8, 8, 8, 8)
    assert configs.unet.cross_only == (True, True, True, False)
    assert configs.controlnet.conditioning_embedding_out_channels == (8, 16, 32)
    assert (configs.vae.width, configs.vae.num_decoder_blocks) == (16, (3, 3, 1))
    assert configs.flow is RAFT_LARGE
    assert configs.scheduler.timestep_spacing == "trailing"
    assert configs.scheduler.set_alpha_to_one is False


def test_missing_keys_have_diffusers_defaults(tmp_path: Path) -> None:
    """Compared with diffusers itself, as far as its defaults are a model that runs here."""
    diffusers = pytest.importorskip("diffusers")
    for name, kind, reference in (
        ("unet", UNetConfig, diffusers.UNet2DConditionModel),
        ("controlnet", ControlNetConfig, diffusers.ControlNetModel),
    ):
        path = tmp_path / f"{name}.json"
        hint = {"conditioning_embedding_out_channels": [8, 16, 32]}
        path.write_text(json.dumps(hint if name == "controlnet" else {}), encoding="utf-8")
        config = read_config(path, kind)
        with torch.device("meta"):
            expected = reference(**(hint if name == "controlnet" else {})).config
        assert config.block_out_channels == tuple(expected.block_out_channels)
        assert config.down_block_types == tuple(expected.down_block_types)
        assert config.heads == (expected.attention_head_dim,) * 4
        for key in SCALARS:
            assert getattr(config, key) == expected[key], key
    path = tmp_path / "scheduler.json"
    path.write_text('{"clip_sample": false}', encoding="utf-8")
    expected = diffusers.DDIMScheduler().config
    read_scheduler = read_config(path, ScheduleConfig)
    for key in read_scheduler.__dataclass_fields__:
        assert getattr(read_scheduler, key) == expected[key], key


def test_the_right_name_of_heads_wins(edit: Edit) -> None:
    path = edit(UNET, {"num_attention_heads": [1, 2, 4, 8], "attention_head_dim": 2})
    assert read_config(path, UNetConfig).heads == (1, 2, 4, 8)


def test_the_other_name_of_heads_may_then_have_any_value(edit: Edit) -> None:
    path = edit(UNET, {"num_attention_heads": 4, "attention_head_dim": None})
    assert read_config(path, UNetConfig).heads == (4,) * 4


def test_scalars_are_meant_for_every_level(edit: Edit) -> None:
    path = edit(UNET, {"only_cross_attention": True, "transformer_layers_per_block": [1, 2, 1, 1]})
    config = read_config(path, UNetConfig)
    assert config.cross_only == (True,) * 4
    assert config.transformer_layers == (1, 2, 1, 1)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        *((part, "act_fn", "gelu") for part in (UNET, CONTROLNET, VAE)),
        *((part, "class_embed_type", "timestep") for part in (UNET, CONTROLNET)),
        *((part, "num_class_embeds", 1000) for part in (UNET, CONTROLNET)),
        *((part, "addition_embed_type", "text") for part in (UNET, CONTROLNET)),
        *((part, "encoder_hid_dim", 768) for part in (UNET, CONTROLNET)),
        *((part, "encoder_hid_dim_type", "text_proj") for part in (UNET, CONTROLNET)),
        *((part, "projection_class_embeddings_input_dim", 8) for part in (UNET, CONTROLNET)),
        *((part, "resnet_time_scale_shift", "scale_shift") for part in (UNET, CONTROLNET)),
        *((part, "mid_block_type", "UNetMidBlock2D") for part in (UNET, CONTROLNET)),
        *((part, "mid_block_type", None) for part in (UNET, CONTROLNET)),
        *((part, "mid_block_scale_factor", 1.4) for part in (UNET, CONTROLNET)),
        *((part, "downsample_padding", 0) for part in (UNET, CONTROLNET)),
        *((part, "layers_per_block", [1, 2, 2, 2]) for part in (UNET, CONTROLNET)),
        *((part, "norm_num_groups", None) for part in (UNET, CONTROLNET)),
        *((part, "block_out_channels", [32, 32, 64, -64]) for part in (UNET, CONTROLNET)),
        *((part, "block_out_channels", [32, 32, 64, 10**9]) for part in (UNET, CONTROLNET)),
        *((part, "block_out_channels", [32, 32, 64, 60]) for part in (UNET, CONTROLNET)),
        *((part, "block_out_channels", "wide") for part in (UNET, CONTROLNET)),
        *((part, "block_out_channels", []) for part in (UNET, CONTROLNET)),
        (UNET, "attention_head_dim", [2, 2, 2]),
        (UNET, "attention_head_dim", 7.5),
        (UNET, "only_cross_attention", [True, False]),
        (UNET, "transformer_layers_per_block", [[1], [1], [1], [1]]),
        (UNET, "cross_attention_dim", [32, 32, 32, 32]),
        (UNET, "in_channels", True),
        (UNET, "in_channels", 7.0),
        (UNET, "norm_eps", float("nan")),
        (UNET, "norm_eps", 10**400),
        (UNET, "flip_sin_to_cos", 1),
        (UNET, "dual_cross_attention", True),
        (UNET, "conv_in_kernel", 5),
        (UNET, "conv_out_kernel", 1),
        (UNET, "center_input_sample", True),
        (UNET, "time_embedding_type", "fourier"),
        (UNET, "time_embedding_dim", 512),
        (UNET, "time_embedding_act_fn", "silu"),
        (UNET, "timestep_post_act", "silu"),
        (UNET, "time_cond_proj_dim", 256),
        (UNET, "cross_attention_norm", "layer_norm"),
        (UNET, "attention_type", "gated"),
        (UNET, "class_embeddings_concat", True),
        (UNET, "resnet_skip_time_act", True),
        (UNET, "resnet_out_scale_factor", 2.0),
        (UNET, "reverse_transformer_layers_per_block", [1, 1, 1, 1]),
        (CONTROLNET, "global_pool_conditions", True),
        (CONTROLNET, "controlnet_conditioning_channel_order", "bgr"),
        (CONTROLNET, "conditioning_channels", 1),
        (CONTROLNET, "conditioning_embedding_out_channels", [16, 32, 96, 256]),
        (CONTROLNET, "conditioning_embedding_out_channels", None),
        (VAE, "upsample_fn", "bilinear"),
        (VAE, "upsampling_scaling_factor", 4),
        (VAE, "shift_factor", 0.1),
        (VAE, "num_encoder_blocks", [1, 3, 3, 3]),
        (VAE, "num_decoder_blocks", [3, 2, 1]),
        (VAE, "encoder_block_out_channels", [16, 16, 32]),
        (VAE, "decoder_block_out_channels", [32, 32, 32]),
        (VAE, "latent_magnitude", 0),
        (VAE, "scaling_factor", "1.0"),
        (SCHEDULER, "clip_sample", True),
        (SCHEDULER, "thresholding", True),
        (SCHEDULER, "trained_betas", [0.1, 0.2]),
        (SCHEDULER, "rescale_betas_zero_snr", True),
        (SCHEDULER, "timestep_spacing", "karras"),
        (SCHEDULER, "beta_schedule", "squaredcos_cap_v2"),
        (SCHEDULER, "prediction_type", "flow"),
        (SCHEDULER, "num_train_timesteps", 0),
        (SCHEDULER, "steps_offset", -1),
        (SCHEDULER, "beta_end", 1e9),
        (SCHEDULER, "set_alpha_to_one", "yes"),
        (FLOW, "feature_encoder_block", "dense"),
        (FLOW, "feature_encoder_block", "\ud800"),
        (FLOW, "flow_scale", 3),
        (FLOW, "context_encoder_norm_layer", "group"),
        (FLOW, "feature_encoder_layers", [8, 8, 16]),
        (FLOW, "feature_encoder_layers", [8, 16, 16, 16, 32]),
        (FLOW, "feature_encoder_layers", [8, 8, 18, 16, 32]),
        (FLOW, "context_encoder_layers", [8, 8, 16, 16, 24]),
        (FLOW, "motion_encoder_corr_layers", []),
        (FLOW, "motion_encoder_out_channels", 2),
        (FLOW, "recurrent_block_kernel_size", [[2, 2]]),
        (FLOW, "recurrent_block_kernel_size", [3, 3]),
        (FLOW, "num_flow_updates", 10_000),
        (FLOW, "corr_block_radius", -1),
        (FLOW, "mask_predictor_hidden_size", None),
    ],
)
def test_refused_by_file_key_and_value(
    edit: Edit, tiny_model: Path, file: str, key: str, value: Any
) -> None:
    edit(file, {key: value})
    with pytest.raises(StreamDiffVSRError) as caught:
        read_configs(tiny_model)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    assert str(tiny_model / file) in line
    assert f"{key} is " in line
    assert "supported is " in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("down_block_types", "AttnDownBlock2D"),
        ("up_block_types", "SimpleCrossAttnUpBlock2D"),
    ],
)
def test_unknown_block_types_are_named(edit: Edit, tiny_model: Path, key: str, value: str) -> None:
    edit(UNET, {key: [value] * 4})
    with pytest.raises(StreamDiffVSRError, match=f'{key} is "{value}": supported is .*Block2D'):
        read_configs(tiny_model)


def test_an_odd_first_width_is_refused(edit: Edit, tiny_model: Path) -> None:
    odd = {"block_out_channels": [33] * 4, "norm_num_groups": 33, "attention_head_dim": 3}
    edit(UNET, odd)
    with pytest.raises(StreamDiffVSRError, match="supported is an even first width"):
        read_configs(tiny_model)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        (CONTROLNET, "conditioning_embedding_out_channels"),
        (VAE, "num_encoder_blocks"),
        (VAE, "encoder_block_out_channels"),
    ],
)
def test_a_key_whose_default_is_another_kind_of_model_is_needed(
    tiny_model: Path, file: str, key: str
) -> None:
    path = tiny_model / file
    keys = json.loads(path.read_text(encoding="utf-8"))
    del keys[key]
    path.write_text(json.dumps(keys), encoding="utf-8")
    with pytest.raises(StreamDiffVSRError, match=rf"{file}: {key} is absent: supported is a list"):
        read_configs(tiny_model)


def test_the_wrong_item_of_a_list_is_named(edit: Edit, tiny_model: Path) -> None:
    edit(FLOW, {"recurrent_block_kernel_size": [[3, 3], [5, 4]]})
    with pytest.raises(StreamDiffVSRError, match="recurrent_block_kernel_size is 4: supported is"):
        read_configs(tiny_model)


def test_clipping_is_refused_where_diffusers_would_default_to_it(tiny_model: Path) -> None:
    path = tiny_model / SCHEDULER
    keys = json.loads(path.read_text(encoding="utf-8"))
    del keys["clip_sample"]
    path.write_text(json.dumps(keys), encoding="utf-8")
    with pytest.raises(StreamDiffVSRError, match=r"clip_sample is .*absent.*supported is false"):
        read_configs(tiny_model)


def test_betas_that_fall_are_refused(edit: Edit, tiny_model: Path) -> None:
    edit(SCHEDULER, {"beta_start": 0.5, "beta_end": 0.1})
    with pytest.raises(
        StreamDiffVSRError,
        match=r"scheduler_config\.json: beta_end is 0\.1: supported is .*beta_start \(0\.5\)",
    ):
        read_configs(tiny_model)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "no JSON object"),
        (b" " * 1_000_001, "at most 1000000 bytes"),
    ],
)
def test_broken_files_are_named(tiny_model: Path, content: bytes, why: str) -> None:
    (tiny_model / VAE).write_bytes(content)
    with pytest.raises(StreamDiffVSRError, match=rf"cannot read .*vae/config\.json: .*{why}"):
        read_configs(tiny_model)


def test_a_missing_file_is_named(tiny_model: Path) -> None:
    (tiny_model / CONTROLNET).unlink()
    with pytest.raises(StreamDiffVSRError, match=r"controlnet/config\.json: no such file"):
        read_configs(tiny_model)


def test_parts_that_do_not_fit_each_other(edit: Edit, tiny_model: Path) -> None:
    edit(VAE, {"latent_channels": 8})
    with pytest.raises(StreamDiffVSRError, match=r"unet in_channels is 7 but .* is 11"):
        read_configs(tiny_model)


def test_unknown_keys_are_logged_and_ignored(
    edit: Edit, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(UNET, {"brand_new": 1, "_name_or_path": "x", "sample_size": 64})
    with caplog.at_level(logging.WARNING):
        read_configs(tiny_model)
    (record,) = caplog.records
    assert record.getMessage().endswith("unet/config.json: ignoring unknown keys: brand_new")


@pytest.mark.parametrize(
    ("files", "config"),
    [
        (["raft_small.pth"], RAFT_SMALL),
        (["raft_large_C_T_SKHT_V2-ff5fadd5.pth"], RAFT_LARGE),
        (["raft_small.safetensors", "raft_large.safetensors"], RAFT_LARGE),
    ],
)
def test_raft_by_the_name_of_its_weights(tmp_path: Path, files: list[str], config: object) -> None:
    (tmp_path / "flow").mkdir()
    for name in files:
        (tmp_path / "flow" / name).touch()
    assert read_flow(tmp_path) is config


def test_a_flow_config_beside_two_weights_is_ambiguous(tiny_model: Path) -> None:
    (tiny_model / "flow" / "other.pth").touch()
    with pytest.raises(StreamDiffVSRError, match=r"one weights file; found other\.pth, raft\."):
        read_configs(tiny_model)


def test_no_flow_weights(tiny_model: Path) -> None:
    (tiny_model / FLOW).unlink()
    with pytest.raises(StreamDiffVSRError, match=r"no optical-flow weights in .*docs/models\.md"):
        read_configs(tiny_model)
