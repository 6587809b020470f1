"""What training minimises and what it is judged by. Images are in the model's range [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHARBONNIER_EPS = 1e-3
COLOUR_PATCH = 16  # HR pixels over which colour must be right whatever the detail
SMALL_TINT = 8 / 127.5
TYPICAL_ERROR = 0.1  # where the squared and the plain error weigh the same


def charbonnier(a: Tensor, b: Tensor) -> Tensor:
    """The L1 distance, smooth at zero (Lai et al., arXiv:1704.03915, eq. 5)."""
    return ((a - b) ** 2 + CHARBONNIER_EPS**2).sqrt().mean()


def colour(a: Tensor, b: Tensor) -> Tensor:
    """Distances between the means of patches and of whole frames: no tint is worth a detail.

    That of frames is quadratic when small. As L1 its gradient, of one sign all over the frame and
    of full size however small the tint, drowned the detail's: 0.9 dB lost in the autoencoder.
    """
    patches = F.l1_loss(F.avg_pool2d(a, COLOUR_PATCH), F.avg_pool2d(b, COLOUR_PATCH))
    frames = F.smooth_l1_loss(a.mean((2, 3)), b.mean((2, 3)), beta=SMALL_TINT)
    return 0.5 * patches + frames


def gradients(a: Tensor, b: Tensor) -> Tensor:
    """L1 between differences of neighbours: edges as steep as they are."""
    rows = F.l1_loss(a.diff(dim=2), b.diff(dim=2))
    return rows + F.l1_loss(a.diff(dim=3), b.diff(dim=3))


def pixel_loss(output: Tensor, truth: Tensor) -> Tensor:
    """Of an image: (B, 3, H, W) against (B, 3, H, W)."""
    loss = charbonnier(output, truth) + colour(output, truth)
    return loss + 0.1 * gradients(output, truth)


def steady_loss(output: Tensor, truth: Tensor) -> Tensor:
    """Of an image in a sequence: without the reward for steep edges, and large errors cost more.

    What is steeper than it can know to be is what changes from frame to frame.
    """
    squares = F.mse_loss(output, truth) / TYPICAL_ERROR
    return 0.5 * (charbonnier(output, truth) + squares) + colour(output, truth)


def carried(image: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """The image (B, C, H, W) read where the flow (B, 2, H, W) points; zero flow is the identity.

    Unlike the model's own `warp`, whose sampling is off by up to half a pixel (NUMERICS.md).
    """
    height, width = image.shape[2:]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = 2 * (xs + flow[:, 0] + 0.5) / width - 1
    y = 2 * (ys + flow[:, 1] + 0.5) / height - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(image, grid, mode, padding_mode="border", align_corners=False)


def temporal_loss(error: Tensor, previous_error: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """How much the error against the truth changes along the motion, where nothing is uncovered."""
    change = (error - carried(previous_error, flow)).abs() * visible
    return change.sum() / (3 * visible.sum()).clamp(min=1)


def psnr(output: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], clamped first."""
    mse = F.mse_loss(output.clamp(-1, 1), truth.clamp(-1, 1)).item() / 4
    return float(-10 * torch.log10(torch.tensor(max(mse, 1e-10))))
