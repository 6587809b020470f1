"""The losses of training and the measures of its result. Images are in the range [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHARBONNIER_EPS = 1e-3
COLOUR_PATCH = 16  # HR pixels over which the mean colour must be right
SMALL_TINT = 8 / 127.5
TYPICAL_ERROR = 0.1  # at which the squared and the plain error weigh the same


def charbonnier(a: Tensor, b: Tensor) -> Tensor:
    """Returns the L1 distance, smooth at zero (Lai et al., arXiv:1704.03915, eq. 5)."""
    return ((a - b) ** 2 + CHARBONNIER_EPS**2).sqrt().mean()


def colour(a: Tensor, b: Tensor) -> Tensor:
    """Returns distances between the means of patches and of frames: no detail is worth a tint.

    The distance of frames is quadratic when small. As L1 its gradient, which has one sign all over
    the frame and full size for the smallest tint, drowned the detail's: 0.9 dB lost in the
    autoencoder.
    """
    patches = F.l1_loss(F.avg_pool2d(a, COLOUR_PATCH), F.avg_pool2d(b, COLOUR_PATCH))
    frames = F.smooth_l1_loss(a.mean((2, 3)), b.mean((2, 3)), beta=SMALL_TINT)
    return 0.5 * patches + frames


def gradients(a: Tensor, b: Tensor) -> Tensor:
    """Returns L1 between differences of neighbours, so that edges are as steep as in the truth."""
    rows = F.l1_loss(a.diff(dim=2), b.diff(dim=2))
    return rows + F.l1_loss(a.diff(dim=3), b.diff(dim=3))


def pixel_loss(output: Tensor, truth: Tensor) -> Tensor:
    """Returns the loss of an image: (B, 3, H, W) against (B, 3, H, W)."""
    loss = charbonnier(output, truth) + colour(output, truth)
    return loss + 0.1 * gradients(output, truth)


def steady_loss(output: Tensor, truth: Tensor) -> Tensor:
    """Returns the loss of an image in a sequence: no reward for steep edges, more for large errors.

    Edges steeper than the model can know are what changes from frame to frame.
    """
    squares = F.mse_loss(output, truth) / TYPICAL_ERROR
    return 0.5 * (charbonnier(output, truth) + squares) + colour(output, truth)


def carried(image: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Samples the image (B, C, H, W) where the flow (B, 2, H, W) points.

    Zero flow is the identity, unlike in the model's own `warp`, whose sampling is off by up to half
    a pixel (NUMERICS.md).
    """
    height, width = image.shape[2:]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = 2 * (xs + flow[:, 0] + 0.5) / width - 1
    y = 2 * (ys + flow[:, 1] + 0.5) / height - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(image, grid, mode, padding_mode="border", align_corners=False)


def temporal_loss(error: Tensor, previous_error: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Returns how much the error changes along the motion, where nothing is uncovered."""
    change = (error - carried(previous_error, flow)).abs() * visible
    return change.sum() / (3 * visible.sum()).clamp(min=1)


def psnr(output: Tensor, truth: Tensor) -> float:
    """Returns the peak signal-to-noise ratio in dB of images in [-1, 1], clamped first."""
    mse = F.mse_loss(output.clamp(-1, 1), truth.clamp(-1, 1)).item() / 4
    return float(-10 * torch.log10(torch.tensor(max(mse, 1e-10))))
