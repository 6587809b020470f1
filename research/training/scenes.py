"""Moving pictures whose true flow is known: layers of texture under projective motion.

Every layer has one 3x3 pose per frame that maps an output pixel to a place on its texture. The
colour of a pixel depends only on that place, so where a pixel was in the previous frame is exact:
through this frame's pose and back through the other's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .textures import Random

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layer:
    """A picture, where it covers, and how it moves.

    Attributes:
        texture: (3, h, w) in [0, 1]; mirrored beyond its borders.
        alpha: (1, h, w) in [0, 1] with zeros at its borders, or None: covers everything.
        poses: (T, 3, 3) float64, output pixel (x, y, 1) -> texture pixel.
    """

    texture: Tensor
    alpha: Tensor | None
    poses: Tensor


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames with their motion.

    Attributes:
        frames: (T, 3, H, W) in [0, 1].
        flow: (T, 2, H, W), x first: where in frame n - 1 each pixel of n was. Frame 0's is zero.
        visible: (T, 1, H, W), 1 if that place shows the same thing. Frame 0's is zero.
    """

    frames: Tensor
    flow: Tensor
    visible: Tensor


def render(layers: list[Layer], size: Size) -> Clip:
    """Draws the layers, back to front."""
    pixels = _pixels(size)
    count = len(layers[0].poses)
    frames = torch.zeros(count, 3, *size)
    owner = torch.zeros(count, 1, *size)
    for index, layer in enumerate(layers):
        places = _apply(layer.poses, pixels)  # (T, H, W, 2)
        colour = _sample(layer.texture, places, "bicubic", "reflection").clamp(0, 1)
        if layer.alpha is None:
            frames, owner = colour, torch.full_like(owner, index)
            continue
        cover = _sample(layer.alpha, places, "bilinear", "zeros")
        frames = frames + cover * (colour - frames)
        owner = torch.where(cover > 0.5, float(index), owner)
    flow, visible = _motion(layers, owner, pixels)
    return Clip(frames, flow, visible)


def _pixels(size: Size) -> Tensor:
    """Returns (H, W, 3) float64: x, y, 1."""
    y, x = torch.meshgrid(
        torch.arange(size[0], dtype=torch.float64),
        torch.arange(size[1], dtype=torch.float64),
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _apply(poses: Tensor, pixels: Tensor) -> Tensor:
    """Applies (T, 3, 3) poses to (H, W, 3) pixels -> (T, H, W, 2)."""
    moved = torch.einsum("tij,hwj->thwi", poses, pixels)
    return moved[..., :2] / moved[..., 2:]


def _sample(texture: Tensor, places: Tensor, mode: str, padding: str) -> Tensor:
    """Samples (C, h, w) at places (T, H, W, 2) in its pixels -> (T, C, H, W)."""
    size = torch.tensor([texture.shape[2], texture.shape[1]], dtype=torch.float64)
    grid = (2 * (places + 0.5) / size - 1).float()
    source = texture.expand(len(places), *texture.shape)
    return F.grid_sample(source, grid, mode=mode, padding_mode=padding, align_corners=False)


def _motion(layers: list[Layer], owner: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    count, size = len(owner), (owner.shape[2], owner.shape[3])
    flow, visible = torch.zeros(count, 2, *size), torch.zeros(count, 1, *size)
    if count == 1:
        return flow, visible
    before = torch.zeros(count - 1, *size, 2, dtype=torch.float64)
    for index, layer in enumerate(layers):
        back = torch.linalg.inv(layer.poses[:-1]) @ layer.poses[1:]
        mine = owner[1:, 0, :, :, None] == index
        before = torch.where(mine, _apply(back, pixels), before)
    flow[1:] = (before - pixels[..., :2]).permute(0, 3, 1, 2).float()
    x, y = before[..., 0].round().long(), before[..., 1].round().long()
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    at = y.clamp(0, size[0] - 1) * size[1] + x.clamp(0, size[1] - 1)
    was = owner[:-1].flatten(1).gather(1, at.flatten(1)).view_as(inside)
    visible[1:, 0] = (inside & (was == owner[1:, 0])).float()
    return flow, visible


def camera(
    rng: Random, texture: Size, size: Size, count: int, *, speed: float, zoom: float
) -> Tensor:
    """Returns the poses of a smooth random move: (count, 3, 3) float64.

    Args:
        texture: (h, w) of the picture; the move starts somewhere within.
        size: (H, W) of the frame.
        speed: Speed of the pan, in pixels per frame.
        zoom: Texture pixels that an output pixel covers at the start.
    """
    frame = np.arange(count)
    angle = rng.normal(0, 0.15) + frame * np.radians(rng.normal(0, 0.35))
    scale = zoom * np.exp(frame * rng.normal(0, 0.004))
    heading = rng.uniform(0, 2 * np.pi) + frame * rng.normal(0, 0.05)
    pan = np.cumsum(speed * np.stack([np.cos(heading), np.sin(heading)]), axis=1)
    tilt = rng.normal(0, 1e-4, 2)[:, None] + frame * rng.normal(0, 1e-5, 2)[:, None]
    start = [rng.uniform(0.25, 0.75) * texture[1], rng.uniform(0.25, 0.75) * texture[0]]
    poses = []
    for i in range(count):
        centre = np.array([[1, 0, -(size[1] - 1) / 2], [0, 1, -(size[0] - 1) / 2], [0, 0, 1.0]])
        lens = np.array([[1, 0, 0], [0, 1, 0], [tilt[0, i], tilt[1, i], 1.0]])
        cos, sin = scale[i] * np.cos(angle[i]), scale[i] * np.sin(angle[i])
        move = np.array(
            [
                [cos, -sin, start[0] + scale[i] * pan[0, i]],
                [sin, cos, start[1] + scale[i] * pan[1, i]],
                [0, 0, 1.0],
            ]
        )
        poses.append(move @ lens @ centre)
    return torch.from_numpy(np.stack(poses))
