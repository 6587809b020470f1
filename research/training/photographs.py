"""The photographs that the built-in model learns from, and those it never sees.

They are included in Python packages under free terms (docs/training.md lists each), so nothing is
downloaded. The files are read from the package's folder; the package itself is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...errors import StreamDiffVSRError

PYRAMID = (1.0, 0.7, 0.5)  # a smaller photograph is sharper, pixel for pixel
MIN_SIDE = 160  # of a scaled photograph, in pixels


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph's package and file, and how often it is drawn relative to the others."""

    package: str
    file: str
    weight: float = 1.0

    @property
    def name(self) -> str:
        return Path(self.file).stem


SKIMAGE, MATPLOTLIB, SKLEARN = "skimage", "matplotlib", "sklearn"
TRAINING = (
    Photograph(SKIMAGE, "data/astronaut.png", 4.0),
    Photograph(SKIMAGE, "data/chelsea.png", 2.5),
    Photograph(SKIMAGE, "data/rocket.jpg", 2.0),
    Photograph(MATPLOTLIB, "mpl-data/sample_data/grace_hopper.jpg", 2.5),
    Photograph(SKIMAGE, "data/ihc.png", 0.7),
    Photograph(SKIMAGE, "data/hubble_deep_field.jpg", 0.3),
    Photograph(SKIMAGE, "data/retina.jpg", 0.3),
    Photograph(SKIMAGE, "data/brick.png", 0.7),
    Photograph(SKIMAGE, "data/grass.png", 0.7),
    Photograph(SKIMAGE, "data/gravel.png", 0.9),
    Photograph(SKIMAGE, "data/coins.png", 0.7),
    Photograph(SKIMAGE, "data/moon.png", 0.3),
    Photograph(SKIMAGE, "data/page.png", 0.4),
)
# Viewed during training, never trained on.
VALIDATION = (
    Photograph(SKIMAGE, "data/coffee.png"),
    Photograph(SKIMAGE, "data/camera.png"),
)
# Neither trained on nor viewed before the weights were final.
TEST = (
    Photograph(SKIMAGE, "data/motorcycle_left.png"),
    Photograph(SKLEARN, "datasets/images/china.jpg"),
    Photograph(SKLEARN, "datasets/images/flower.jpg"),
)


def load(photograph: Photograph) -> Tensor:
    """Returns the photograph as (3, H, W) float32 in [0, 1].

    Raises:
        StreamDiffVSRError: The package that includes it is not installed, or it cannot be read.
    """
    spec = find_spec(photograph.package)
    if spec is None or spec.origin is None:
        raise StreamDiffVSRError(
            f"no photograph {photograph.name}",
            f"it ships in {photograph.package}, which is not installed",
            "pip install 'streamdiffvsr[train]'",
        )
    path = Path(spec.origin).parent / photograph.file
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot read the photograph {photograph.name}", str(error)
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def pyramid(image: Tensor) -> list[Tensor]:
    """Returns the image (3, H, W) at every scale of `PYRAMID` that leaves it large enough."""
    levels = [image]
    for scale in PYRAMID[1:]:
        size = (round(image.shape[1] * scale), round(image.shape[2] * scale))
        if min(size) >= MIN_SIDE:
            smaller = F.interpolate(image[None], size=size, mode="bicubic", antialias=True)
            levels.append(smaller[0].clamp(0, 1))
    return levels
