"""Upscales frames with a canvas: as many tiles a frame as the caller allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import StreamDiffVSRError, UsageError
from ...graphs.arrays import Image
from ...graphs.spec import SCALE, Size, check_size, format_size
from ..upscaler import FrameNoise
from .canvas import Canvas, Floats
from .carry import carry
from .tile_engine import TileEngine, TileInput
from .tiles import Patch, all_tiles, blend, blend_all, choose, trusted, weight_of

REFRESH_S = 10.0
FRAME_S = 1 / 25
Region = tuple[int, int, int, int]  # x, y, width, height in LR pixels


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A tile for the model, and the interpolated frame there, (4t, 4t, 3) float32 levels."""

    tile: TileInput
    base: Floats


class AdaptiveUpscaler:
    """Upscales frames of one size with a tile engine that serves every size.

    Not for several threads at once.

    Args:
        engine: The model's engines for one tile.
        size: LR size (h, w) of the frames.
        regions: Regions of interest: their tiles are refined first.
        refresh_s: Seconds after which a part of the picture is refined again before all others.

    Raises:
        UsageError: A region lies outside the frame.
    """

    def __init__(
        self,
        engine: TileEngine,
        size: Size,
        *,
        regions: Sequence[Region] = (),
        refresh_s: float = REFRESH_S,
    ) -> None:
        check_size(size)
        self.engine, self.size, self.refresh_s = engine, size, refresh_s
        # Replicated at the right and the bottom, as whole frames that are too small.
        self.padded: Size = (max(size[0], engine.tile), max(size[1], engine.tile))
        self._grid = all_tiles(self.padded, engine.tile)
        self._preferred: Floats | None = None
        self.prefer(regions)

    @property
    def tile_count(self) -> int:
        """The number of tiles that refine a whole frame."""
        return len(self._grid)

    def prefer(self, regions: Sequence[Region]) -> None:
        """Sets the regions of interest, in place of earlier ones.

        Raises:
            UsageError: A region lies outside the frame, or is empty.
        """
        preferred = np.zeros(self.padded, np.float32)
        for region in regions:
            check_region(region, self.size)
            x, y, width, height = region
            preferred[y : y + height, x : x + width] = 1
        self._preferred = preferred if regions else None

    def initial_state(self, seed: int = 0) -> Canvas:
        """Returns the canvas before the first frame; `seed` is that of the noise."""
        return Canvas.empty(self.padded, seed)

    def step(
        self, frame: Image, state: Canvas, *, tiles: int, seconds: float = FRAME_S
    ) -> tuple[Image, Canvas]:
        """Upscales one frame.

        Args:
            frame: The LR frame, (h, w, 3) uint8 RGB.
            state: The canvas after the previous frame; it is not changed.
            tiles: The most tiles to refine, 0 or more; from `tile_count` on, the whole frame.
            seconds: The time since the previous frame.

        Returns:
            The frame at four times the size, (4h, 4w, 3) uint8 RGB, and the next canvas.

        Raises:
            UsageError: `tiles` is negative.
            StreamDiffVSRError: The frame or the canvas has another size.
        """
        if tiles < 0:
            raise UsageError(f"tiles={tiles} is not possible", remedy="use 0 or more")
        self.check(frame, state)
        canvas, _ = carry(state, self.pad(frame), seconds)
        patches = self.refine(self.inputs(canvas, self.choose(canvas, tiles)))
        if len(patches) == self.tile_count:
            blend_all(canvas, patches)
        else:
            for patch in patches:
                blend(canvas, patch)
        return self.render(canvas), canvas

    def check(self, frame: Image, canvas: Canvas) -> None:
        """Raises StreamDiffVSRError unless frame and canvas have this size."""
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise StreamDiffVSRError(
                f"the frame is {frame.dtype} {frame.shape}",
                f"this upscaler takes uint8 RGB of {format_size(self.size)}",
                "make another one for that size: its engines are the same",
            )
        if canvas.size != self.padded:
            raise StreamDiffVSRError(
                f"the state belongs to frames of {format_size(canvas.size)}",
                f"this upscaler takes {format_size(self.size)}",
                "start with initial_state()",
            )

    def pad(self, frame: Image) -> Image:
        """Returns a frame at the canvas's size; one that is large enough as it is."""
        if self.padded == self.size:
            return frame
        more = [(0, p - s) for p, s in zip(self.padded, self.size, strict=True)]
        padded: Image = np.pad(frame, (*more, (0, 0)), "edge")
        return padded

    def choose(self, canvas: Canvas, tiles: int) -> list[tuple[int, int]]:
        """Returns the corners (top, left) of the tiles to refine next, at most `tiles`."""
        if tiles >= self.tile_count:
            return self._grid
        if not tiles:
            return []
        return choose(canvas, tiles, self.engine.tile, self.refresh_s, self._preferred)

    def inputs(self, canvas: Canvas, corners: Sequence[tuple[int, int]]) -> list[Job]:
        """Returns what the model needs to refine tiles of a canvas; it shares no memory with it."""
        if not corners:
            return []
        side, (h, w) = self.engine.tile, canvas.size
        # The canvas counts the next frame.
        shape = (self.engine.latent_channels, h, w)
        noise = FrameNoise(canvas.seed, canvas.frame_index - 1, shape)
        jobs = []
        for top, left in corners:
            rows, columns = slice(top, top + side), slice(left, left + side)
            base, previous = canvas.picture_at(top, left, side)
            lr, own_noise = canvas.smooth[rows, columns].copy(), noise.part(rows, columns)
            jobs.append(Job(TileInput(lr, previous, own_noise, top, left, canvas.size), base))
        return jobs

    def refine(self, jobs: Sequence[Job]) -> list[Patch]:
        """Runs the model on tiles; returns what to blend into the canvas."""
        return self.patches(jobs, self.engine.refine([job.tile for job in jobs]))

    def patches(self, jobs: Sequence[Job], made: Sequence[Floats]) -> list[Patch]:
        """Returns what to blend into the canvas of what the model has made of tiles."""
        return [
            Patch(
                job.tile.top,
                job.tile.left,
                trusted(hr - job.base),
                weight_of((job.tile.top, job.tile.left), self.padded, self.engine.tile, SCALE),
            )
            for job, hr in zip(jobs, made, strict=True)
        ]

    def render(self, canvas: Canvas) -> Image:
        """Returns the picture, (4h, 4w, 3) uint8 RGB."""
        height, width = (SCALE * side for side in self.size)
        out = canvas.render()
        return out if out.shape[:2] == (height, width) else out[:height, :width].copy()


def check_region(region: Region, size: Size) -> None:
    """Raises `UsageError` unless a region (x, y, width, height) lies in a frame (h, w)."""
    x, y, width, height = region
    inside = x >= 0 and y >= 0 and x + width <= size[1] and y + height <= size[0]
    if width < 1 or height < 1 or not inside:
        begins = 0 <= x < size[1] and 0 <= y < size[0] and width > 0 and height > 0
        how = "reaches beyond" if begins else "is not in"
        raise UsageError(
            f"the region {x},{y},{width},{height} {how} the frame ({format_size(size)})",
            remedy="give X,Y,W,H in pixels of the source",
        )
