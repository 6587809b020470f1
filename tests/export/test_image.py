"""Pixels outside the networks, each against its closed form in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamdiffvsr.export.graphs import (
    bicubic,
    bicubic_by_convolution,
    bicubic_kernel,
    from_uint8,
    replicate_pad,
    to_uint8,
    warp,
)

Array = npt.NDArray[Any]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 17), (32, 9), (48, 52)])
def test_bicubic_is_a_convolution(size: tuple[int, int]) -> None:
    lr = noise(1, 3, *size).clamp(-1, 1)
    out = bicubic_by_convolution(lr, bicubic_kernel())
    assert out.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert (out - bicubic(lr)).abs().max() < 1e-6


def keys(x: float) -> float:
    """Keys' cubic with A = -0.75."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def test_bicubic_is_keys_cubic_on_replicated_edges_unclamped() -> None:
    row = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    expected = [
        sum(
            keys((i + 0.5) / 4 - 0.5 - k) * row[np.clip(k, 0, len(row) - 1)]
            for k in range(-3, len(row) + 3)
        )
        for i in range(4 * len(row))
    ]
    lr = torch.from_numpy(row).float().expand(1, 3, 4, -1)
    out = bicubic(lr)[0, 1, 7].numpy()
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert out.max() > 1.05 and out.min() < -1.05


def sampled(image: Array, xs: Array, ys: Array) -> Array:
    """Bilinear samples of (C, H, W) at (H, W) positions in float64; outside is 0."""
    height, width = image.shape[1:]
    x0, y0 = np.floor(xs).astype(int), np.floor(ys).astype(int)
    total = np.zeros((image.shape[0], *xs.shape))
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = x0 + dx, y0 + dy
            weight = (1 - np.abs(xs - x)) * (1 - np.abs(ys - y))
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            values = image[:, y.clip(0, height - 1), x.clip(0, width - 1)]
            total += values * weight * inside
    return total


@pytest.mark.parametrize("size", [(24, 32), (33, 20), (40, 40)])
@pytest.mark.parametrize("strength", [0.0, 3.0, 200.0])
def test_the_warp_is_its_closed_form(size: tuple[int, int], strength: float) -> None:
    height, width = size
    image, flow = 2 * noise(1, 3, *size), strength * noise(1, 2, *size)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = flow[0].double().numpy()
    expected = sampled(
        image[0].double().numpy(),
        (xs + u) * width / (width - 1) - 0.5,
        (ys + v) * height / (height - 1) - 0.5,
    )
    # Far positions are rounded to float32; what lands inside is within a few ten-thousandths.
    np.testing.assert_allclose(warp(image, flow)[0].numpy(), expected, atol=5e-4)


def test_zero_flow_shifts_by_half_a_pixel_from_edge_to_edge() -> None:
    image = noise(1, 3, 20, 30)
    still = warp(image, torch.zeros(1, 2, 20, 30))
    assert (still - image).abs().max() > 0.5
    corner = image[0, :, :1, :1] / 4  # a quarter of the corner pixel, the rest outside
    torch.testing.assert_close(still[0, :, :1, :1], corner)
    ramp = torch.arange(30.0).expand(1, 3, 20, 30)
    shift = (warp(ramp, torch.zeros(1, 2, 20, 30)) - ramp)[0, 0, 10, 1:-1]
    expected = torch.arange(30.0)[1:-1] / 29 - 0.5
    torch.testing.assert_close(shift, expected, atol=1e-5, rtol=0)


def test_the_warp_of_halves_is_addressed_in_float32() -> None:
    width = 3000  # beyond 2048 half precision skips every other pixel
    image = noise(1, 3, 4, width).half()
    flow = torch.full((1, 2, 4, width), 0.25)
    out = warp(image, flow)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, warp(image.float(), flow).half(), atol=0, rtol=0)


def test_uint8_in_is_exact() -> None:
    levels = np.arange(256, dtype=np.uint8)
    frame = torch.from_numpy(np.stack([levels, levels[::-1], levels], axis=-1)[None, None].copy())
    out = from_uint8(frame)
    assert out.shape == (1, 3, 1, 256)
    expected = np.float32(2) * (levels.astype(np.float32) / np.float32(255)) - np.float32(1)
    assert np.array_equal(out[0, 0, 0].numpy(), expected)
    assert np.array_equal(out[0, 1, 0].numpy(), expected[::-1])
    assert torch.equal(to_uint8(out), frame)


def test_uint8_out_is_rounded_half_to_even() -> None:
    # Which raw values are halves exactly, once computed in float32.
    raw = (2 * (np.arange(255) + 0.5) / 255 - 1).astype(np.float32)
    scaled = (raw / np.float32(2) + np.float32(0.5)) * np.float32(255)
    halves = scaled % 1 == 0.5
    assert (halves & (np.arange(255) % 2 == 0)).sum() > 20  # where half-up would differ
    out = to_uint8(torch.from_numpy(raw[halves]).expand(1, 3, 1, -1))
    expected = np.arange(255)[halves]
    expected = expected + expected % 2  # to the even neighbour
    assert np.array_equal(out[0, 0, :, 1].numpy(), expected)


def test_uint8_out_is_clamped_and_channels_last() -> None:
    raw = torch.tensor([-9.0, -1.0, 0.999, 1.0, 9.0]).expand(1, 3, 1, -1).clone()
    raw[:, 1] = 0.0
    out = to_uint8(raw)
    assert out.dtype == torch.uint8 and out.shape == (1, 1, 5, 3)
    assert out[0, 0, :, 0].tolist() == [0, 0, 255, 255, 255]
    assert out[0, 0, :, 1].tolist() == [128] * 5  # 127.5, to even


def test_halves_are_rounded_in_float32() -> None:
    raw = (2 * noise(1, 3, 16, 16)).half()
    assert torch.equal(to_uint8(raw), to_uint8(raw.float()))


@pytest.mark.parametrize("size", [(5, 7), (6, 7), (5, 9), (32, 40)])
def test_padding_repeats_the_edge_however_far(size: tuple[int, int]) -> None:
    x = noise(1, 3, 5, 7)
    down, right = size[0] - 5, size[1] - 7
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, down), (0, right)), mode="edge")
    assert np.array_equal(replicate_pad(x, size).numpy(), expected)
