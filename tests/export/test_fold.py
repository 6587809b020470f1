"""Folding: the same numbers from tables, weights shared, the original untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from streamdiffvsr.export.blocks import Attention, TimeProjection, TransformerBlock
from streamdiffvsr.export.denoiser import Denoiser, as_batch
from streamdiffvsr.export.graphs import Denoise, PromptTable, TimeTable, fold_denoiser, recast
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.graphs.schedule import StepTable, step_table


@pytest.fixture(scope="module")
def model(tiny_source: Path) -> Model:
    return load_model(tiny_source)


@pytest.fixture(scope="module")
def table(model: Model) -> StepTable:
    return step_table(model.configs.scheduler, 3)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pointers(module: nn.Module) -> set[int]:
    return {p.data_ptr() for p in module.parameters() if p.dim() == 4}


def test_folded_networks_give_the_same_at_every_step(model: Model, table: StepTable) -> None:
    prompt, x, hint = model.prompt_embeds, noise(1, 7, 12, 20), noise(1, 32, 12, 20)
    unet = fold_denoiser(model.unet, table, prompt)
    controlnet = fold_denoiser(model.controlnet, table, prompt)
    outputs = []
    for i, timestep in enumerate(table.timesteps):
        t, step = as_batch(int(timestep)), torch.tensor([i], dtype=torch.int32)
        down, mid = model.controlnet(x, model.controlnet.embed_time(t), prompt, hint)
        folded_down, folded_mid = controlnet(x, step, None, hint)
        for ours, expected in zip([*folded_down, folded_mid], [*down, mid], strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        expected = model.unet(x, model.unet.embed_time(t), prompt, (down, mid))
        outputs.append(unet(x, step, None, (down, mid)))
        torch.testing.assert_close(outputs[-1], expected, atol=1e-5, rtol=1e-5)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-2  # the step is seen


@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_the_original_is_left_as_it_was_and_shares_its_weights(
    part: str, model: Model, table: StepTable
) -> None:
    net = getattr(model, part)
    names = {k: v.data_ptr() for k, v in net.state_dict().items()}
    values = {k: v.clone() for k, v in net.state_dict().items()}
    folded = fold_denoiser(net, table, model.prompt_embeds)
    assert {k: v.data_ptr() for k, v in net.state_dict().items()} == names
    assert all(torch.equal(v, values[k]) for k, v in net.state_dict().items())
    assert pointers(folded) == pointers(net)  # every convolution is the same memory
    kept = {k: v.data_ptr() for k, v in folded.state_dict().items() if k in names}
    assert kept == {k: names[k] for k in kept}


@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_no_projection_of_time_or_prompt_is_left(part: str, model: Model, table: StepTable) -> None:
    net = getattr(model, part)
    folded = fold_denoiser(net, table, model.prompt_embeds)
    assert isinstance(folded, Denoiser) and not hasattr(folded, "time_embedding")
    modules = list(folded.modules())
    assert not any(isinstance(m, TimeProjection) for m in modules)
    blocks = [m for m in modules if isinstance(m, TransformerBlock)]
    own = {False: 0, True: 0}
    for block in blocks:
        assert isinstance(block.attn2.to_k, PromptTable) and isinstance(
            block.attn2.to_v, PromptTable
        )
        assert isinstance(block.attn1.to_k, PromptTable) == block.cross_only
        assert isinstance(block.attn1.to_v, PromptTable) == block.cross_only
        own[block.cross_only] += 1
    assert min(own.values()) > 0  # both kinds were there
    projections = sum(isinstance(m, Attention) for m in net.modules())
    assert 2 * projections - 2 * own[False] == sum(isinstance(m, PromptTable) for m in modules)
    tables = [m for m in modules if isinstance(m, TimeTable)]
    assert tables and all(m.table.shape[0] == len(table) for m in tables)


def test_recast_shares_what_has_the_dtype_and_converts_what_has_not() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    net.tied = net[0]
    same = recast(net, torch.float32)
    assert same is not net and same[0].weight.data_ptr() == net[0].weight.data_ptr()
    half = recast(net, torch.float16)
    assert half[0].weight.dtype == half[1].running_mean.dtype == torch.float16
    assert half[1].num_batches_tracked.dtype == torch.int64
    assert half.tied.weight is half[0].weight
    assert net[0].weight.dtype == torch.float32


def test_half_precision_keeps_its_float32_islands(model: Model, table: StepTable) -> None:
    denoise = Denoise(model.unet, model.controlnet, table, model.prompt_embeds)
    half = recast(denoise, torch.float16)
    assert half.latent_scale.dtype == half.output_scale.dtype == torch.float32
    assert torch.equal(half.latent_scale, denoise.latent_scale)
    floats = [*half.parameters(), *half.buffers()]
    assert {t.dtype for t in floats} == {torch.float16}
    assert {t.dtype for t in denoise.parameters()} == {torch.float32}
