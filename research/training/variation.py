"""Turns one photograph into many: mirrored, rotated, in other colours and light, out of focus.

A few photographs have few colours. Without the vivid and the dark ones made here, a model trained
on them raised every channel that was at zero (docs/training.md).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .textures import Random

TINT = 0.25
SATURATIONS = (0.5, 2.5)  # times the picture's own
DARKEST = 0.3
DEFOCUS_SHARE, DEFOCUS = 0.12, (1.0, 4.0)  # standard deviations in HR pixels


def turned(picture: Tensor, rng: Random) -> Tensor:
    """Mirrors or transposes (3, H, W): the result is (3, H, W) or (3, W, H)."""
    if rng.random() < 0.5:
        picture = picture.flip(2)
    return picture.transpose(1, 2) if rng.random() < 0.25 else picture


def recoloured(picture: Tensor, rng: Random) -> Tensor:
    """Changes channels, light and colours, clipped like a camera's: (3, H, W) in [0, 1]."""
    if rng.random() < 0.2:
        picture = picture[torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.1:
        picture = 1 - picture
    gamma = float(np.exp(rng.normal(0, 0.2)))
    gain = rng.uniform(0.75, 1.1) if rng.random() < 0.75 else rng.uniform(DARKEST, 0.75)
    tint = torch.from_numpy(1 + TINT * rng.uniform(-1, 1, 3)).float()
    if rng.random() < 0.5:
        tint = torch.ones(3)
    picture = gain * tint[:, None, None] * picture.clamp(0, 1) ** gamma
    if rng.random() < 0.5:
        grey = picture.mean(0, keepdim=True)
        picture = grey + float(np.exp(rng.uniform(*np.log(SATURATIONS)))) * (picture - grey)
    return picture.clamp(0, 1)


def defocused(picture: Tensor, rng: Random) -> Tensor:
    """Blurs some pictures before they are filmed: what is smooth in the truth must stay smooth."""
    if rng.random() > DEFOCUS_SHARE:
        return picture
    sigma = float(rng.uniform(*DEFOCUS))
    radius = min(int(3 * sigma), min(picture.shape[1:]) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(picture[:, None], (radius,) * 4, mode="reflect")  # (3, 1, H + 2r, W + 2r)
    across = F.conv2d(padded, weights[None, None, None])
    return F.conv2d(across, weights[None, None, :, None])[:, 0]
