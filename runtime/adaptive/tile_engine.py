"""Refines tiles of a frame with the engines of one tile size, one by one or in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...engines.cpu_device import CpuDevice
from ...engines.cuda_device import CudaDevice
from ...engines.engine_set import open_engines
from ...engines.interface import Device, Engine, ordinal_of
from ...engines.manifest import Manifest, read_manifest
from ...errors import UsageError, command
from ...graphs.spec import SCALE, Size, format_size
from ..memory import check_memory
from .tile_slot import TILE_GRAPHS, HostTiles, TileArrays, TileRunner, TileSlot

Floats: TypeAlias = npt.NDArray[np.float32]

TILE = 48  # LR pixels: the side of a tile
HALF = np.float32(127.5)  # levels are HALF * (x + 1), x in the model's range
CACHED_FLOWS = 4096  # rows and columns of tiles, 1 kB each


@dataclass(frozen=True, slots=True, eq=False)
class TileInput:
    """One tile of a frame, and what refines it.

    Attributes:
        lr: (t, t, 3) float32 RGB, levels from 0 to 255, which may be fractional.
        previous: (4t, 4t, 3) float32 levels, the carried canvas in the tile.
        noise: (C, t, t) float32, standard normal: the tile's part of the frame's noise.
        top: The tile's first row in the padded frame, in LR pixels.
        left: Its first column, likewise.
        frame: The LR size (h, w) of the padded frame.
    """

    lr: Floats
    previous: Floats
    noise: Floats
    top: int
    left: int
    frame: Size


class TileEngine:
    """The engines of one model at one tile size.

    On a GPU, tiles go through the engines in batches of which each is one launch.

    Attributes:
        tile: The side t of a tile, in LR pixels.
        batch: How many tiles a launch takes at most; 1 on a CPU.
        latent_channels: The channels C of the noise.

    Do not use it in several threads at once, as the engines share their buffers.
    """

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], device: Device | None = None
    ) -> None:
        """Takes the engines of a set whose frames are square tiles; others are not needed."""
        self._manifest, self._engines = manifest, engines
        self._device: Device = device or CpuDevice()
        geometry = manifest.graphs.geometry
        self.tile: int = geometry.size[0]
        self.batch: int = geometry.batch
        self.latent_channels: int = manifest.graphs.dims.latent
        self._runner: TileRunner | None = None

    @property
    def identity(self) -> str:
        """The digest of the engines' key: if equal, tiles are the same bit for bit."""
        return self._manifest.key.digest()

    def refine(self, tiles: Sequence[TileInput]) -> list[Floats]:
        """Runs the model on tiles, each guided by the canvas in it.

        Args:
            tiles: Any number of tiles, of any frames.

        Returns:
            For each tile (4t, 4t, 3) float32 RGB in levels, which are not clamped to 0 and 255.

        Raises:
            ValueError: An array has the wrong shape, or a tile is not inside its frame.
            StreamDiffVSRError: An engine failed.
        """
        for tile in tiles:
            self._check(tile)
        starts = range(0, len(tiles), self.batch)
        return [out for i in starts for out in self._launched(tiles[i : i + self.batch])]

    def close(self) -> None:
        """Frees the buffers and streams of its tiles; the next ones get new ones."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    def _launched(self, tiles: Sequence[TileInput]) -> list[Floats]:
        """Refines up to one batch of tiles; a batch that is not full repeats its last tile."""
        try:
            if self._runner is None:
                self._runner = self._new_runner()
            arrays = self._runner.arrays
            for place in range(self.batch):
                _fill(arrays, place, tiles[min(place, len(tiles) - 1)])
            self._runner.run()
        except BaseException:  # an interruption too: the device may still use the buffers
            self.close()
            raise
        return [_to_levels(arrays.raw[place]) for place in range(len(tiles))]

    def _new_runner(self) -> TileRunner:
        steps = self._manifest.graphs.steps
        if self._device.name == "cpu":
            return HostTiles(self._engines, steps)
        return TileSlot(self._device, self._engines, steps)

    def _check(self, tile: TileInput) -> None:
        side, large = self.tile, SCALE * self.tile
        shapes = ((side, side, 3), (large, large, 3), (self.latent_channels, side, side))
        given = (tile.lr.shape, tile.previous.shape, tile.noise.shape)
        if given != shapes:
            raise ValueError(f"lr, previous and noise of a tile must be {shapes}, got {given}")
        corner = (tile.top, tile.left)
        if not all(0 <= at <= full - side for at, full in zip(corner, tile.frame, strict=True)):
            raise ValueError(
                f"a tile of {side} pixels at {corner} is not inside {format_size(tile.frame)}"
            )


def _fill(arrays: TileArrays, place: int, tile: TileInput) -> None:
    """Writes one tile into a batch, in the model's range."""
    arrays.lr[place] = (tile.lr / HALF - 1).transpose(2, 0, 1)
    arrays.previous[place] = (tile.previous / HALF - 1).transpose(2, 0, 1)
    arrays.noise[place] = tile.noise
    side, (height, width) = tile.lr.shape[0], tile.frame
    arrays.flow[place, 0] = axis_flow(tile.left, side, width)
    arrays.flow[place, 1] = axis_flow(tile.top, side, height)[:, None]


def _to_levels(raw: npt.NDArray[np.floating]) -> Floats:
    levels = (raw.transpose(1, 2, 0).astype(np.float32) + 1) * HALF
    return np.ascontiguousarray(levels)


@lru_cache(CACHED_FLOWS)
def axis_flow(start: int, tile: int, frame: int) -> Floats:
    """Returns the flow along one axis that samples in a tile what zero flow does in its frame.

    A flow of zero is not the identity (NUMERICS.md, "Warp"): in an image of n pixels, pixel x with
    flow u is sampled at (x + u) n / (n - 1) - 1/2, and outside there is mid-grey. So the shift
    depends on where in the frame a tile is. At an edge that is inside the frame, where the tile
    does not contain the next pixel, its outermost one is sampled in place of a mixture with grey.

    Args:
        start: The tile's first row or column in the frame, in LR pixels.
        tile: The tile's side in LR pixels.
        frame: The frame's side in LR pixels.

    Returns:
        (4 tile,) float32, in HR pixels; it must not be changed.
    """
    large, whole = SCALE * tile, SCALE * frame
    x = np.arange(large, dtype=np.float64)
    sampled = (SCALE * start + x) * whole / (whole - 1) - 0.5 - SCALE * start
    if start > 0:
        sampled = np.maximum(sampled, 0)
    if start + tile < frame:
        sampled = np.minimum(sampled, large - 1)
    flow: Floats = ((sampled + 0.5) * (large - 1) / large - x).astype(np.float32)
    flow.flags.writeable = False
    return flow


def load_tile_engine(folder: str | Path, device: str | None = None) -> TileEngine:
    """Opens an engine set whose frames are square tiles, to refine the tiles of larger frames.

    Args:
        folder: The folder of the engine set.
        device: The GPU, "cuda:1"; None is the first, or the CPU for a set made for the CPU.

    Raises:
        UsageError: The set's frames are not such tiles, or it is made for another kind of device.
        StreamDiffVSRError: The set is missing or damaged, its backend is not installed, or it does
            not fit in memory.
    """
    manifest = read_manifest(Path(folder))
    geometry = manifest.graphs.geometry
    height, width = geometry.size
    if height != width or geometry.padded != geometry.size or geometry.tile is not None:
        raise UsageError(
            f"the engines of {folder} cannot refine tiles",
            f"they take frames of {format_size(geometry.size)}, not whole squares",
            f"build engines of tiles: {command('engines', size=(TILE, TILE))}",
        )
    check_memory(manifest, device)
    manifest, engines = open_engines(Path(folder), device, graphs=TILE_GRAPHS)
    if manifest.key.device != "cuda":
        return TileEngine(manifest, engines)
    return TileEngine(manifest, engines, CudaDevice(ordinal_of(device or "cuda")))
