"""Single frames of the validation photographs, on which stages are evaluated during training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...graphs.spec import SCALE
from .losses import psnr
from .photographs import VALIDATION, load

SIDE = 256


class Validation:
    """Crops from the middle of each photograph, without degradation.

    Attributes:
        frames: Pairs of HR (1, 3, H, W) and LR (1, 3, h, w) in [-1, 1].
        bicubic: PSNR in dB of the bicubic upscale, the mean over the frames.
    """

    def __init__(self, side: int = SIDE) -> None:
        self.frames: list[tuple[Tensor, Tensor]] = []
        for photograph in VALIDATION:
            image = load(photograph)
            top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
            hr = 2 * image[None, :, top : top + side, left : left + side] - 1
            lr = F.interpolate(hr, scale_factor=1 / SCALE, mode="bicubic", antialias=True)
            self.frames.append((hr, lr.clamp(-1, 1)))
        ups = [F.interpolate(lr, scale_factor=SCALE, mode="bicubic") for _, lr in self.frames]
        scores = [psnr(up, hr) for up, (hr, _) in zip(ups, self.frames, strict=True)]
        self.bicubic = sum(scores) / len(scores)
