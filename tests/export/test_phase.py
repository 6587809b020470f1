"""A doubling convolution split into phases: the same numbers, and only where it pays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamdiffvsr.export.autoencoder import Double
from streamdiffvsr.export.blocks import PhaseSplit, PhaseSplitUpsample, Upsample, split_phases
from streamdiffvsr.export.model import load_model
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 6), (5, 7), (9, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_split_is_doubling_and_convolving(size: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, 3, padding=1, bias=bias).requires_grad_(False)
    x = noise(1, 6, *size)
    close(PhaseSplit(conv)(x), conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


def test_it_costs_16_of_36_multiplications() -> None:
    conv = nn.Conv2d(6, 5, 3, padding=1).requires_grad_(False)
    kernels = sum(b.numel() for b in PhaseSplit(conv).buffers())
    assert (
        36 * kernels == 16 * 4 * conv.weight.numel()
    )  # the convolution runs on 4 times the pixels


def test_an_upsample_that_may_reach_an_odd_size_stays_whole() -> None:
    net, x = network(64), noise(1, 64, 5, 7)
    net.upsamplers[0].doubles = False
    split_phases(net)
    assert isinstance(net.upsamplers[0], Upsample)
    assert net.upsamplers[0](x, (9, 14)).shape == (1, 64, 9, 14)


def test_upsamples_double_where_a_frame_was_halved_without_remainder() -> None:
    unet = load_model(BUILT_IN_FOLDER).unet  # of four levels; sides are multiples of four
    found = [block.upsamplers[0].doubles for block in unet.up_blocks if block.upsamplers]
    assert found == [False, True, True]


def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(4, channels, 3, padding=1),
        nn.ReLU(),
        Double(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        Double(),
        nn.ReLU(),
        nn.Conv2d(channels, 3, 3, padding=1),
    )
    net = nn.Module()
    net.layers = layers
    net.upsamplers = nn.ModuleList([Upsample(channels, doubles=True)])
    return net.requires_grad_(False)


@pytest.mark.parametrize(("channels", "split"), [(32, False), (60, False), (64, True), (96, True)])
def test_only_wide_convolutions_are_split(channels: int, split: bool) -> None:
    net, x = network(channels), noise(1, 4, 6, 5)
    expected = net.layers(x)
    middle = net.layers[:2](x)
    expected_up = net.upsamplers[0](middle, (12, 10))
    convs = (net.layers[3], net.upsamplers[0].conv)
    weights = [conv.weight.clone() for conv in convs]
    split_phases(net)
    assert sum(isinstance(m, PhaseSplit) for m in net.layers) == int(split)
    assert isinstance(net.layers[3], PhaseSplit) == split
    assert isinstance(net.layers[2], Double) != split
    assert isinstance(net.layers[4], Double)  # no convolution follows this one
    assert isinstance(net.upsamplers[0], PhaseSplitUpsample) == split
    close(net.layers(x), expected)
    close(net.upsamplers[0](middle, (12, 10)), expected_up)
    assert all(torch.equal(c.weight, w) for c, w in zip(convs, weights, strict=True))


def test_splitting_twice_changes_nothing_more() -> None:
    net, x = network(64), noise(1, 4, 6, 5)
    expected = net.layers(x)
    split_phases(net)
    split_phases(net)
    close(net.layers(x), expected)
    out = net.upsamplers[0](noise(1, 64, 3, 4), (6, 8))
    close(out, network(64).upsamplers[0](noise(1, 64, 3, 4), (6, 8)))
