"""The seven graphs in a row against the reference, at several models, sizes and precisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamdiffvsr.export.correlation import AllPairs, OnDemand
from streamdiffvsr.export.graph_folder import TORCH, model_dims
from streamdiffvsr.export.graphs import Features, Flow, Guide, Prepare, bicubic, build_graphs
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.export.random_model import write_random_model
from streamdiffvsr.export.reference import Reference, ReferenceState
from streamdiffvsr.graphs import golden
from streamdiffvsr.graphs.schedule import step_table
from streamdiffvsr.graphs.spec import GRAPHS, Geometry, Size, graph_specs

WIDE: dict[
    str, Any
] = {  # 64 channels where something is doubled, so that the phase split is in the row
    "unet": {"block_out_channels": [32, 64], "layers_per_block": 1, "only_cross_attention": True}
    | {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}
    | {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
    "vae": {
        "encoder_block_out_channels": [64] * 3,
        "decoder_block_out_channels": [64] * 3,
        "num_encoder_blocks": [1, 1, 1],
        "num_decoder_blocks": [1, 1, 1],
    },
}
EPSILON = {
    "unet": WIDE["unet"],
    "scheduler": {
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "set_alpha_to_one": True,
        "beta_schedule": "linear",
    },
}
ROWS: list[tuple[dict[str, Any], Size, Any, int]] = [  # model, size, correlation, frames
    ({}, (36, 44), AllPairs, 2),
    (EPSILON, (33, 42), OnDemand, 3),
    (WIDE, (32, 36), AllPairs, 2),
]


@pytest.fixture(scope="module")
def model(tiny_source: Path) -> Model:
    return load_model(tiny_source)


class Row:
    """Every graph of one geometry, checked against its spec at each run."""

    def __init__(
        self,
        model: Model,
        geometry: Geometry,
        precision: Any = "fp32",
        correlation: Any = AllPairs,
        steps: int = 4,
    ) -> None:
        self.table = step_table(model.configs.scheduler, steps)
        self.graphs = build_graphs(model, geometry, precision, self.table, correlation)
        self.specs = graph_specs(geometry, model_dims(model), precision)
        self.inputs: dict[str, tuple[Tensor, ...]] = {}  # of each graph's last run
        self.outputs: dict[str, tuple[Tensor, ...]] = {}
        self.kept: Tensor | None = None  # the previous frame's features
        self.hr: Tensor | None = None

    @torch.inference_mode()
    def run(self, name: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        spec = self.specs[name]
        for tensor, expected in zip(inputs, spec.inputs, strict=True):
            assert tensor.shape == expected.shape, (name, expected)
            assert tensor.dtype == TORCH[expected.dtype], (name, expected)
        result = self.graphs[name](*inputs)
        outputs = (result,) if isinstance(result, Tensor) else tuple(result)
        for tensor, expected in zip(outputs, spec.outputs, strict=True):
            assert tensor.shape == expected.shape, (name, expected)
            assert tensor.dtype == TORCH[expected.dtype], (name, expected)
        self.inputs[name], self.outputs[name] = inputs, outputs
        return outputs

    def zeros(self, name: str) -> list[Tensor]:
        return [torch.zeros(s.shape, dtype=TORCH[s.dtype]) for s in self.specs[name].outputs]

    def frame(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One frame the way the runtime does it: (uint8 frame, raw hr)."""
        lr, up = self.run("prepare", image)
        fmap, context = self.run("features", up)
        real = lr.dtype
        gate = torch.zeros(1, dtype=real)
        (warped, hint), temporal = self.zeros("guide"), self.zeros("temporal")
        if self.kept is not None and self.hr is not None:
            gate = torch.ones(1, dtype=real)
            flow = self.run("flow", fmap, self.kept, context)[0]
            warped, hint = self.run("guide", self.hr, flow)
            temporal = list(self.run("temporal", warped))
        latent = noise.to(real)
        for i in range(len(self.table)):
            step = torch.tensor([i], dtype=torch.int32)
            latent = self.run("denoise", latent, lr, hint, step, gate)[0]
        self.hr, shown = self.run("decode", latent, *temporal, gate)
        self.kept = fmap
        return shown, self.hr


def example_frame(height: int, width: int, shift: int) -> Tensor:
    return torch.from_numpy(golden.example_frame(height, width, shift))[None]


def noise(seed: int, size: Size) -> Tensor:
    return torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("parts", "size", "correlation", "frames"), ROWS, ids=["tiny", "epsilon", "wide"]
)
def test_the_graphs_in_a_row_are_the_reference(
    parts: dict[str, Any], size: Size, correlation: Any, frames: int, tmp_path: Path
) -> None:
    model = load_model(write_random_model(tmp_path, **parts))
    geometry = Geometry(size)
    row, reference = Row(model, geometry, correlation=correlation), Reference(model)
    state = ReferenceState()
    for i in range(frames):
        image, start = example_frame(*size, 4 - 2 * i), noise(i, geometry.padded)
        shown, raw = row.frame(image, start)
        expected, _, state = reference.step(image[0].numpy(), state, start[0].numpy())
        assert state.previous_hr is not None
        error = (raw - state.previous_hr).abs().max()
        assert error < 1e-4 * state.previous_hr.abs().max().clamp(min=1), i
        assert np.abs(shown[0].numpy().astype(int) - expected).max() <= 1
        assert expected.std() > 1


def test_a_closed_gate_is_the_model_without_guidance(model: Model) -> None:
    row = Row(model, Geometry((32, 36)), steps=2)
    generator = torch.Generator().manual_seed(0)
    guidance = [torch.randn(s.shape, generator=generator) for s in row.specs["temporal"].outputs]
    hint = torch.randn(row.specs["guide"].outputs[1].shape, generator=generator)
    lr, latent = noise(1, (32, 36))[:, :3], noise(0, (32, 36))
    closed, opened = torch.zeros(1), torch.ones(1)
    for i, t in enumerate(row.table.timesteps):
        step = torch.tensor([i], dtype=torch.int32)
        out = row.run("denoise", latent, lr, hint, step, closed)[0]
        nothing = row.run("denoise", latent, lr, torch.zeros_like(hint), step, closed)[0]
        assert torch.equal(out, nothing)
        with torch.inference_mode():
            time = model.unet.embed_time(torch.tensor([float(t)]))
            plain = model.unet(torch.cat([latent, lr], 1), time, model.prompt_embeds)
        keep, add = float(row.table.latent_scale[i]), float(row.table.output_scale[i])
        torch.testing.assert_close(out, keep * latent + add * plain, atol=1e-5, rtol=1e-5)
        guided = row.run("denoise", latent, lr, hint, step, opened)[0]
        assert (guided - out).abs().max() > 1e-3
    raw = row.run("decode", latent, *guidance, closed)[0]
    with torch.inference_mode():
        torch.testing.assert_close(raw, model.vae.decode(latent), atol=1e-6, rtol=0)
    assert (row.run("decode", latent, *guidance, opened)[0] - raw).abs().max() > 1e-3


def test_the_models_own_networks_are_left_as_they_were(tmp_path: Path) -> None:
    model = load_model(write_random_model(tmp_path, **WIDE))
    parts = (model.unet, model.controlnet, model.vae, model.flow)
    before = [str(part) for part in parts]
    values = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts]
    graphs = build_graphs(
        model, Geometry((32, 32)), "fp16", step_table(model.configs.scheduler, 4), AllPairs
    )
    assert "PhaseSplit" in str(graphs["decode"]) and "PhaseSplit" in str(graphs["denoise"])
    assert [str(part) for part in parts] == before
    for part, kept in zip(parts, values, strict=True):
        assert all(torch.equal(v, kept[k]) for k, v in part.state_dict().items())


@pytest.mark.parametrize(
    "geometry",
    [Geometry((62, 66), flow_scale=2), Geometry((40, 48), tile=(32, 40)), Geometry((7, 90))],
)
def test_every_geometry_keeps_its_specs(geometry: Geometry, model: Model) -> None:
    row = Row(model, geometry)
    assert set(row.graphs) == set(GRAPHS)
    generator = torch.Generator().manual_seed(0)
    outputs: dict[str, Tensor] = {}
    for name in GRAPHS:
        given = []
        for spec in row.specs[name].inputs:
            if spec.dtype in ("uint8", "int32"):
                given.append(torch.zeros(spec.shape, dtype=TORCH[spec.dtype]))
            else:
                given.append(torch.randn(spec.shape, generator=generator))
        for spec, out in zip(row.specs[name].outputs, row.run(name, *given), strict=True):
            outputs[f"{name}.{spec.name}"] = out
    assert all(o.isfinite().all() for o in outputs.values() if o.is_floating_point())


@pytest.mark.slow
def test_half_precision_is_close_in_every_graph(model: Model) -> None:
    geometry = Geometry((31, 32))
    whole, half = Row(model, geometry, steps=1), Row(model, geometry, "fp16", steps=1)
    for i in range(2):
        whole.frame(example_frame(31, 32, 2 - 2 * i), noise(i, geometry.padded))
    assert set(whole.inputs) == set(GRAPHS)
    for name, spec in half.specs.items():
        given = [x.to(TORCH[s.dtype]) for x, s in zip(whole.inputs[name], spec.inputs, strict=True)]
        for out, expected in zip(half.run(name, *given), whole.outputs[name], strict=True):
            error = (out.double() - expected.double()).abs().max()
            assert error < 0.02 * expected.double().abs().max(), name


class StubFlow(nn.Module):
    """Stands for RAFT: always the same flow."""

    def __init__(self, flow: Tensor) -> None:
        super().__init__()
        self.flow = flow

    def estimate(self, *_: Any) -> Tensor:
        return self.flow


@pytest.mark.parametrize(
    ("scale", "size"), [(1, (36, 44)), (2, (64, 68)), (2, (66, 70)), (4, (132, 148))]
)
def test_flow_is_in_full_size_pixels_whatever_its_scale(scale: int, size: Size) -> None:
    geometry = Geometry(size, scale)
    full = (4 * geometry.padded[0], 4 * geometry.padded[1])
    coarse = [-(-side // scale // 8) * 8 for side in full]
    constant = torch.tensor([3.0, -2.0])[None, :, None, None].expand(1, 2, *coarse)
    nothing = torch.zeros(1)
    out = Flow(StubFlow(constant), scale, full, AllPairs)(nothing, nothing, nothing)
    assert out.shape == (1, 2, *full)
    assert (out[0, 0] == 3 * scale).all() and (out[0, 1] == -2 * scale).all()
    # Pixel centres stay where they are: what rises with x still does, in both resolutions.
    xs = torch.arange(coarse[1]) + 0.5
    ramp = xs.expand(1, 2, coarse[0], coarse[1])
    out = Flow(StubFlow(ramp), scale, full, AllPairs)(nothing, nothing, nothing)
    expected = torch.arange(full[1]) + 0.5
    inner = slice(scale, full[1] - scale)
    torch.testing.assert_close(out[0, 0, 5, inner], expected[inner], atol=1e-3, rtol=0)


def test_features_at_a_quarter_are_those_of_the_averaged_frame(model: Model) -> None:
    up = torch.rand(1, 3, 528, 560, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        fmap, context = Features(model.flow, 4)(up)
        # 132 x 140 is no multiple of 8: the last row and column are repeated.
        small = F.pad(F.avg_pool2d(up, 4), (0, 4, 0, 4), mode="replicate")
        expected = model.flow.encode(small)
    assert fmap.shape[2:] == (17, 18)
    torch.testing.assert_close(fmap, expected[0])
    torch.testing.assert_close(context, expected[1])


def test_prepare_computes_in_float32_before_it_rounds() -> None:
    frame = example_frame(33, 37, 0)
    wide, half = Prepare((36, 40), torch.float32)(frame), Prepare((36, 40), torch.float16)(frame)
    for exact, rounded in zip(wide, half, strict=True):
        assert torch.equal(exact.half(), rounded)
    torch.testing.assert_close(wide[1], bicubic(wide[0]), atol=1e-6, rtol=0)
    assert torch.equal(wide[0][..., :33, 37], wide[0][..., :33, 36])


def test_guide_pads_the_state_before_it_warps(model: Model) -> None:
    guide = Guide(model.controlnet, (144, 160))
    state = torch.ones(1, 3, 132, 148)
    with torch.inference_mode():
        warped, hint = guide(state, torch.zeros(1, 2, 144, 160))
    assert (warped[..., 1:-1, 1:-1] - 1).abs().max() < 1e-5  # no zeros where the frame ends
    assert hint.shape == (1, 32, 36, 40)
