"""The training: the same arithmetic as the engines', resumable, and learning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.denoiser import as_batch
from streamdiffvsr.export.model import load_model
from streamdiffvsr.export.reference import Reference, ReferenceState, estimate_flow
from streamdiffvsr.research.training.__main__ import train
from streamdiffvsr.research.training.batched_flow import estimate
from streamdiffvsr.research.training.loop import Losses, load_finished, run
from streamdiffvsr.research.training.losses import SMALL_TINT, carried, colour, psnr, temporal_loss
from streamdiffvsr.research.training.model_folder import write_model
from streamdiffvsr.research.training.networks import Networks, fresh, tiny
from streamdiffvsr.research.training.plot import plot
from streamdiffvsr.research.training.rollout import STEPS, Denoising


@pytest.fixture(scope="module")
def networks() -> Networks:
    made = fresh(tiny(), 0)
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():  # nothing may stay at its initial zero
        if not parameter.any() and "flow" not in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return made.eval()


def test_a_batch_of_flows_is_the_flows_of_its_pairs(networks: Networks) -> None:
    generator = torch.Generator().manual_seed(0)
    now, before = torch.rand(2, 2, 3, 136, 128, generator=generator)
    with torch.no_grad():
        batch = estimate(networks.flow, now, before).flows[-1]
        for i in range(2):
            single = estimate_flow(networks.flow, now[i : i + 1], before[i : i + 1])
            assert (batch[i : i + 1] - single).abs().max() < 1e-3


def test_a_written_model_runs_as_it_was_trained(networks: Networks, tmp_path: Path) -> None:
    write_model(networks, tmp_path, tiny())
    model = load_model(tmp_path)
    rng = np.random.default_rng(0)
    frame, noise = rng.integers(0, 256, (32, 36, 3), np.uint8), rng.standard_normal((12, 32, 36))
    noise = noise.astype(np.float32)
    out, latent, _ = Reference(model).step(frame, ReferenceState(), noise)
    lr = torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        roll = Denoising(networks).roll(torch.from_numpy(noise)[None], lr, None, STEPS, finish=True)
    assert roll.final is not None
    assert (roll.final - latent).abs().max() < 0.02 * latent.abs().max()  # weights are in float16
    assert out.shape == (128, 144, 3)


@pytest.mark.parametrize("trained", range(STEPS))
def test_gradients_reach_the_trained_step_alone(networks: Networks, trained: int) -> None:
    lr = torch.zeros(1, 3, 16, 16)
    noise = torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    denoising = Denoising(networks)
    with torch.no_grad():
        expected = denoising.roll(noise, lr, None, STEPS, finish=True).final
    rolled = denoising.roll(noise, lr, None, trained, finish=True)
    assert rolled.estimate.requires_grad and rolled.final is not None and expected is not None
    assert rolled.final.requires_grad == (trained == STEPS - 1)
    assert torch.allclose(rolled.final, expected, atol=1e-4)


@pytest.mark.parametrize("shift", [(0, 1), (0, -2), (1, 0), (-1, 1)])
def test_untrained_updates_already_follow_the_correlation(shift: tuple[int, int]) -> None:
    raft = fresh(tiny(), 0).flow
    fmap = 2 * torch.randn(1, 32, 20, 20, generator=torch.Generator().manual_seed(0))
    previous = torch.roll(fmap, shift, dims=(2, 3))  # what is at p now was at p + shift
    with torch.no_grad():
        flow = raft.estimate(fmap, previous, torch.zeros(1, 64, 20, 20)) / 8
    found = flow[0, :, 40:120, 40:120].mean((1, 2))
    for axis, true in ((1, shift[0]), (0, shift[1])):
        assert abs(found[axis]) < 0.25 if true == 0 else 0.2 < found[axis] / true < 2


def test_an_untrained_unet_hands_lr_on(networks: Networks) -> None:
    unet = fresh(tiny(), 0).unet
    lr = 2 * torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0)) - 1
    noise = torch.randn(1, 12, 24, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = unet(torch.cat([noise, lr], dim=1), unet.embed_time(as_batch(999)), networks.prompt)
    scale = networks.configs.vae.scaling_factor
    assert (made[:, :3] / scale - lr).abs().mean() < 0.05
    assert abs((made[:, :3] / scale - lr).mean()) < 0.01


def test_zero_flow_carries_a_frame_unchanged() -> None:
    frame = torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    moved = carried(frame, torch.zeros(2, 2, 20, 28))
    assert (moved - frame)[:, :, 1:-1, 1:-1].abs().max() < 1e-4


def test_losses_see_what_they_are_named_after() -> None:
    frame = torch.zeros(1, 3, 32, 32)
    flow, visible = torch.zeros(1, 2, 32, 32), torch.ones(1, 1, 32, 32)
    visible[..., :2], visible[..., -2:], visible[:, :, :2], visible[:, :, -2:] = 0, 0, 0, 0
    steady = temporal_loss(frame + 0.1, frame + 0.1, flow, visible)
    flickering = temporal_loss(frame + 0.1, frame - 0.1, flow, visible)
    assert steady < 1e-4 and flickering == pytest.approx(0.2, abs=1e-4)
    assert colour(frame + 0.1, frame) == pytest.approx(0.15 - SMALL_TINT / 2, abs=1e-6)
    assert psnr(frame + 0.2, frame) == pytest.approx(20.0, abs=1e-3)


class Fit:
    """A stage that fits one weight to noise drawn by step; it can be made to stop short."""

    name, steps = "fit", 12

    def __init__(self, networks: Networks, stop: int | None = None) -> None:
        self.networks, self.stop = networks, stop
        self.groups: list[dict[str, Any]] = [{"params": [networks.prompt], "lr": 0.1}]
        networks.prompt.requires_grad_(True)

    def draw(self, step: int) -> Tensor:
        return torch.randn(1, generator=torch.Generator().manual_seed(step))

    def losses(self, step: int, drawn: Tensor) -> Iterator[Losses]:
        if step == self.stop:
            raise KeyboardInterrupt
        yield {"total": (self.networks.prompt - drawn).square().mean()}

    def evaluate(self) -> dict[str, float]:
        return {"mean": self.networks.prompt.mean().item()}


def test_a_single_point_is_plotted_so_that_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figures: list[Any] = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    entries = [{"total": 2.0}, {"psnr": 20.0}, {"psnr": 21.0}]
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(
            json.dumps({"stage": "flow", "step": step, **entry}) + "\n"
            for step, entry in enumerate(entries)
        )
    )
    plot(log, tmp_path / "losses.png")
    markers = [line.get_marker() for axes in figures[0].axes for line in axes.lines]
    assert markers == ["o", "None"]


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamdiffvsr.research.training.loop.SAVE_EVERY_S", 0.0)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    networks = fresh(tiny(), 0)
    expected = run(Fit(networks), networks, tmp_path / "whole", lambda _: None)
    first = fresh(tiny(), 0)
    with pytest.raises(KeyboardInterrupt):
        run(Fit(first, stop=5), first, tmp_path / "parts", lambda _: None)
    second = fresh(tiny(), 0)
    assert run(Fit(second), second, tmp_path / "parts", lambda _: None) == expected
    assert torch.equal(second.prompt, networks.prompt)


def test_a_stage_starts_from_finished_ones_alone(tmp_path: Path) -> None:
    networks = fresh(tiny(), 0)
    with pytest.raises(StreamDiffVSRError, match=r"0 of its 12 steps.*--only fit"):
        load_finished(Fit(networks), networks, tmp_path)
    run(Fit(networks), networks, tmp_path, lambda _: None)
    other = fresh(tiny(), 0)
    load_finished(Fit(other), other, tmp_path)
    assert torch.equal(other.prompt, networks.prompt)


@pytest.mark.slow
def test_a_short_training_learns_and_its_model_loads(tmp_path: Path) -> None:
    figures = train(tmp_path, seed=0, fraction=0.01, tell=lambda _: None)
    assert set(figures) == {"autoencoder", "flow", "denoiser", "temporal"}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for stage in ("autoencoder", "denoiser"):
        totals = [line["total"] for line in lines if line["stage"] == stage and "total" in line]
        assert totals[-1] < totals[0]
    assert load_model(tmp_path / "model").configs.vae.latent_channels == 12
    assert (tmp_path / "losses.png").stat().st_size > 10_000
    again = train(tmp_path, seed=0, fraction=0.01, tell=lambda _: None)  # all done: nothing to do
    assert again == figures
