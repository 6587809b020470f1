"""The eager reference against the recorded run of the original, over an auto-regressive clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamdiffvsr.export import reference
from streamdiffvsr.export.autoencoder import TemporalAutoencoder
from streamdiffvsr.export.denoiser import ControlNet
from streamdiffvsr.export.graphs import bicubic, from_uint8, replicate_pad
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.export.reference import Image, Reference, ReferenceState, estimate_flow
from streamdiffvsr.graphs.schedule import step_table

TOLERANCE = 1e-4  # measured: 6e-6
Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    image: Image
    latent: Tensor
    raw: Tensor


@pytest.fixture(scope="module")
def model(parity_model: Path) -> Model:
    return load_model(parity_model)


def run(ref: Reference, trace: Trace, count: int) -> list[Result]:
    state, results = ReferenceState(), []
    for i in range(count):
        noise = trace[f"noise.{i}"][0]
        image, latent, state = ref.step(trace[f"input_u8.{i}"], state, noise)
        assert state.previous_hr is not None
        results.append(Result(image, latent, state.previous_hr))
    return results


@pytest.fixture(scope="module")
def reference_of(model: Model) -> Reference:
    return Reference(model)


@pytest.fixture(scope="module")
def results(reference_of: Reference, parity_trace: Trace) -> list[Result]:
    """The whole recorded clip, each frame from this implementation's own state."""
    return run(reference_of, parity_trace, 4)


@pytest.mark.parametrize("i", range(4))
def test_every_frame_is_the_originals(results: list[Result], parity_trace: Trace, i: int) -> None:
    result = results[i]
    raw, latent = parity_trace[f"raw.{i}"], parity_trace[f"latents.{i}.3"]
    np.testing.assert_allclose(result.raw.numpy(), raw, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(result.latent.numpy(), latent, atol=TOLERANCE, rtol=0)
    levels = result.image.astype(int) - parity_trace[f"hr_u8.{i}"]
    assert np.abs(levels).max() <= 1
    assert (levels != 0).mean() < 1e-3


def test_the_clip_moves(parity_trace: Trace) -> None:
    """The compared frames are not constant: they differ, and exceed the range that is clamped."""
    raw = [parity_trace[f"raw.{i}"] for i in range(4)]
    assert all(np.abs(a - b).mean() > 0.05 for a, b in pairwise(raw))
    assert max(np.abs(r).max() for r in raw) > 1.1


def test_a_frame_depends_on_nothing_but_its_state(
    reference_of: Reference, results: list[Result], parity_trace: Trace
) -> None:
    """Nothing is kept on a module: the start of the clip again, after its end."""
    for again, before in zip(run(reference_of, parity_trace, 1), results[:1], strict=True):
        assert torch.equal(again.raw, before.raw)
        assert torch.equal(again.latent, before.latent)
        assert np.array_equal(again.image, before.image)


def test_the_flow_is_the_originals(model: Model, parity_trace: Trace) -> None:
    ups = [
        bicubic(from_uint8(torch.from_numpy(parity_trace[f"input_u8.{i}"])[None])) for i in (1, 2)
    ]
    with torch.inference_mode():
        flow = estimate_flow(model.flow, ups[1], ups[0])
    expected = parity_trace["flow.2"].transpose(0, 3, 1, 2)
    assert np.abs(expected).mean() > 0.1
    np.testing.assert_allclose(flow.numpy(), expected, atol=1e-3, rtol=0)


# Mistakes that have been made in ports of this model: each must be seen.
Break = Callable[[pytest.MonkeyPatch], None]


def _warp_aligned(patch: pytest.MonkeyPatch) -> None:
    sample = F.grid_sample

    def aligned(*args: Any, **kwargs: Any) -> Tensor:
        return sample(*args, **{**kwargs, "align_corners": True})

    def warp(image: Tensor, flow: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(F, "grid_sample", aligned)
            return original(image, flow)

    original = reference.warp
    patch.setattr(reference, "warp", warp)


def _flow_reversed(patch: pytest.MonkeyPatch) -> None:
    flow = reference.estimate_flow
    patch.setattr(reference, "estimate_flow", lambda *args: -flow(*args))


def _features_reversed_by_stage(patch: pytest.MonkeyPatch) -> None:
    original = TemporalAutoencoder.temporal_features

    def features(vae: TemporalAutoencoder, warped: Tensor) -> list[Tensor]:
        low0, low1, low2, mid0, mid1, mid2, high = original(vae, warped)
        return [low2, low1, low0, mid2, mid1, mid0, high]

    patch.setattr(TemporalAutoencoder, "temporal_features", features)


def _features_rescaled(patch: pytest.MonkeyPatch) -> None:
    original = TemporalAutoencoder.temporal_features
    patch.setattr(
        TemporalAutoencoder, "temporal_features", lambda vae, w: original(vae, (w + 1) / 2)
    )


def _features_left_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TemporalAutoencoder, "temporal_features", lambda vae, w: [])


def _hint_rescaled(patch: pytest.MonkeyPatch) -> None:
    original = ControlNet.hint
    patch.setattr(ControlNet, "hint", lambda net, warped: original(net, (warped + 1) / 2))


MISTAKES = [
    _warp_aligned,
    _flow_reversed,
    _features_reversed_by_stage,
    _features_rescaled,
    _features_left_out,
    _hint_rescaled,
]


class SecondFrame:
    """Raw second frame from a raw first one; one step and the recorded flow, for time."""

    def __init__(self, model: Model, trace: Trace) -> None:
        self.quick = Reference(model, steps=1)
        self.image, self.noise = trace["input_u8.1"], trace["noise.1"][0]
        self.up = bicubic(from_uint8(torch.from_numpy(trace["input_u8.0"])[None]))
        self.flow = torch.from_numpy(trace["flow.1"]).permute(0, 3, 1, 2).contiguous()
        self.first = torch.from_numpy(trace["raw.0"])
        with pytest.MonkeyPatch.context() as patch:
            self.use_recorded_flow(patch)
            self.exact = self.after(self.first)

    def use_recorded_flow(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(reference, "estimate_flow", lambda *_: self.flow)

    def after(self, previous: Tensor) -> Tensor:
        state = ReferenceState(previous, self.up)
        raw = self.quick.step(self.image, state, self.noise)[2].previous_hr
        assert raw is not None
        return raw


@pytest.fixture(scope="module")
def second(model: Model, parity_trace: Trace) -> SecondFrame:
    return SecondFrame(model, parity_trace)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_far_outside_the_tolerance(
    mistake: Break, second: SecondFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    second.use_recorded_flow(monkeypatch)
    mistake(monkeypatch)
    assert (second.after(second.first) - second.exact).abs().max() > 100 * TOLERANCE


def test_a_clamped_state_is_far_outside_the_tolerance(
    second: SecondFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    second.use_recorded_flow(monkeypatch)
    clamped = second.after(second.first.clamp(-1, 1))
    assert (clamped - second.exact).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize(
    "change",
    [{"set_alpha_to_one": True}, {"timestep_spacing": "leading"}, {"prediction_type": "epsilon"}],
)
def test_the_schedule_is_seen(
    change: dict[str, Any], model: Model, results: list[Result], parity_trace: Trace
) -> None:
    other = Reference(model)
    other.table = step_table(replace(model.configs.scheduler, **change), 4)
    assert (run(other, parity_trace, 1)[0].raw - results[0].raw).abs().max() > 100 * TOLERANCE


@pytest.fixture(scope="module")
def tiny(tiny_source: Path) -> Reference:
    return Reference(load_model(tiny_source))


def frame(height: int, width: int, seed: int) -> Image:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "padded"), [((45, 50), (48, 52)), ((20, 35), (32, 36))])
def test_an_odd_size_is_the_padded_frame_cropped(
    tiny: Reference, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    (height, width), noise = size, np.random.default_rng(0).normal(size=(2, 4, *padded))
    noise = noise.astype(np.float32)
    small = frame(height, width, 1)
    image, latent, state = tiny.step(small, ReferenceState(), noise[0])
    assert image.shape == (4 * height, 4 * width, 3) and latent.shape == (1, 4, *padded)
    filled = replicate_pad(torch.from_numpy(small).permute(2, 0, 1)[None], padded)
    whole = tiny.step(filled[0].permute(1, 2, 0).numpy(), ReferenceState(), noise[0])
    assert np.array_equal(image, whole[0][: 4 * height, : 4 * width])
    assert torch.equal(latent, whole[1])

    image, _, after = tiny.step(frame(height, width, 2), state, noise[1])
    assert image.shape == (4 * height, 4 * width, 3)
    assert after.previous_hr is not None and after.previous_hr.isfinite().all()
    assert after.previous_hr.shape[2:] == (4 * height, 4 * width)


def test_steps_are_a_choice(tiny: Reference) -> None:
    noise = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    outputs = [
        Reference(tiny.model, steps).step(frame(32, 32, 1), ReferenceState(), noise)[0]
        for steps in (1, 4)
    ]
    assert len(Reference(tiny.model, 1).table) == 1
    assert not np.array_equal(*outputs)
