"""From HR to the LR that a camera and a codec would produce: blur, downscaling, noise, H.264.

The amount of each is drawn per clip, and is often nothing, so that clean input stays clean.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...graphs.spec import SCALE
from .textures import Random


@dataclass(frozen=True, slots=True)
class Degradation:
    """Blur in HR pixels (standard deviation), noise in 8-bit steps, H.264's CRF or None."""

    blur: float = 0.0
    kernel: str = "bicubic"
    noise: float = 0.0
    crf: int | None = None


CLEAN = Degradation()


def random_degradation(rng: Random) -> Degradation:
    """Returns a mild degradation: four clips in ten are only downscaled."""
    if rng.random() < 0.4:
        return CLEAN
    return Degradation(
        blur=rng.uniform(0.3, 1.3) if rng.random() < 0.5 else 0.0,
        kernel="area" if rng.random() < 0.2 else "bicubic",
        noise=rng.uniform(0.5, 4.0) if rng.random() < 0.5 else 0.0,
        crf=int(rng.integers(12, 25)) if rng.random() < 0.4 else None,
    )


def degrade(frames: Tensor, how: Degradation, rng: Random) -> Tensor:
    """Converts (T, 3, H, W) in [0, 1] to (T, 3, H/4, W/4) in [0, 1], in 256 levels."""
    if how.blur:
        frames = _blur(frames, how.blur)
    size = (frames.shape[2] // SCALE, frames.shape[3] // SCALE)
    if how.kernel == "area":
        lr = F.avg_pool2d(frames, SCALE)
    else:
        lr = F.interpolate(frames, size=size, mode="bicubic", antialias=True)
    if how.noise:
        noise = rng.standard_normal(lr.shape, dtype=np.float32)
        lr = lr + how.noise / 255 * torch.from_numpy(noise)
    pixels = (255 * lr.clamp(0, 1)).round().to(torch.uint8)
    if how.crf is not None:
        pixels = compressed(pixels, how.crf)
    return pixels.float() / 255


def _blur(frames: Tensor, sigma: float) -> Tensor:
    radius = int(np.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1).float()
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = (taps / taps.sum()).repeat(frames.shape[1], 1, 1, 1)
    padded = F.pad(frames, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, taps, groups=frames.shape[1])
    return F.conv2d(rows, taps.transpose(2, 3), groups=frames.shape[1])


def compressed(frames: Tensor, crf: int) -> Tensor:
    """Encodes (T, 3, h, w) uint8, h and w even, with x264, and returns it decoded."""
    count, _, height, width = frames.shape
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": str(crf), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as source:
        decoded = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    return torch.from_numpy(np.stack(decoded[:count])).permute(0, 3, 1, 2)
