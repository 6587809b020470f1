"""Training clips: random scenes from photographs and textures, and the LR made from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .degrade import degrade, random_degradation
from .photographs import TRAINING, Photograph, load, pyramid
from .scenes import Clip, Layer, Size, camera, render
from .textures import Random, texture
from .variation import defocused, recoloured, turned

PHOTOGRAPH_SHARE = 0.75  # of pictures; the others are procedural
CUT_SHARE = 0.15  # of the clips
MEAN_SPEED, MAX_SPEED = 3.0, 16.0  # HR pixels per frame

Paces = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Batch:
    """B clips of T frames. Images are in the model's range [-1, 1].

    Attributes:
        hr: (B, T, 3, H, W).
        lr: (B, T, 3, h, w).
        flow: (B, T, 2, H, W) in HR pixels, zero in the first frame.
        visible: (B, T, 1, H, W), zero in the first frame.
    """

    hr: Tensor
    lr: Tensor
    flow: Tensor
    visible: Tensor


class ClipMaker:
    """Draws clips; equal keys give equal clips, so an interrupted training resumes exactly."""

    def __init__(self, seed: int, photographs: tuple[Photograph, ...] = TRAINING) -> None:
        self.seed = seed
        self.levels = [pyramid(load(photograph)) for photograph in photographs]
        weights = np.array([photograph.weight for photograph in photographs])
        self.chances = weights / weights.sum()

    def batch(
        self, key: tuple[int, ...], clips: int, frames: int, size: Size, paces: Paces = (1.0, 1.0)
    ) -> Batch:
        """Returns clips of HR `size`; `key` names the draw, for example (stage, step).

        `paces` is the range from which each clip draws how much faster than usual it moves.
        """
        made = []
        for index in range(clips):
            rng = np.random.default_rng([self.seed, *key, index])
            pace = float(np.exp(rng.uniform(*np.log(paces))))
            clip = self.clip(rng, frames, size, pace)
            made.append((clip, degrade(clip.frames, random_degradation(rng), rng)))
        return Batch(
            hr=torch.stack([2 * clip.frames - 1 for clip, _ in made]),
            lr=torch.stack([2 * lr - 1 for _, lr in made]),
            flow=torch.stack([clip.flow for clip, _ in made]),
            visible=torch.stack([clip.visible for clip, _ in made]),
        )

    def clip(self, rng: Random, frames: int, size: Size, pace: float = 1.0) -> Clip:
        """Returns one scene, or sometimes two with a cut in between."""
        if frames < 4 or rng.random() > CUT_SHARE:
            return self.scene(rng, frames, size, pace)
        cut = int(rng.integers(2, frames - 1))
        first = self.scene(rng, cut, size, pace)
        second = self.scene(rng, frames - cut, size, pace)
        return Clip(
            torch.cat([first.frames, second.frames]),
            torch.cat([first.flow, second.flow]),
            torch.cat([first.visible, second.visible]),
        )

    def scene(self, rng: Random, frames: int, size: Size, pace: float = 1.0) -> Clip:
        """Returns a background under a moving camera, with up to two things moving before it."""
        still = rng.random() < 0.15
        speed = 0.0 if still else pace * _speed(rng)
        layers = [self._background(rng, frames, size, speed)]
        if frames > 1 or rng.random() < 0.3:
            layers += [self._thing(rng, frames, size, pace) for _ in range(rng.integers(0, 3))]
        return render(layers, size)

    def _picture(self, rng: Random, side: int) -> Tensor:
        """Returns (3, at most side, at most side): a part of a photograph, or a texture."""
        if rng.random() > PHOTOGRAPH_SHARE:
            picture = texture(rng, side)
        else:
            levels = self.levels[rng.choice(len(self.levels), p=self.chances)]
            picture = turned(_cut(levels[rng.integers(len(levels))], rng, side), rng)
        return defocused(recoloured(picture, rng), rng)

    def _background(self, rng: Random, frames: int, size: Size, speed: float) -> Layer:
        picture = self._picture(rng, int(1.3 * max(size) + speed * frames) + 8)
        shape = (picture.shape[1], picture.shape[2])
        zoom = float(np.exp(rng.uniform(np.log(0.7), np.log(1.1))))
        return Layer(picture, None, camera(rng, shape, size, frames, speed=speed, zoom=zoom))

    def _thing(self, rng: Random, frames: int, size: Size, pace: float) -> Layer:
        picture = _cut(self._picture(rng, max(size)), rng, int(rng.uniform(0.3, 0.8) * min(size)))
        side = min(picture.shape[1:])
        speed = pace * _speed(rng)
        poses = camera(rng, (side, side), size, frames, speed=speed, zoom=rng.uniform(0.7, 1.1))
        shift = torch.eye(3, dtype=torch.float64)
        shift[:2, 2] = torch.from_numpy(rng.uniform(-0.5, 0.5, 2) * side)
        return Layer(picture[:, :side, :side], _blob(rng, side), shift @ poses)


def _speed(rng: Random) -> float:
    """Returns HR pixels per frame: usually a few, rarely many."""
    return float(min(rng.exponential(MEAN_SPEED), MAX_SPEED))


def _cut(picture: Tensor, rng: Random, side: int) -> Tensor:
    """Returns a random part of the picture, `side` high and wide if it is large enough."""
    height, width = min(side, picture.shape[1]), min(side, picture.shape[2])
    top = rng.integers(picture.shape[1] - height + 1)
    left = rng.integers(picture.shape[2] - width + 1)
    return picture[:, top : top + height, left : left + width]


def _blob(rng: Random, side: int) -> Tensor:
    """Returns a smooth random outline, (1, side, side), with an edge about one pixel wide."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    angle, radius = torch.atan2(y, x), torch.hypot(x, y)
    outline = torch.full_like(angle, 0.7)
    for waves in range(2, 6):
        outline = outline + rng.normal(0, 0.06) * torch.cos(waves * angle + rng.uniform(0, 6.3))
    alpha = ((outline.clamp(0.2, 0.95) - radius) * side / 2 + 0.5).clamp(0, 1)
    return F.pad(alpha[1:-1, 1:-1], (1, 1, 1, 1))[None]
