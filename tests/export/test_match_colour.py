"""Broad colours of the output are LR's, regardless of those that the network made."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from streamdiffvsr.export.graphs import bicubic, bicubic_kernel, colour_kernel, match_colour

LR = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def matched(hr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    return match_colour(hr, lr, colour_kernel(), bicubic_kernel())


def test_a_tint_is_taken_away() -> None:
    smooth = F.interpolate(LR[:, :, ::8, ::8], size=(24, 32), mode="bicubic")
    truth = bicubic(smooth)
    tinted = truth + torch.tensor([0.1, -0.05, 0.02])[None, :, None, None]
    assert (matched(tinted, smooth) - truth).abs().max() < 0.02


def test_detail_is_left_alone() -> None:
    """Detail that sums to zero within each 4x4 pixels is not colour."""
    detail = 0.3 * (torch.arange(96)[:, None] + torch.arange(128)).remainder(2).mul(2).sub(1)
    hr = F.interpolate(LR, scale_factor=4, mode="nearest") + detail
    assert torch.allclose(matched(hr, LR), hr, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_half_precision_is_corrected_in_single(size: tuple[int, int]) -> None:
    lr = LR[:, :, : size[0], : size[1]].half()
    hr = bicubic(lr.float()).half()
    result = matched(hr, lr)
    assert result.dtype == torch.float16 and result.shape == hr.shape
    assert (result.float() - matched(hr.float(), lr.float())).abs().max() < 2e-3
