"""Model folders: loading, strictness against diffusers' own modules, digests, and odd layouts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.config_files import read_configs
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.export.model_source import model_digest, model_files
from streamdiffvsr.export.presets import PRESETS
from streamdiffvsr.export.random_model import networks, write_configs, write_random_model

Edit = Callable[[str, dict[str, Any]], Path]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def refusal(folder: Path) -> str:
    with pytest.raises(StreamDiffVSRError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def modules(model: Model) -> list[nn.Module]:
    return [model.unet, model.controlnet, model.vae, model.flow]


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_recorded_model_loads_as_promised(parity_model: Path) -> None:
    model = load_model(parity_model)
    for module in modules(model):
        assert not any(part.training for part in module.modules())
        for tensor in module.state_dict(keep_vars=True).values():
            assert not tensor.is_meta
            assert not tensor.requires_grad
            assert tensor.dtype in (torch.float32, torch.int64)
    assert model.prompt_embeds.shape == (1, 77, 32)
    assert re.fullmatch("[0-9a-f]{64}", model.digest)
    stored = load_file(parity_model / "unet" / WEIGHTS)
    assert all(torch.equal(stored[k], v) for k, v in model.unet.state_dict().items())


@pytest.mark.parametrize("preset", ["tiny", "full"])
def test_names_and_shapes_are_diffusers_own(preset: str, tmp_path: Path) -> None:
    """Built from the very same config.json, on the meta device: nothing missing, nothing extra."""
    diffusers = pytest.importorskip("diffusers")
    write_configs(tmp_path, PRESETS[preset])
    ours = networks(read_configs(tmp_path))
    for part, reference in (
        ("unet", diffusers.UNet2DConditionModel),
        ("controlnet", diffusers.ControlNetModel),
        ("vae", diffusers.AutoencoderTiny),
    ):
        keys = json.loads((tmp_path / part / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            theirs = reference.from_config(keys)
        expected = {name: value.shape for name, value in theirs.state_dict().items()}
        shapes = {
            name: value.shape
            for name, value in ours[part].state_dict().items()
            if part != "vae" or not ("temporal_processor" in name or name.endswith(".alpha"))
        }
        assert shapes == expected, part


def test_half_precision_files_are_found_and_read_as_float32(tiny_model: Path) -> None:
    before = load_model(tiny_model)
    for part in ("unet", "controlnet", "vae"):
        path = tiny_model / part / WEIGHTS
        halves = {name: value.half() for name, value in load_file(path).items()}
        path.unlink()
        save_file(halves, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = load_model(tiny_model)
    weight = model.unet.conv_in.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, before.unet.conv_in.weight.half().float())
    assert model.digest != before.digest


def test_torchvision_pickles_load(parity_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parity_model, tmp_path / "model"))
    flow = folder / "flow" / "raft_large.safetensors"
    torch.save(load_file(flow), flow.with_name("raft_large_C_T_SKHT_V2-ff5fadd5.pth"))
    flow.unlink()
    assert_equal(load_model(folder).flow, load_model(parity_model).flow)


def test_weights_that_do_not_fit_the_config(edit: Edit, tiny_model: Path) -> None:
    edit("vae/config.json", {"num_encoder_blocks": [1, 2, 3], "num_decoder_blocks": [3, 2, 1]})
    line = refusal(tiny_model)
    assert f"vae/{WEIGHTS} does not fit the TemporalAutoencoder its config describes" in line
    assert re.search(r"\d+ unexpected: \w+", line)


def test_a_nan_in_the_weights(tiny_model: Path) -> None:
    path = tiny_model / "controlnet" / WEIGHTS
    state = load_file(path)
    state["controlnet_mid_block.weight"][0, 0] = float("nan")
    save_file(state, path)
    assert f"controlnet/{WEIGHTS} is damaged: controlnet_mid_block.weight" in refusal(tiny_model)


@pytest.mark.parametrize("part", ["unet", "controlnet", "vae"])
def test_missing_weights_name_the_folder(tiny_model: Path, part: str) -> None:
    (tiny_model / part / WEIGHTS).unlink()
    assert f"no weights in {tiny_model / part}" in refusal(tiny_model)


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "nowhere")


def test_no_prompt(tiny_model: Path) -> None:
    (tiny_model / "prompt_embeds.safetensors").unlink()
    assert "neither prompt_embeds.safetensors nor text_encoder/" in refusal(tiny_model)


def test_a_model_of_another_shape_loads(tmp_path: Path) -> None:
    """Widths, depths, heads and schedule all come from the configs."""
    write_random_model(
        tmp_path,
        unet={
            "block_out_channels": [16, 48],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "layers_per_block": 1,
            "attention_head_dim": [1, 3],
            "only_cross_attention": False,
            "use_linear_projection": False,
            "cross_attention_dim": 24,
            "transformer_layers_per_block": 2,
            "in_channels": 9,
            "out_channels": 6,
        },
        vae={
            "latent_channels": 6,
            "num_encoder_blocks": [2, 1, 1],
            "num_decoder_blocks": [1, 1, 2],
            "encoder_block_out_channels": [8] * 3,
            "decoder_block_out_channels": [8] * 3,
        },
        flow="raft_small",
        scheduler={"prediction_type": "epsilon", "timestep_spacing": "leading"},
        prompt_tokens=5,
    )
    model = load_model(tmp_path)
    assert model.configs.scheduler.prediction_type == "epsilon"
    assert model.prompt_embeds.shape == (1, 5, 24)
    time = model.unet.embed_time(torch.tensor([500.0]))
    out = model.unet(torch.zeros(1, 9, 8, 8), time, model.prompt_embeds)
    assert out.shape == (1, 6, 8, 8)
    assert model.vae.decode(out).shape == (1, 3, 32, 32)


def test_the_digest_is_of_names_and_contents_only(tiny_model: Path, tmp_path: Path) -> None:
    digest = model_digest(tiny_model)
    copy = Path(shutil.copytree(tiny_model, tmp_path / "elsewhere"))
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    (copy / "README.md").write_text("not part of the model")
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not what would be loaded")
    assert model_digest(copy) == digest
    assert load_model(copy).digest == digest


def test_every_file_that_matters_changes_the_digest(tiny_model: Path) -> None:
    digests = {model_digest(tiny_model)}
    files = model_files(tiny_model)
    assert len(files) == 10
    for path in files:
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        digests.add(model_digest(tiny_model))
        path.write_bytes(before)
    assert len(digests) == 1 + len(files)


def test_the_digest_needs_no_torch(tiny_model: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from streamdiffvsr.export.model_source import model_digest\n"
        "from streamdiffvsr.export import model_source as hub, config_files\n"
        f"model_digest(Path({str(tiny_model)!r}))\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def _as_readme(model: Path, keep: tuple[str, ...] = ()) -> None:
    """Rearrange a model folder after the ComfyUI pack's README: other names, no configs."""
    (model / "controlnet").rename(model / "artg")
    (model / "artg" / WEIGHTS).rename(model / "artg" / "artg_module.safetensors")
    (model / "vae" / WEIGHTS).rename(model / "vae" / "vae_tiny.safetensors")
    for name in ("unet/config.json", "artg/config.json", "vae/config.json", "scheduler"):
        path = model / name
        if name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_the_readme_layout_is_answered_with_all_that_is_wrong(tiny_model: Path) -> None:
    _as_readme(tiny_model)
    path = tiny_model / "vae" / "vae_tiny.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if "temporal_processor" not in k}, path)
    line = refusal(tiny_model)
    for problem in (
        "laid out as the ComfyUI pack's README says (artg/artg_module.safetensors)",
        "unet/ has no config.json",
        "artg/ (the controlnet) has no config.json",
        "vae/ has no config.json",
        "vae/vae_tiny.safetensors has no temporal processors",
        "scheduler/scheduler_config.json is missing",
        "see docs/models.md",
    ):
        assert problem.lower() in line.lower()


def test_the_readme_names_are_used_where_complete(tiny_model: Path) -> None:
    expected = load_model(tiny_model)
    _as_readme(
        tiny_model, keep=("unet/config.json", "artg/config.json", "vae/config.json", "scheduler")
    )
    model = load_model(tiny_model)
    for ours, theirs in zip(modules(model), modules(expected), strict=True):
        assert_equal(ours, theirs)


def test_the_decoder_may_lie_in_temporal_decoder(tiny_model: Path) -> None:
    (tiny_model / "vae").rename(tiny_model / "temporal_decoder")
    folder = tiny_model / "temporal_decoder"
    (folder / WEIGHTS).rename(folder / "temporal_decoder.safetensors")
    load_model(tiny_model)
    (folder / "config.json").unlink()
    assert "temporal_decoder/ (the vae) has no config.json" in refusal(tiny_model)


def test_a_model_one_folder_further_down(tiny_model: Path) -> None:
    assert f"did you mean {tiny_model}?" in refusal(tiny_model.parent).replace("Did", "did")
