"""What happens to pixels outside the networks: padding, bicubic x4, the warp, uint8 in and out.

All shapes are (1, C, height, width). Padding lives here, inside the graphs, so that the runtime
hands over frames of the size it was given and receives exactly four times that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 4
# In pixels of LR. From 1 down it gains PSNR on clean frames (0.06 to 0.18 dB), below 0.5 it brings
# back the noise of LR, and loses on noisy ones.
MATCH_SIGMA = 0.6


def replicate_pad(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat the last row and column until (.., h, w) is (.., *size): right and bottom only."""
    down, right = size[0] - x.shape[2], size[1] - x.shape[3]
    if down == 0 and right == 0:
        return x
    # Selecting rather than F.pad: the padding may exceed the frame, and Gather runs everywhere.
    for dim, extra in ((2, down), (3, right)):
        if extra:
            side = x.shape[dim]
            index = torch.arange(side + extra, device=x.device).clamp(max=side - 1)
            x = x.index_select(dim, index)
    return x


def from_uint8(frame: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(1, h, w, 3) uint8 RGB -> (1, 3, h, w) in [-1, 1]."""
    # The cast comes first: TensorRT transposes no uint8.
    return 2 * (frame.to(dtype).permute(0, 3, 1, 2) / 255) - 1


def to_uint8(hr: Tensor) -> Tensor:
    """Raw HR (1, 3, H, W) -> (1, H, W, 3) uint8 RGB, rounded half to even.

    In float32 whatever the input: in half precision 6 % of the values would be off by one.
    """
    unit = (hr.float() / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().permute(0, 2, 3, 1).to(torch.uint8)


def bicubic(lr: Tensor) -> Tensor:
    """x4 by Keys' cubic, A = -0.75, half-pixel centres, replicated edges, not clamped."""
    return F.interpolate(lr, scale_factor=SCALE, mode="bicubic", align_corners=False)


def bicubic_kernel() -> Tensor:
    """`bicubic` as a convolution: weights (3 * 16, 1, 5, 5), float32.

    An output pixel's position between input pixels takes four values along each axis, so each of
    the 16 phases is a fixed 5x5 filter; `pixel_shuffle` puts the phases in place. Runtimes differ
    in how they do cubic resizing, and how well; none differs in a convolution.
    """
    offsets = torch.arange(-2, 3, dtype=torch.float64)
    centres = (torch.arange(SCALE, dtype=torch.float64) + 0.5) / SCALE - 0.5  # -3/8 .. 3/8
    distance = (offsets - centres[:, None]).abs()
    a = -0.75
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    taps = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))  # (4, 5)
    phases = taps[:, None, :, None] * taps[None, :, None, :]  # (4, 4, 5, 5)
    return phases.reshape(1, SCALE**2, 1, 5, 5).repeat(3, 1, 1, 1, 1).flatten(0, 1).float()


def bicubic_by_convolution(lr: Tensor, kernel: Tensor) -> Tensor:
    """The same as `bicubic` to rounding, with `kernel` from `bicubic_kernel`."""
    around = F.pad(lr, (2, 2, 2, 2), mode="replicate")
    return F.pixel_shuffle(F.conv2d(around, kernel, groups=3), SCALE)


def colour_kernel() -> Tensor:
    """The Gaussian of `match_colour`: weights (3, 1, 5, 5) that sum to one, float32."""
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, dtype=torch.float64) / MATCH_SIGMA) ** 2)
    taps = taps / taps.sum()
    return torch.outer(taps, taps)[None, None].repeat(3, 1, 1, 1).float()


def match_colour(hr: Tensor, lr: Tensor, blur: Tensor, kernel: Tensor) -> Tensor:
    """Raw HR (1, 3, H, W) with the broad colours of LR (1, 3, H/4, W/4), in float32.

    What LR has more than the mean of each 4x4 pixels, a little blurred, is added: a step of
    back-projection (Irani, Peleg, 1991) that leaves detail, and noise that was taken away, alone.

    Args:
        blur, kernel: Of `colour_kernel` and `bicubic_kernel`.
    """
    missing = F.pad(lr.float() - F.avg_pool2d(hr.float(), SCALE), (2, 2, 2, 2), mode="replicate")
    return hr + bicubic_by_convolution(F.conv2d(missing, blur, groups=3), kernel).to(hr.dtype)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Sample `image` (1, 3, H, W) where `flow` (1, 2, H, W, in pixels, x first) points.

    The grid is normalised by size - 1 but sampled with half-pixel centres, as released: a pixel p
    with flow u reads (p + u) W / (W - 1) - 1/2, so zero flow is not the identity. Outside is 0.
    In float32 whatever the input: half precision cannot address a pixel beyond 2048.
    """
    height, width = image.shape[2:]
    xs = torch.arange(width, dtype=torch.float32, device=image.device) + flow[:, 0].float()
    ys = torch.arange(height, dtype=torch.float32, device=image.device)[:, None]
    ys = ys + flow[:, 1].float()
    grid = torch.stack([2 * xs / (width - 1) - 1, 2 * ys / (height - 1) - 1], dim=-1)
    sampled = F.grid_sample(
        image.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.to(image.dtype)
