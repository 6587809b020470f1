"""RAFT's correlation lookup, from a stored all-pairs volume or computed on demand.

Both give the same numbers. The volume has (H/8 W/8)^2 values, which is fast while it is small, but
198 GiB for a 720p input; the on-demand lookup keeps only the pooled feature maps and works through
the pixels in chunks, so its memory grows with the number of pixels and not with its square. Teed,
Deng (arXiv:2003.12039), section 3.2 and, for the second form, "Efficient Computation for High
Resolution Images".

A lookup reads a (2r+1)^2 window around a real-valued position at every level. All samples of a
window share one fractional part, so its (2r+2)^2 integer positions are gathered once and blended
with weights along x and then y: fewer reads than a bilinear sampler needs. The levels are stored
side by side, so that one gather serves them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graphs.plan import chunk_length


class Correlation(Protocol):
    """Correlation features around (n, 2) positions, x first, in pixels of the feature map."""

    def lookup(self, positions: Tensor) -> Tensor:
        """Looks up (n, 2) float32 -> (n, levels (2r+1)^2), x offsets slowest within a level."""
        ...


@dataclass(frozen=True, slots=True)
class _Axis:
    """The integer positions of each window along one axis (n, levels, 2r+2), and their weights."""

    position: Tensor  # clamped onto the map
    lower: Tensor  # (n, levels, 2r+1): weight of each sample's lower neighbour, 0 off the map
    upper: Tensor


def _axis(centre: Tensor, length: Tensor, radius: int) -> _Axis:
    """Returns the windows along one axis.

    Args:
        centre: (n, levels), in pixels of each level.
        length: (levels,), the size of the axis at each level.
    """
    # Far outside the map every sample is 0 at any position; the limit keeps the numbers small.
    limited = torch.minimum(centre, length + radius + 1).clamp(min=-radius - 2)
    base = limited.floor()
    fraction = (limited - base)[..., None]
    offsets = torch.arange(-radius, radius + 2, dtype=torch.float32, device=centre.device)
    whole = base[..., None] + offsets
    position = torch.minimum(whole, (length - 1)[:, None]).clamp(min=0)
    inside = (whole == position).float()
    return _Axis(position, inside[..., :-1] * (1 - fraction), inside[..., 1:] * fraction)


class _Windows:
    """The places of windows in a pyramid whose levels are stored side by side."""

    def __init__(self, sizes: list[tuple[int, int]], radius: int) -> None:
        self.sizes, self.radius, self.side = sizes, radius, 2 * radius + 2
        self.starts = _vector(accumulate((h * w for h, w in sizes[:-1]), initial=0))
        self.heights = _vector(h for h, _ in sizes)
        self.widths = _vector(w for _, w in sizes)
        self.scales = torch.tensor([0.5**level for level in range(len(sizes))])

    def axes(self, positions: Tensor) -> tuple[_Axis, _Axis]:
        """Returns the windows along x and y at every level, for (n, 2) positions at the finest."""
        centres = positions[:, None] * self.scales[:, None]  # (n, levels, 2)
        x = _axis(centres[..., 0], self.widths, self.radius)
        return x, _axis(centres[..., 1], self.heights, self.radius)

    def index(self, x: _Axis, y: _Axis) -> Tensor:
        """Returns (n, levels * side^2) indices into the stored levels, x slowest.

        They are float32, which is exact: all are below 2^24.
        """
        rows = y.position * self.widths[:, None] + self.starts[:, None]
        return (x.position[..., None] + rows[..., None, :]).flatten(1)

    def blend(self, values: Tensor, x: _Axis, y: _Axis) -> Tensor:
        """Blends the values at integer positions into the windows' samples.

        (n, levels * side^2) -> (n, levels * (side-1)^2).
        """
        values = values.view(-1, len(self.sizes), self.side, self.side)
        values = values[:, :, :-1] * x.lower[..., None] + values[:, :, 1:] * x.upper[..., None]
        y_lower, y_upper = y.lower[:, :, None], y.upper[:, :, None]
        return (values[..., :-1] * y_lower + values[..., 1:] * y_upper).flatten(1)


def _vector(numbers: Iterable[int]) -> Tensor:
    """Returns numbers, which may be symbolic, as one float32 tensor."""
    return torch.stack([torch.scalar_tensor(number, dtype=torch.float32) for number in numbers])


def _pyramid(maps: Tensor, levels: int) -> list[Tensor]:
    pyramid = [maps]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2, 2))
    return pyramid


def _sizes(pyramid: list[Tensor]) -> list[tuple[int, int]]:
    return [(level.shape[2], level.shape[3]) for level in pyramid]


class AllPairs:
    """A stored pyramid of each pixel's correlation with every other: 4/3 (h w)^2 values."""

    def __init__(self, current: Tensor, previous: Tensor, levels: int, radius: int) -> None:
        """Computes the pyramid from `current` and `previous`, feature maps (b, C, h, w)."""
        channels, height, width = current.shape[1:]
        query = current.flatten(2).transpose(1, 2).float() / channels**0.5  # (b, h w, C)
        volume = (query @ previous.flatten(2).float()).view(-1, 1, height, width)
        pyramid = _pyramid(volume, levels)
        self.windows = _Windows(_sizes(pyramid), radius)
        self.volume = torch.cat([level.flatten(1) for level in pyramid], dim=1)

    def lookup(self, positions: Tensor) -> Tensor:
        x, y = self.windows.axes(positions)
        index = self.windows.index(x, y).long()
        return self.windows.blend(self.volume.gather(1, index), x, y)


class OnDemand:
    """The same features from pooled feature maps, one chunk of the pixels at a time."""

    def __init__(self, current: Tensor, previous: Tensor, levels: int, radius: int) -> None:
        """Pools `previous`; it and `current` are feature maps (1, C, h, w)."""
        channels, height, width = current.shape[1:]
        self.query = current.flatten(2)[0].T.float() / channels**0.5  # (n, C)
        pyramid = _pyramid(previous.float(), levels)
        self.windows = _Windows(_sizes(pyramid), radius)
        self.features = torch.cat([level.flatten(2)[0].T for level in pyramid])  # (positions, C)
        self.chunk: int = height * width
        if not isinstance(self.chunk, torch.SymInt):  # else `specialise` makes the chunks
            window = levels * self.windows.side**2
            self.chunk = chunk_length(self.chunk, channels, window)

    def lookup(self, positions: Tensor) -> Tensor:
        x, y = self.windows.axes(positions)
        index, query = self.windows.index(x, y).int(), self.query[:, :, None]
        if isinstance(self.chunk, torch.SymInt):
            return self.windows.blend(F.embedding(index, self.features) @ query, x, y)
        products = [  # (chunk, levels * side^2, 1); an embedding is one gather of whole rows
            F.embedding(where, self.features) @ part
            for where, part in zip(
                torch.split(index, self.chunk), torch.split(query, self.chunk), strict=True
            )
        ]
        return self.windows.blend(torch.cat(products), x, y)
