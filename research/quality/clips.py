"""The clips that `quality` measures: photographs under motion that is known exactly.

Motion and noise are the same in every run, so two models are compared on the very same frames.
Beyond a photograph's border, the camera sees it mirrored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ...errors import StreamDiffVSRError
from ...graphs.spec import SCALE, Size
from ..training import photographs
from ..training.degrade import CLEAN, Degradation, degrade
from ..training.scenes import Clip, Layer, render

Frames = npt.NDArray[np.uint8]
Picture = tuple[str, Tensor]  # name, (3, H, W) float32 in [0, 1]
Moves = dict[str, Any]

LARGE, SMALL = (90, 160), (56, 96)  # LR (h, w); only two: each needs an engine set
COVER = 0.9  # share of LARGE's frame that a photograph must fill on each side to be shown so
NOISY = Degradation(noise=2.0, crf=18)
SEED = 2026
# The drift clip: two rounds of a closed path end where frames 5 to 14 were.
DRIFT_ROUNDS, DRIFT_FIRST, DRIFT_WINDOW = 2, 5, 10
DRIFT_REACH = (30.0, 12.0)  # half the path's width and height in HR pixels

# Per frame: pan in HR pixels (x, y), turn in degrees, zoom as a share of the size.
KINDS: dict[str, Moves] = {
    "still": {},
    "pan": {"pan": (2.3, 0.7)},
    "zoom": {"zoom": 0.005},
    "turn": {"turn": 0.4, "pan": (0.4, -0.3)},
    "layers": {"pan": (-0.9, 0.4)},
    "noisy": {"pan": (0.6, -1.1), "turn": 0.1},
}
THING_PAN = (3.1, -1.4)  # of the foreground in "layers"


@dataclass(frozen=True, slots=True)
class MeasuredClip:
    """Input, truth and true motion of T frames.

    Attributes:
        photograph: The photograph's name.
        kind: The kind of motion: one of `KINDS`, `cut` or `drift`.
        lr: (T, h, w, 3) uint8 RGB, the upscaler's input.
        truth: (T, 4h, 4w, 3) uint8 RGB, the ideal output.
        flow: (T, 2, 4h, 4w) HR pixels, x first: where in frame n - 1 each pixel of n was.
        visible: (T, 1, 4h, 4w), 1 if that place shows the same thing; all 0 for a frame that has no
            previous one.
        cut: Index of the first frame after the cut, if there is one.
        same: Early frames and last frames that show the same views, if there are any.
    """

    photograph: str
    kind: str
    lr: Frames
    truth: Frames
    flow: Tensor
    visible: Tensor
    cut: int | None = None
    same: tuple[slice, slice] | None = None

    @property
    def name(self) -> str:
        """The clip's name in the table."""
        return f"{self.photograph} {self.kind}"

    @property
    def size(self) -> Size:
        """The LR size (h, w)."""
        return int(self.lr.shape[1]), int(self.lr.shape[2])


def pictures(which: str, files: list[Path]) -> list[Picture]:
    """Returns the photographs to make clips of: the given files, else `validation` or `test`."""
    if files:
        return [(file.stem, _read(file)) for file in files]
    chosen = {"validation": photographs.VALIDATION, "test": photographs.TEST}[which]
    return [(photograph.name, photographs.load(photograph)) for photograph in chosen]


def makers(
    sources: list[Picture], frames: int, drift_frames: int
) -> Iterator[Callable[[], MeasuredClip]]:
    """Yields functions that make one clip each, in the order of the table.

    Only one clip is in memory at a time.
    """
    for index, source in enumerate(sources):
        for kind in KINDS:
            yield partial(_moving, kind, source, _next(sources, index), frames)
    yield partial(_cut, sources[0], _next(sources, 0), frames)
    yield partial(_drift, sources[0], drift_frames)


def timing_frames(source: Picture, frames: int) -> Frames:
    """Returns (T, 90, 160, 3) frames of a pan, at the size for which frame times are reported."""
    return low(shown([background(source, LARGE, frames, **KINDS["pan"])], LARGE))


def _moving(kind: str, source: Picture, other: Picture, frames: int) -> MeasuredClip:
    size = _size_for(source)
    layers = [background(source, size, frames, **KINDS[kind])]
    if kind == "layers":
        layers.append(thing(other, size, frames))
    clip = shown(layers, size)
    lr = low(clip, NOISY if kind == "noisy" else CLEAN)
    return MeasuredClip(source[0], kind, lr, to_uint8(clip.frames), clip.flow, clip.visible)


def _cut(before: Picture, after: Picture, frames: int) -> MeasuredClip:
    """Makes a clip whose first half shows one photograph, and its second half another."""
    half = frames // 2
    halves = [
        shown([background(source, SMALL, half, pan=(1.3, 0.6))], SMALL)
        for source in (before, after)
    ]
    clip = Clip(
        torch.cat([part.frames for part in halves]),
        torch.cat([part.flow for part in halves]),
        torch.cat([part.visible for part in halves]),
    )
    truth = to_uint8(clip.frames)
    names = f"{before[0]} to {after[0]}"
    return MeasuredClip(names, "cut", low(clip), truth, clip.flow, clip.visible, cut=half)


def _drift(source: Picture, frames: int) -> MeasuredClip:
    """Makes a clip along a closed path.

    The last `DRIFT_WINDOW` frames show the same as those from `DRIFT_FIRST` on.
    """
    apart = frames - DRIFT_WINDOW - DRIFT_FIRST
    angle = 2 * np.pi * DRIFT_ROUNDS * np.arange(frames) / apart
    shifts = np.stack([np.sin(angle), np.cos(angle)], axis=1) * DRIFT_REACH
    poses = _poses(source[1], SMALL, shifts, np.zeros(frames), np.ones(frames))
    clip = shown([Layer(source[1], None, poses)], SMALL)
    same = (slice(DRIFT_FIRST, DRIFT_FIRST + DRIFT_WINDOW), slice(frames - DRIFT_WINDOW, frames))
    truth = to_uint8(clip.frames)
    return MeasuredClip(source[0], "drift", low(clip), truth, clip.flow, clip.visible, same=same)


def background(
    source: Picture,
    size: Size,
    frames: int,
    *,
    pan: tuple[float, float] = (0.0, 0.0),
    turn: float = 0.0,
    zoom: float = 0.0,
) -> Layer:
    """Returns the photograph under an even move, at its middle halfway through the clip."""
    time = np.arange(frames) - (frames - 1) / 2
    shifts = time[:, None] * np.array(pan)
    poses = _poses(source[1], size, shifts, np.radians(turn * time), np.exp(-zoom * time))
    return Layer(source[1], None, poses)


def thing(source: Picture, size: Size, frames: int) -> Layer:
    """Returns a disc cut from the middle of a photograph, half as high as the frame."""
    side = SCALE * size[0] // 2
    top, left = ((length - side) // 2 for length in source[1].shape[1:])
    texture = source[1][:, top : top + side, left : left + side]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    distance = torch.hypot(x - (side - 1) / 2, y - (side - 1) / 2)
    alpha = (side / 2 - 2 - distance).clamp(0, 1)[None]  # soft over a pixel, 0 at the borders
    shifts = (np.arange(frames) - (frames - 1) / 2)[:, None] * np.array(THING_PAN)
    poses = _poses(texture, size, shifts, np.zeros(frames), np.ones(frames))
    return Layer(texture, alpha, poses)


def _poses(
    texture: Tensor,
    size: Size,
    shifts: npt.NDArray[Any],
    angles: npt.NDArray[Any],
    scales: npt.NDArray[Any],
) -> Tensor:
    """Returns (T, 3, 3) float64: HR pixel -> texture pixel.

    The frame's middle is at the texture's middle + shift.
    """
    height, width = (SCALE * side for side in size)
    poses = np.zeros((len(shifts), 3, 3))
    cos, sin = scales * np.cos(angles), scales * np.sin(angles)
    poses[:, :2, :2] = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    target = np.array([(texture.shape[2] - 1) / 2, (texture.shape[1] - 1) / 2]) + shifts
    poses[:, :2, 2] = target - poses[:, :2, :2] @ middle
    poses[:, 2, 2] = 1
    return torch.from_numpy(poses)


def shown(layers: list[Layer], size: Size) -> Clip:
    return render(layers, (SCALE * size[0], SCALE * size[1]))


def low(clip: Clip, how: Degradation = CLEAN) -> Frames:
    return to_uint8(degrade(clip.frames, how, np.random.default_rng(SEED)))


def to_uint8(frames: Tensor) -> Frames:
    """Converts (T, 3, H, W) in [0, 1] to (T, H, W, 3) uint8."""
    levels = (255 * frames).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())


def _size_for(source: Picture) -> Size:
    fills = (
        have >= COVER * SCALE * side for have, side in zip(source[1].shape[1:], LARGE, strict=True)
    )
    return LARGE if all(fills) else SMALL


def _next(sources: list[Picture], index: int) -> Picture:
    """Returns the photograph after this one, or, if it is the only one, its upside-down image."""
    if len(sources) == 1:
        name, image = sources[0]
        return f"{name}-turned", image.flip(1, 2)
    return sources[(index + 1) % len(sources)]


def _read(file: Path) -> Tensor:
    smallest = tuple(SCALE * side for side in SMALL)
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except OSError as error:
        raise StreamDiffVSRError(f"cannot read the picture {file}", str(error)) from error
    if pixels.shape[0] < smallest[0] or pixels.shape[1] < smallest[1]:
        raise StreamDiffVSRError(
            f"{file} is too small to move a camera over",
            f"it has {pixels.shape[1]}x{pixels.shape[0]} pixels",
            f"use pictures of at least {smallest[1]}x{smallest[0]}",
        )
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
