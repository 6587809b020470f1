"""The figures of picture quality, each defined where it is computed. All in 8-bit RGB levels.

Frames are (T, H, W, 3) uint8, and are measured the same way for every source.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...export.graphs import bicubic, from_uint8, to_uint8
from ...runtime.files import compare
from ..training.losses import carried

Frames = npt.NDArray[np.uint8]
PSNR_MAX = 100.0  # dB, for equal pictures


def bicubic_frames(lr: Frames) -> Frames:
    """Returns the baseline: the model's own bicubic x4, clamped and rounded.

    Args:
        lr: (T, h, w, 3) uint8; the result is (T, 4h, 4w, 3) uint8.
    """
    frames = (torch.from_numpy(frame[None]) for frame in lr)
    return np.concatenate([to_uint8(bicubic(from_uint8(x))).numpy() for x in frames])


def psnr(output: Frames, truth: Frames) -> npt.NDArray[np.float64]:
    """Returns (T,) peak signal-to-noise ratios in dB, over all RGB values, at most 100.

    A clip's PSNR is the mean of its frames'.
    """
    pairs = zip(output, truth, strict=True)
    return np.array([min(compare.psnr(a, b), PSNR_MAX) for a, b in pairs])


def ssim(output: Frames, truth: Frames) -> float:
    """Returns the structural similarity as scikit-image computes it (7x7 windows, per channel).

    A clip's SSIM is the mean of its frames'.
    """
    from skimage import metrics  # from an extra, so loaded only here

    similarity: Any = metrics.structural_similarity  # the library has no types
    pairs = zip(output, truth, strict=True)
    return float(np.mean([similarity(a, b, channel_axis=2, data_range=255) for a, b in pairs]))


def temporal_errors(
    output: Frames, truth: Frames, flow: Tensor, visible: Tensor
) -> dict[str, float]:
    """Returns how much a video changes where it should not, along the true motion.

    Means over all RGB values of all pixels that show what the frame before showed (`visible`):

    - warp_error: |out_n - W(out_{n-1})|.
    - warp_excess: the same minus the truth's own, which is not zero: sampling is not exact, and
      edges of things that move apart are mixed.
    - flicker: |e_n - W(e_{n-1})| with e = out - truth: how much the error changes. A constant
      error, of any size, does not flicker.

    Args:
        output, truth: (T, H, W, 3) uint8.
        flow: (T, 2, H, W) HR pixels, x first: where in frame n - 1 each pixel of n was.
        visible: (T, 1, H, W), all zero for a frame without a previous one.
    """
    sums, count = np.zeros(3), 0.0
    for index in range(1, len(output)):
        moved = [change(frames, flow, index) for frames in (output, truth)]
        mask = visible[index : index + 1]
        kinds = (moved[0], moved[1], moved[0] - moved[1])
        sums += [(kind.abs() * mask).sum().item() for kind in kinds]
        count += 3 * mask.sum().item()
    ours, own, flicker = sums / max(count, 1.0)
    return {"warp_error": ours, "warp_excess": ours - own, "flicker": flicker}


def change(frames: Frames, flow: Tensor, index: int) -> Tensor:
    """Returns x_n - W(x_{n-1}) of frame n = `index`: (1, 3, H, W) float32.

    W samples cubically: a linear W would blur the previous frame, and a sharp video would then seem
    to flicker where a blurred one does not.
    """
    before, now = _planes(frames[index - 1 : index + 1])
    return now - carried(before, flow[index : index + 1], "bicubic")


def colour_shift(output: Frames, lr: Frames) -> npt.NDArray[np.float64]:
    """Returns (T, 3): each channel's mean in an output frame minus that of its input, in levels."""
    shift: npt.NDArray[np.float64] = output.mean(axis=(1, 2)) - lr.mean(axis=(1, 2))
    return shift


def _planes(frames: Frames) -> Iterator[Tensor]:
    """Yields each of (T, H, W, 3) uint8 frames as (1, 3, H, W) float32."""
    for frame in frames:
        yield torch.from_numpy(frame[None]).permute(0, 3, 1, 2).float()
