"""Upscales frames with an engine set: one per call with `Upscaler.step`, or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..engines.cpu_device import CpuDevice
from ..engines.cuda_device import CudaDevice
from ..engines.engine_set import open_engines
from ..engines.interface import Device, Engine, StagedEngine, StageTimes, ordinal_of, timed
from ..engines.manifest import Manifest, read_manifest
from ..errors import Bare, StreamDiffVSRError, UsageError, command, without
from ..graphs.arrays import Array
from ..graphs.arrays import Image as Image
from ..graphs.spec import GraphSet, Size, format_size
from .frame_stream import (
    Cuts,
    FrameStream,
    OverlappedFrames,
    S,
    Session,
    UpscaledStream,
    mark_images,
)
from .memory import check_memory
from .ring import Ring, Run
from .stages import Stages, TileGrid
from .state import PreviousFeatures, StreamState

STEP = np.float32(2.0**-24)
ANGLE = np.float32(2 * np.pi) * STEP


def frame_noise(seed: int, frame_index: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Returns standard normal values in float32, which depend on seed and frame index alone.

    Args:
        seed: 0 to 2^64 - 1.
        frame_index: 0 to 2^64 - 1.
    """
    count = int(np.prod(shape))
    unit = _unit(_noise_words(seed, frame_index, count))
    # Box, Muller (1958).
    radius, angle = _radius(unit[:, 0]), unit[:, 1] * ANGLE
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].reshape(shape)


class FrameNoise:
    """The noise of a frame, of which parts are computed on demand: `frame_noise` for tiles.

    Args:
        seed, frame_index, shape: As in `frame_noise`; the shape is (C, h, w).
    """

    def __init__(self, seed: int, frame_index: int, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._words = _noise_words(seed, frame_index, int(np.prod(shape)))

    def part(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Returns the noise of some rows and columns, (C, rows, columns): equal to that part."""
        channels, height, width = self._shape
        pixels = np.arange(rows.start, rows.stop)[:, None] * width
        pixels = pixels + np.arange(columns.start, columns.stop)
        places = np.arange(channels)[:, None, None] * (height * width) + pixels
        # The first half of the values are cosines, the second half the sines of the same pairs.
        pairs = len(self._words)
        unit = _unit(self._words[places % pairs])
        radius, angle = _radius(unit[..., 0]), unit[..., 1] * ANGLE
        part: npt.NDArray[np.float32] = np.where(
            places < pairs, radius * np.cos(angle), radius * np.sin(angle)
        )
        return part


def _noise_words(seed: int, frame_index: int, count: int) -> npt.NDArray[np.uint32]:
    """Returns the random words of so many values, (pairs, 2)."""
    pairs = (count + 1) // 2
    generator = np.random.Philox(key=np.array([seed, frame_index], dtype=np.uint64))
    words: npt.NDArray[np.uint32] = generator.random_raw(pairs).astype("<u8", copy=False)
    return words.view("<u4").reshape(pairs, 2)


def _unit(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    # 24 bits for each of a pair: all that fits in float32, which is four times as fast.
    return (words >> np.uint32(8)).astype(np.float32)


def _radius(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # Half a step keeps the logarithm's argument above zero.
    radius: npt.NDArray[np.float32] = np.sqrt(-2 * np.log((unit + np.float32(0.5)) * STEP))
    return radius


Mode = Literal["throughput", "latency"]
FRAMES_AHEAD: dict[Mode, int] = {"throughput": 1, "latency": 0}


class Upscaler:
    """The engines of one model at one input size.

    Attributes:
        device: Where the engines run.
        in_slots: Whether frames stay in a GPU's memory from stage to stage, and can overlap.
        stage_times: The time that each graph has taken, where the host runs them one by one.

    Do not use it in several threads at once, as the engines share their buffers. Load another one
    for each: two of the same engines must not have frames on a GPU at the same time.
    """

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], device: Device | None = None
    ) -> None:
        self.manifest = manifest
        self.engines = engines
        self.device: Device = device or CpuDevice()
        self._geometry = manifest.graphs.geometry
        tile = self._geometry.tile
        self._grid = None if tile is None else TileGrid(self._geometry.padded, tile)
        on_gpu = self.device.name != "cpu"
        self.in_slots: bool = on_gpu and self._grid is None
        self.stage_times: StageTimes = StageTimes()
        if not self.in_slots:
            engines = timed(engines, self.stage_times)
        if on_gpu and self._grid is not None:  # the host blends tiles
            engines = {n: StagedEngine(self.device, engine) for n, engine in engines.items()}
        self._stages = Stages(engines, manifest.graphs.steps)
        # Not a method: the ring keeps it, and must not keep this Upscaler alive.
        self._latent = partial(_initial_latent, manifest.graphs, self._stages.dtype)
        self._ring: Ring | None = None

    @property
    def size(self) -> Size:
        """LR size (h, w) of the frames that it takes."""
        return self._geometry.size

    @property
    def identity(self) -> str:
        """The digest of the engines' key: if equal, frames are the same bit for bit."""
        return self.manifest.key.digest()

    def initial_state(self, seed: int = 0) -> StreamState:
        """Returns the state before the first frame; `seed` is that of the noise."""
        return StreamState(seed=seed)

    def step(
        self,
        frame: Image,
        state: StreamState,
        *,
        noise: Array | None = None,
        guidance_scale: float = 1.0,
    ) -> tuple[Image, StreamState]:
        """Upscales one frame.

        Args:
            frame: The LR frame, (h, w, 3) uint8 RGB.
            state: The state after the previous frame; `initial_state()` at the start.
            noise: (4, h, w) float32, standard normal, in place of the seeded noise; or None.
            guidance_scale: The strength of the ControlNet; 0 ignores the previous frame.

        Returns:
            The frame at four times the size, (4h, 4w, 3) uint8 RGB, and the next state.

        Raises:
            StreamDiffVSRError: The frame or the state does not have the engines' size.
        """
        self._check(frame, state)
        if self.in_slots:  # the device's buffers may still contain the state of the last step
            run = self.run(state)
            run.begin(frame, noise, guidance_scale)
            return run.finish(), run.state
        stages = self._stages
        lr, fmap, context = stages.extract_features(frame)
        guidance = stages.no_guidance
        if state.previous_hr is not None and guidance_scale > 0:
            before = self._previous_fmap(state)
            guidance = stages.guide(fmap, before, context, state.previous_hr, guidance_scale)
        latent = self._latent(state, noise)
        if self._grid is None:
            hr, out = stages.whole_frame(latent, lr, guidance)
        else:
            hr, out = stages.tiled(latent, lr, guidance, self._grid, self.size)
        return out, StreamState(
            seed=state.seed,
            frame_index=state.frame_index + 1,
            previous_hr=hr,
            previous_lr=np.array(frame),  # a copy: the caller may reuse the frame's memory
            features=PreviousFeatures(self, fmap),
        )

    def session(self, state: StreamState | None = None, *, guidance_scale: float = 1.0) -> Session:
        """Returns an object that keeps the state and upscales one frame at a time.

        Args:
            guidance_scale: The strength of the ControlNet, as in `step`.
        """
        return Session(self, self.initial_state() if state is None else state, guidance_scale)

    def stream(
        self,
        frames: Iterable[Image],
        state: StreamState | None = None,
        *,
        cuts: Cuts | None = None,
        overlap: bool | None = None,
        mode: Mode = "throughput",
    ) -> FrameStream:
        """Upscales frames as they come; equals a loop of `step`, bit for bit.

        Args:
            frames: (h, w, 3) uint8 RGB each.
            cuts: Called with each frame as it is taken; returns whether the frame begins a new
                epoch, like `CutDetector.is_cut`. By default none does.
            overlap, mode: See `stream_frames`.

        Returns:
            An iterator of output frames, (4h, 4w, 3) uint8 RGB, whose `state` is the one after the
            last frame that it returned.
        """
        state = self.initial_state() if state is None else state
        marked = mark_images(frames, cuts)
        return FrameStream(self.stream_frames(marked, state, overlap=overlap, mode=mode), state)

    def stream_frames(
        self,
        frames: Iterable[S],
        state: StreamState | None = None,
        *,
        guidance_scale: float = 1.0,
        overlap: bool | None = None,
        mode: Mode = "throughput",
    ) -> UpscaledStream[S]:
        """Upscales frames as they come; each output comes with its source and state.

        Args:
            frames: Objects with an `image`, (h, w, 3) uint8 RGB, and a `cut`, which is whether the
                image begins a new epoch.
            guidance_scale: The strength of the ControlNet, as in `step`.
            overlap: Whether to run stages concurrently on streams. By default only on a GPU: on a
                CPU they would compete for the cores. Frames in tiles never overlap.
            mode: Which stages may overlap. "throughput" works on consecutive frames at once, and
                takes one frame more than was asked for. "latency" takes a frame once the one before
                it was returned, so that a live source can hand over its newest.

        Returns:
            An iterator of `Upscaled`: `source`, `image`, `state` and `raw()`.
        """
        state = self.initial_state() if state is None else state
        if overlap is None:
            overlap = self.in_slots
        if not overlap or self._grid is not None:
            return self.session(state, guidance_scale=guidance_scale).upscale(frames)
        return OverlappedFrames(self.run(state, mode), self._check, frames, guidance_scale)

    def run(self, state: StreamState, mode: Mode = "latency") -> Run:
        """Starts a run on the device's buffers, whose caller begins and finishes each frame.

        Several runs may be open and take turns: they share the buffers and the captured graphs.
        """
        if self._ring is None or not self._ring.is_open:
            steps = self.manifest.graphs.steps
            self._ring = Ring(self.device, self.engines, steps, self._latent)
        return Run(self._ring, state, ahead=FRAMES_AHEAD[mode])

    def close(self) -> None:
        """Frees the buffers and streams of its frames; the next frame makes new ones."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()

    def _previous_fmap(self, state: StreamState) -> Array:
        """Returns RAFT's features of the previous frame: kept, or computed again from its LR."""
        kept = state.features
        if kept is not None and kept.owner is self:
            return kept.fmap
        assert state.previous_lr is not None
        return self._stages.extract_features(state.previous_lr)[1]

    def _check(self, frame: Image, state: StreamState) -> None:
        """Raises StreamDiffVSRError unless frame and state have these engines' size."""
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise StreamDiffVSRError(
                f"the frame is {frame.dtype} {frame.shape}",
                f"these engines take uint8 RGB of {format_size(self.size)}",
                f"build engines for its size: {command('engines', size=_size_of(frame))}",
            )
        if state.size is not None and state.size != self.size:
            raise StreamDiffVSRError(
                f"the state belongs to frames of {format_size(state.size)}",
                f"these engines take {format_size(self.size)}",
                "start a new epoch with state.reset()",
            )


def _initial_latent(
    graphs: GraphSet, dtype: np.dtype[Any], state: StreamState, noise: Array | None
) -> Array:
    """Returns (1, 4, h', w') at the padded size; `noise`, if given, replaces the visible part."""
    shape = (graphs.dims.latent, *graphs.geometry.padded)
    latent = frame_noise(state.seed, state.frame_index, shape)
    if noise is not None:
        shown = (graphs.dims.latent, *graphs.geometry.size)
        if noise.shape != shown:
            raise ValueError(f"noise must be {shown}, got {noise.shape}")
        latent[:, : shown[1], : shown[2]] = noise
    return latent[None].astype(dtype)


def _size_of(frame: Image) -> object:
    return frame.shape[:2] if frame.ndim == 3 else Bare("WxH")


def load(engine_dir: str | Path, device: str | None = None, size: Size | None = None) -> Upscaler:
    """Opens an engine set that `streamdiffvsr.build` made.

    Args:
        engine_dir: The folder of the engine set.
        device: The GPU, "cuda:1"; None is the first, or the CPU for a set made for the CPU.
        size: LR size (h, w) of the frames, if the engines take a range of sizes; None is the size
            that they are tuned for.

    Raises:
        UsageError: The set is made for another kind of device or for several tiles at once, or the
            size is not in its range.
        StreamDiffVSRError: The set is missing or damaged, its backend is not installed, or it does
            not fit in memory.
    """
    manifest = read_manifest(Path(engine_dir))
    if (batch := manifest.graphs.geometry.batch) > 1:
        raise UsageError(
            f"the engines of {engine_dir} take {batch} tiles at once",
            "frames are upscaled one at a time",
            f"build others, and {without('batch')}",
        )
    if size is not None:
        manifest = replace(manifest, graphs=manifest.graphs.at(size))
    check_memory(manifest, device)
    manifest, engines = open_engines(Path(engine_dir), device, size)
    if manifest.key.device != "cuda":
        return Upscaler(manifest, engines)
    return Upscaler(manifest, engines, CudaDevice(ordinal_of(device or "cuda")))
