"""Clips are drawn from keys, hold cuts, and are degraded only as much as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from streamdiffvsr.research.training import clips as module
from streamdiffvsr.research.training.clips import ClipMaker
from streamdiffvsr.research.training.degrade import CLEAN, Degradation, compressed, degrade
from streamdiffvsr.research.training.photographs import TEST, TRAINING, VALIDATION, load


@pytest.fixture(scope="module")
def maker() -> ClipMaker:
    return ClipMaker(0, TRAINING[:2])


def test_a_key_names_a_draw(maker: ClipMaker) -> None:
    first, again = (maker.batch((1, 7), 2, 2, (64, 64)) for _ in range(2))
    other = maker.batch((1, 8), 2, 2, (64, 64))
    assert torch.equal(first.hr, again.hr) and torch.equal(first.lr, again.lr)
    assert not torch.equal(first.hr, other.hr)
    assert first.hr.shape == (2, 2, 3, 64, 64) and first.lr.shape == (2, 2, 3, 16, 16)
    assert first.hr.min() >= -1 and first.hr.max() <= 1


def test_nothing_is_visible_across_a_cut(maker: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CUT_SHARE", 1.0)
    clip = maker.clip(np.random.default_rng(3), 6, (64, 64))
    blind = [n for n in range(6) if not clip.visible[n].any()]
    assert len(clip.frames) == 6 and len(blind) == 2 and blind[0] == 0


def test_clean_is_the_antialiased_bicubic_in_256_levels() -> None:
    frames = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    lr = degrade(frames, CLEAN, np.random.default_rng(0))
    expected = F.interpolate(frames, size=(8, 12), mode="bicubic", antialias=True).clamp(0, 1)
    assert (lr - expected).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    "how", [Degradation(blur=1.0), Degradation(noise=3.0), Degradation(kernel="area")]
)
def test_each_degradation_shows(how: Degradation) -> None:
    frames = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    clean, worse = (degrade(frames, h, np.random.default_rng(0)) for h in (CLEAN, how))
    assert worse.shape == clean.shape and (worse - clean).abs().mean() > 1 / 255


def test_compression_is_a_real_codec_and_keeps_every_frame() -> None:
    frames = (255 * torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(0))).byte()
    fine, coarse = (compressed(frames, crf).float() for crf in (10, 30))
    assert fine.shape == coarse.shape == frames.shape
    errors = [(made - frames.float()).abs().mean() for made in (fine, coarse)]
    assert errors[0] < errors[1]


def test_no_photograph_is_both_trained_on_and_judged_by() -> None:
    names = [photograph.name for photograph in (*TRAINING, *VALIDATION, *TEST)]
    assert len(set(names)) == len(names)
    assert not any("motorcycle" in photograph.name for photograph in TRAINING)
    assert len(VALIDATION) >= 2


def test_photographs_are_there_and_in_range() -> None:
    image = load(VALIDATION[0])
    assert image.shape[0] == 3 and min(image.shape[1:]) >= 256
    assert 0 <= image.min() < 0.1 and 0.9 < image.max() <= 1
