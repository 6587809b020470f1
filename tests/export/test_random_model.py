"""Random models: the right sizes, equal for equal seeds, and alive over an auto-regressive run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.export.config_files import read_configs
from streamdiffvsr.export.graphs import bicubic, warp
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.export.presets import PRESETS
from streamdiffvsr.export.random_model import (
    networks,
    write_configs,
    write_random_model,
    write_safetensors,
)
from streamdiffvsr.graphs.schedule import step_table

RELEASED = {"unet": 472_374_020, "controlnet": 207_699_264, "vae": 2_052_501, "flow": 5_257_536}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_full_is_the_released_model_to_the_parameter(tmp_path: Path) -> None:
    write_configs(tmp_path, PRESETS["full"])
    nets = networks(read_configs(tmp_path))
    assert {n: sum(p.numel() for p in net.parameters()) for n, net in nets.items()} == RELEASED


def test_parity_has_the_recorded_models_configs(tmp_path: Path, parity_model: Path) -> None:
    write_configs(tmp_path, PRESETS["parity"])
    assert read_configs(tmp_path) == read_configs(parity_model)


def test_the_seed_decides_everything(tiny_source: Path, tmp_path: Path) -> None:
    again = files(write_random_model(tmp_path / "again"))
    other = files(write_random_model(tmp_path / "other", seed=1))
    assert again == files(tiny_source)
    changed = {name for name in again if again[name] != other[name]}
    assert changed == {name for name in again if name.endswith(".safetensors")}


def test_half_precision_halves_the_files(tiny_source: Path, tmp_path: Path) -> None:
    write_random_model(tmp_path, dtype="float16")
    name = "unet/diffusion_pytorch_model.safetensors"
    half, whole = load_file(tmp_path / name), load_file(tiny_source / name)
    assert (tmp_path / name).stat().st_size < 0.6 * (tiny_source / name).stat().st_size
    assert all(torch.equal(half[k], whole[k].half()) for k in whole)
    assert sum(map(len, files(tmp_path).values())) < 9_000_000  # small enough for git


def test_a_folder_can_be_written_over(tmp_path: Path) -> None:
    for flow in ("raft_small", None, "raft_small"):
        write_random_model(tmp_path, flow=flow)
        read_configs(tmp_path)
    assert {p.name for p in (tmp_path / "flow").iterdir()} == {"raft_small.safetensors"}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"preset": "huge"}, "no preset 'huge': there are small, tiny, parity, full"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"flow": "raft_medium"}, "no RAFT 'raft_medium'"),
    ],
)
def test_what_is_not_there(tmp_path: Path, values: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        write_random_model(tmp_path, **values)


def test_values_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="block_out_channels is "):
        write_random_model(tmp_path, unet={"block_out_channels": [30, 32, 64, 64]})


def test_the_writer_writes_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {"a": torch.empty(2, 3, device="meta"), "n": torch.tensor(0), "e": torch.empty(0)}
    path = tmp_path / "w.safetensors"
    write_safetensors(path, tensors, lambda name, shape: torch.full(shape, 1.5))
    state = load_file(path)
    assert torch.equal(state["a"], torch.full((2, 3), 1.5))
    assert state["n"].dtype == torch.int64
    assert state["e"].shape == (0,)


def run(model: Model, frames: int, size: int) -> list[torch.Tensor]:
    """The loop of NUMERICS.md section 2 on a panning random texture; raw outputs."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, size + frames, size + frames, generator=generator) * 2 - 1
    table = step_table(model.configs.scheduler, 2)
    outputs: list[torch.Tensor] = []
    before = None
    for f in range(frames):
        lr = texture[:, :, f : f + size, f : f + size]
        fmap, context = model.flow.encode(bicubic(lr))
        hint, features = None, []
        if before is not None:
            warped = warp(outputs[-1], model.flow.estimate(fmap, before, context))
            hint, features = model.controlnet.hint(warped), model.vae.temporal_features(warped)
        latent = torch.randn(1, 4, size, size, generator=generator)
        for i in range(len(table)):
            x, t = torch.cat([latent, lr], dim=1), torch.tensor([float(table.timesteps[i])])
            residuals = None
            if hint is not None:
                time = model.controlnet.embed_time(t)
                residuals = model.controlnet(x, time, model.prompt_embeds, hint)
            v = model.unet(x, model.unet.embed_time(t), model.prompt_embeds, residuals)
            latent = float(table.latent_scale[i]) * latent + float(table.output_scale[i]) * v
        outputs.append(model.vae.decode(latent, features))
        before = fmap
    return outputs


@torch.inference_mode()
def test_an_auto_regressive_run_stays_alive(tiny_source: Path) -> None:
    outputs = run(load_model(tiny_source), frames=5, size=32)
    for frame in outputs:
        assert frame.isfinite().all()
        assert 0.1 < frame.std() < 1.0  # neither flat nor exploding
        assert frame.abs().mean() < 1.0
    for one, next_one in pairwise(outputs):
        assert (one - next_one).std() > 0.05  # it moves
