"""Procedural pictures: noise, gratings, checkers, polygons and text. All (3, side, side) in [0, 1].

Photographs alone are few; lines, corners and letters are what people judge an upscaler by. Shapes
are drawn at three times the size and averaged down, so that their edges are like a camera's.
"""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Random = np.random.Generator
OVERSAMPLING = 3


def texture(rng: Random, side: int) -> Tensor:
    """Returns one random picture, (3, side, side) in [0, 1]."""
    makers: tuple[Callable[[Random, int], Tensor], ...]
    makers = (_clouds, _grating, _checkers, _polygons, _text)
    made = makers[int(rng.integers(len(makers)))](rng, side)
    return made.clamp(0, 1)


def _colours(rng: Random, count: int) -> Tensor:
    """Returns (count, 3): vivid colours two thirds of the time, else greys."""
    colours = rng.random((count, 3))
    if rng.random() < 1 / 3:
        colours = colours[:, :1].repeat(3, axis=1)
    return torch.from_numpy(colours).float()


def _between(mask: Tensor, rng: Random) -> Tensor:
    """Converts (side, side) in [0, 1] to a picture that goes from one colour to another."""
    colours = _colours(rng, 2)[:, :, None, None]
    return colours[0] + (colours[1] - colours[0]) * mask


def _clouds(rng: Random, side: int) -> Tensor:
    """Returns value noise in octaves, from fog to gravel."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    falloff = rng.uniform(0.5, 0.95)
    total, weight = torch.zeros(1, 3, side, side), 1.0
    cells = 4
    while cells <= side:
        octave = torch.rand(1, 3, cells, cells, generator=generator)
        total += weight * F.interpolate(octave, size=(side, side), mode="bicubic")
        weight *= falloff
        cells *= 2
    total = (total - total.mean()) / total.std()
    grey = total.mean(1, keepdim=True).expand_as(total)
    mix = rng.random()
    spread, level = rng.uniform(0.1, 0.3), rng.uniform(0.3, 0.7)
    return level + spread * (mix * grey * 1.5 + (1 - mix) * total)[0]


def _grating(rng: Random, side: int) -> Tensor:
    """Returns waves whose periods range from what LR can carry to beyond it."""
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    chirp = rng.uniform(0, 0.6) / side
    along = x * np.cos(angle) + y * np.sin(angle)
    phase = 2 * np.pi * along / period * (1 + chirp * along)
    sharpness = rng.uniform(0.5, 4)
    return _between(torch.sigmoid(sharpness * 2 * torch.sin(phase)), rng)


def _checkers(rng: Random, side: int) -> Tensor:
    full = side * OVERSAMPLING
    cell = rng.uniform(6, 40) * OVERSAMPLING
    y, x = torch.meshgrid(torch.arange(full).float(), torch.arange(full).float(), indexing="ij")
    parity = ((x / cell).floor() + (y / cell * rng.uniform(0.6, 1.6)).floor()) % 2
    return _between(F.avg_pool2d(parity[None], OVERSAMPLING)[0], rng)


def _canvas(rng: Random, side: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    full = side * OVERSAMPLING
    image = Image.new("RGB", (full, full), _ink(rng))
    return image, ImageDraw.Draw(image)


def _ink(rng: Random) -> tuple[int, int, int]:
    red, green, blue = (int(255 * value) for value in _colours(rng, 1)[0])
    return red, green, blue


def _finish(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    return F.avg_pool2d(pixels[None], OVERSAMPLING)[0]


def _polygons(rng: Random, side: int) -> Tensor:
    """Returns triangles, quadrangles, discs and thin lines on top of each other."""
    image, draw = _canvas(rng, side)
    full = side * OVERSAMPLING
    for _ in range(int(rng.integers(12, 40))):
        kind, centre = rng.integers(3), rng.uniform(0, full, 2)
        radius = rng.uniform(0.03, 0.25) * full
        points = [
            tuple(centre + rng.uniform(-radius, radius, 2)) for _ in range(rng.integers(3, 5))
        ]
        if kind == 0:
            draw.polygon(points, fill=_ink(rng))
        elif kind == 1:
            low, high = centre - radius / 2, centre + radius / 2
            draw.ellipse((*low, *high), fill=_ink(rng))
        else:
            draw.line(points, fill=_ink(rng), width=int(rng.uniform(1, 4) * OVERSAMPLING))
    return _finish(image)


def _text(rng: Random, side: int) -> Tensor:
    """Returns lines of letters, each line in one size."""
    image, draw = _canvas(rng, side)
    letters = np.array(list(string.ascii_letters + string.digits + "    .,:!?"))
    y = 0.0
    while y < image.height:
        size = rng.uniform(10, 40) * OVERSAMPLING
        line = "".join(rng.choice(letters, 40))
        draw.text((0, y), line, fill=_ink(rng), font=ImageFont.load_default(size))
        y += 1.2 * size
    return _finish(image)
