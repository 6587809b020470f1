"""RAFT against the plainly written reference, and against flows that torchvision gave."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from streamdiffvsr.export.configs import RAFT_LARGE, RAFT_SMALL, RAFTConfig
from streamdiffvsr.export.correlation import OnDemand
from streamdiffvsr.export.model import load_model
from streamdiffvsr.export.raft import RAFT, ConvGRU, pixel_grid, upsample_flow
from streamdiffvsr.export.reference import estimate_flow

BOTTLENECK = RAFTConfig(
    feature_encoder_layers=(8, 8, 12, 16, 24),
    feature_encoder_block="bottleneck",
    feature_encoder_norm_layer="instance",
    context_encoder_layers=(8, 8, 12, 16, 40),
    context_encoder_block="bottleneck",
    context_encoder_norm_layer="batch",
    corr_block_num_levels=3,
    corr_block_radius=2,
    motion_encoder_corr_layers=(16,),
    motion_encoder_flow_layers=(12, 8),
    motion_encoder_out_channels=18,
    recurrent_block_hidden_state_size=16,
    recurrent_block_kernel_size=((3, 3),),
    flow_head_hidden_size=16,
    mask_predictor_hidden_size=0,
    num_flow_updates=5,
)
SIZE = (128, 136)

# Flow by torchvision 0.28's raft_small and raft_large at rows 10, 46, 82, 118 and columns 7, 47,
# 87, 127, x then y, with the weights of `formula` on `image(0)` and `image(3)`, 12 updates.
# fmt: off
TORCHVISION = {
    "small": (
        [-5.8212, -12.5403, -21.0125, -15.3562, -2.2726, -19.724, -26.2802, -14.8143,
         -7.4395, -13.5094, -24.6016, -19.9809, -2.734, -6.1784, -15.7931, -15.0685],
        [7.9538, 18.7227, 14.06, 7.8355, 4.3451, 18.1566, 22.3936, 18.7102,
         10.7802, 22.746, 15.917, 1.213, -1.1304, 14.4824, 14.681, 16.1888],
    ),
    "large": (
        [1.8359, 4.8516, 3.3952, 3.4043, -1.0032, 5.3952, 11.1508, 3.1045,
         -0.7622, -5.0729, -2.1164, 0.3018, -0.0018, 1.5387, 2.9989, 1.8647],
        [-2.2848, -8.4293, -9.6999, -7.5918, -6.6184, -7.5869, -10.9019, -3.499,
         -6.6775, -7.3007, -7.7847, -4.061, -6.7281, -13.2614, -13.7859, -4.0705],
    ),
}
# fmt: on


def spread(name: str, shape: torch.Size) -> Tensor:
    """Values in [-1, 1) that look random, in whole numbers, so everywhere the same."""
    key = sum((i + 1) * ord(c) for i, c in enumerate(name))
    i = torch.arange(math.prod(shape), dtype=torch.int64) + 1
    mixed = (i * i % 1_000_003 * 48_271 + i * (key % 9_973 + 7_919)) % 65_537
    return (mixed.double() / 32_768 - 1).float().reshape(shape)


def formula(name: str, shape: torch.Size) -> Tensor:
    """The weight of a name: sized so that activations live and the flow is some pixels."""
    values = spread(name, shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        return 1.25 + values / 2
    if len(shape) == 1:
        return 1 + 0.1 * values if name.endswith("weight") else 0.05 * values
    gain = 0.08 if "flow_head.conv2" in name else 1.0
    return gain * values * math.sqrt(6 / math.prod(shape[1:]))


def image(shift: float) -> Tensor:
    """(1, 3, 128, 136) in [-1, 1]: waves and a chirp."""
    ys, xs = torch.meshgrid(torch.arange(128.0), torch.arange(136.0), indexing="ij")
    xs = xs + shift
    channels = [
        (xs / (7 + c) + ys / (11 - c)).sin() * 0.6
        + (ys / 5 - xs * xs / (900 + 100 * c)).cos() * 0.4
        for c in range(3)
    ]
    return torch.stack(channels)[None]


def make(config: RAFTConfig) -> RAFT:
    raft = RAFT(config)
    raft.load_state_dict({k: formula(k, v.shape) for k, v in raft.state_dict().items()})
    return raft.eval().requires_grad_(False)


def flow_of(raft: RAFT, current: Tensor, previous: Tensor) -> Tensor:
    fmap, context = raft.encode(current)
    return raft.estimate(fmap, raft.encode(previous)[0], context)


@pytest.mark.parametrize(("name", "config"), [("small", RAFT_SMALL), ("large", RAFT_LARGE)])
def test_torchvisions_flow(name: str, config: RAFTConfig) -> None:
    flow = flow_of(make(config), image(0), image(3))
    assert flow.shape == (1, 2, *SIZE) and flow.dtype == torch.float32
    for channel, expected in enumerate(TORCHVISION[name]):
        seen = flow[0, channel, 10::36, 7::40].flatten()
        torch.testing.assert_close(seen, torch.tensor(expected), atol=1e-3, rtol=0)


def test_the_matching_is_seen_in_those_flows() -> None:
    raft = make(replace(RAFT_SMALL, num_flow_updates=2))
    first = flow_of(raft, image(0), image(3))
    assert (flow_of(raft, image(0), image(0)) - first).abs().max() > 0.1


def test_large_with_a_models_weights_is_the_reference(parity_model: Path) -> None:
    raft = load_model(parity_model).flow
    current, previous = image(0)[..., :128], image(2)[..., :128]
    with torch.inference_mode():
        ours, expected = flow_of(raft, current, previous), estimate_flow(raft, current, previous)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"recurrent_block_kernel_size": ((1, 5), (5, 1)), "motion_encoder_corr_layers": (16, 12)},
        {"mask_predictor_hidden_size": 12, "context_encoder_norm_layer": "none"},
        {"feature_encoder_block": "residual", "corr_block_num_levels": 4, "num_flow_updates": 2},
    ],
)
def test_every_part_is_the_reference(change: dict[str, object]) -> None:
    raft = make(replace(BOTTLENECK, **change))
    expected = estimate_flow(raft, image(0), image(3))
    assert expected.abs().max() > 1
    fmap, context = raft.encode(image(0))
    previous = raft.encode(image(3))[0]
    torch.testing.assert_close(raft.estimate(fmap, previous, context), expected, atol=1e-4, rtol=0)
    on_demand = raft.estimate(fmap, previous, context, OnDemand)
    torch.testing.assert_close(on_demand, expected, atol=1e-4, rtol=0)


def test_a_frame_encoded_alone_is_as_in_a_pair() -> None:
    for norm in ("instance", "batch", "none"):
        raft = make(replace(BOTTLENECK, feature_encoder_norm_layer=norm))
        pair = raft.feature_encoder(torch.cat([image(0), image(3)])).chunk(2)
        for frame, expected in zip((image(0), image(3)), pair, strict=True):
            error = (raft.encode(frame)[0] - expected).abs().max()
            assert error < 1e-5 * expected.abs().max(), norm


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 1)])
def test_an_unrolled_unit_is_the_unit(kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    unit = ConvGRU(6, 5 + 4, kernel).requires_grad_(False)
    h, context, motion = torch.randn(1, 6, 9, 7), torch.randn(1, 5, 9, 7), torch.randn(1, 4, 9, 7)
    step = unit.unroll(context)
    for _ in range(3):
        expected = unit(h, torch.cat([context, motion], dim=1))
        torch.testing.assert_close(step(h, motion), expected, atol=1e-6, rtol=0)
        h, motion = expected, motion + 1


def test_convex_upsampling_is_torchvisions_unfold() -> None:
    torch.manual_seed(0)
    flow, mask = torch.randn(1, 2, 5, 6), 4 * torch.randn(1, 9 * 64, 5, 6)
    weights = mask.view(1, 1, 9, 8, 8, 5, 6).softmax(dim=2)
    around = nn.functional.unfold(8 * flow, 3, padding=1).view(1, 2, 9, 1, 1, 5, 6)
    expected = (weights * around).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(1, 2, 40, 48)
    torch.testing.assert_close(upsample_flow(flow, mask), expected, atol=1e-5, rtol=0)
    large = upsample_flow(flow, 1e4 * mask)
    assert large.isfinite().all()


def test_bilinear_upsampling_keeps_corners_and_scales_pixels() -> None:
    flow = torch.randn(1, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    out = upsample_flow(flow, None)
    assert out.shape == (1, 2, 40, 48)
    torch.testing.assert_close(
        out[..., [0, 0, -1, -1], [0, -1, 0, -1]], 8 * flow[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    )


def test_pixels_count_x_first() -> None:
    grid = pixel_grid(3, 4)
    assert grid.shape == (1, 2, 3, 4)
    assert grid[0, :, 2, 3].tolist() == [3.0, 2.0]
