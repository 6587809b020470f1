"""One frame, one call: `step(frame, state)`, the plain loop that documents the model at run time.

Stages run one after another on one engine each. Knows no libav, no files of video, no scheduling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engines.device import CpuDevice, Device
from ..engines.engine_set import open_engines
from ..engines.manifest import Manifest
from ..engines.protocol import Engine
from ..errors import StreamDiffVSRError
from ..spec import SCALE, Size, TensorSpec, format_size
from .frames import FrameStream, OverlappedFrames, SteppedFrames
from .noise import frame_noise
from .slot import Slot
from .state import PreviousFeatures, StreamState
from .tiles import Tile, TileGrid

Array = npt.NDArray[Any]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the previous frame gives this one. Zeros where there is none; then `gate` is 0 too."""

    warped: Array  # (1, 3, H, W) in the model's range
    hint: Array  # (1, C, h, w)
    gate: Array  # (1,)


class Upscaler:
    """The engines of one model at one input size.

    Not for several threads at once: the engines share their buffers. Make one for each.
    """

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], device: Device | None = None
    ) -> None:
        self.manifest = manifest
        self._engines = engines
        self._device = device or CpuDevice()
        self._specs = {name: engine.describe() for name, engine in engines.items()}
        self._geometry = manifest.graphs.geometry
        tile = self._geometry.tile
        self._grid = None if tile is None else TileGrid(self._geometry.padded, tile)
        self._steps = [np.array([i], np.int32) for i in range(manifest.graphs.steps)]
        real = self._tensor("denoise", "gate").dtype
        self._off, self._on = np.zeros(1, real), np.ones(1, real)
        self._no_guidance = Guidance(
            self._zeros("guide", "warped"), self._zeros("guide", "hint"), self._off
        )
        self._no_temporal = {t.name: self._zeros("temporal", t.name) for t in self._temporal()}

    @property
    def size(self) -> Size:
        """LR size (h, w) of the frames that it takes."""
        return self._geometry.size

    @property
    def device(self) -> Device:
        """Where the engines run."""
        return self._device

    def initial_state(self, seed: int = 0) -> StreamState:
        """The state before the first frame."""
        return StreamState(seed=seed)

    def step(
        self,
        frame: Image,
        state: StreamState,
        *,
        noise: Array | None = None,
        guidance_scale: float = 1.0,
    ) -> tuple[Image, StreamState]:
        """Upscale one frame.

        Args:
            frame: (h, w, 3) uint8 RGB.
            state: What the previous frame left; `initial_state()` at the start.
            noise: (4, h, w) float32 standard normal in place of the seeded noise.
            guidance_scale: Of the ControlNet; 0 runs the frame without its previous one.

        Returns:
            The frame at four times the size, (4h, 4w, 3) uint8 RGB, and the next state.

        Raises:
            StreamDiffVSRError: The frame or the state is of another size than the engines.
        """
        self.check(frame, state)
        lr, up = self._run("prepare", frame=np.ascontiguousarray(frame)[None])
        fmap, context = self._run("features", up=up)
        if state.has_previous and guidance_scale > 0:
            guidance = self._guide(fmap, context, state, guidance_scale)
        else:
            guidance = self._no_guidance
        latent = self.initial_latent(state, noise)
        if self._grid is None:
            hr, out = self._whole_frame(latent, lr, guidance)
        else:
            hr, out = self._tiled(self._grid, latent, lr, guidance)
        return out, StreamState(
            seed=state.seed,
            frame_index=state.frame_index + 1,
            previous_hr=hr,
            previous_lr=np.array(frame),  # a copy: the caller may reuse the frame's memory
            features=PreviousFeatures(self, fmap),
        )

    def stream(
        self,
        frames: Iterable[Image],
        state: StreamState | None = None,
        *,
        overlap: bool | None = None,
    ) -> FrameStream:
        """Upscale frames as they come; equals the loop of `step`, bit for bit.

        Args:
            overlap: Work on consecutive frames at once, taking one frame more than was asked for.
                By default on a GPU alone: on a CPU the stages would only take the cores from each
                other. Frames in tiles are never overlapped.

        Returns:
            An iterator of output frames, whose `state` is that after the last frame it gave.
        """
        state = self.initial_state() if state is None else state
        if overlap is None:
            overlap = self._device.name != "cpu"
        if not overlap or self._grid is not None:
            return SteppedFrames(self, frames, state)
        return OverlappedFrames(self, frames, state)

    def slots(self, count: int) -> list[Slot]:
        """A ring of so many slots, each linked to the one before it."""
        slots = [Slot(self._device, self._engines) for _ in range(count)]
        steps = []
        for number in self._steps:
            steps.append(self._device.empty(number.shape, number.dtype.name))
            self._device.copy(steps[-1], number)
        for index, slot in enumerate(slots):
            slot.link(slots[index - 1], steps)
        return slots

    # The stages, in the order of a frame.

    def _guide(
        self, fmap: Array, context: Array, state: StreamState, guidance_scale: float
    ) -> Guidance:
        assert state.previous_hr is not None
        previous = self.previous_fmap(state)
        (flow,) = self._run("flow", fmap=fmap, previous_fmap=previous, context=context)
        previous_hr = state.previous_hr.astype(self._off.dtype, copy=False)
        warped, hint = self._run("guide", previous_hr=previous_hr, flow=flow)
        return Guidance(warped, hint, self._on * self._on.dtype.type(guidance_scale))

    def previous_fmap(self, state: StreamState) -> Array:
        """RAFT's features of the previous frame: kept, or found again from its LR."""
        kept = state.features
        if kept is not None and kept.owner is self:
            return kept.fmap
        assert state.previous_lr is not None
        _, up = self._run("prepare", frame=state.previous_lr[None])
        return self._run("features", up=up)[0]

    def initial_latent(self, state: StreamState, noise: Array | None = None) -> Array:
        """(1, 4, h', w') at the padded size; given noise covers the part that is shown."""
        channels = self.manifest.graphs.dims.latent
        shape = (channels, *self._geometry.padded)
        latent = frame_noise(state.seed, state.frame_index, shape)
        if noise is not None:
            height, width = self.size
            if noise.shape != (channels, height, width):
                raise ValueError(f"noise must be {(channels, height, width)}, got {noise.shape}")
            latent[:, :height, :width] = noise
        return latent[None].astype(self._off.dtype)

    def _whole_frame(self, latent: Array, lr: Array, guidance: Guidance) -> tuple[Array, Image]:
        temporal = self._temporal_features(guidance.warped, guidance.gate)
        for step in self._steps:
            latent = self._denoise(latent, lr, guidance.hint, step, guidance.gate)
        hr, out = self._run("decode", latent=latent, gate=self._switch(guidance), **temporal)
        return hr, out[0]

    def _tiled(
        self, grid: TileGrid, latent: Array, lr: Array, guidance: Guidance
    ) -> tuple[Array, Image]:
        """The same on tiles: latents are mixed after every step, so tiles agree on content."""
        gate = self._switch(guidance)

        def denoised(step: Array) -> Iterator[tuple[Tile, Array]]:
            for tile in grid.tiles:
                part, part_lr, hint = (grid.cut(x, tile) for x in (latent, lr, guidance.hint))
                yield tile, self._denoise(part, part_lr, hint, step, guidance.gate)

        def decoded() -> Iterator[tuple[Tile, Array]]:
            for tile in grid.tiles:
                warped = grid.cut(guidance.warped, tile, SCALE)
                temporal = self._temporal_features(warped, guidance.gate)
                cut = grid.cut(latent, tile)
                part_hr, _ = self._run("decode", latent=cut, gate=gate, **temporal)
                yield tile, part_hr

        for step in self._steps:
            latent = grid.mix(denoised(step), latent.shape[1]).astype(latent.dtype)
        height, width = (SCALE * side for side in self.size)
        hr = grid.mix(decoded(), 3, SCALE)[:, :, :height, :width].astype(latent.dtype)
        return np.ascontiguousarray(hr), to_uint8(hr)

    def _temporal_features(self, warped: Array, gate: Array) -> dict[str, Array]:
        if not gate.any():
            return self._no_temporal
        results = self._run("temporal", warped=warped)
        return {t.name: x for t, x in zip(self._temporal(), results, strict=True)}

    def _denoise(self, latent: Array, lr: Array, hint: Array, step: Array, gate: Array) -> Array:
        return self._run("denoise", latent=latent, lr=lr, hint=hint, step=step, gate=gate)[0]

    def _switch(self, guidance: Guidance) -> Array:
        """The decoder's gate: its temporal processors are on or off, not scaled."""
        return self._on if guidance.gate.any() else self._off

    def _run(self, name: str, **inputs: Array) -> tuple[Array, ...]:
        engine = self._engines[name]
        outputs = {t.name: np.empty(t.shape, t.dtype) for t in self._specs[name].outputs}
        engine.bind(inputs | outputs).enqueue()
        return tuple(outputs.values())

    # Small things.

    def check(self, frame: Image, state: StreamState) -> None:
        """Raise StreamDiffVSRError unless frame and state are of these engines' size."""
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise StreamDiffVSRError(
                f"the frame is {frame.dtype} {frame.shape}",
                f"these engines take uint8 RGB of {format_size(self.size)}",
                f"build engines for its size: streamdiffvsr engines --size {_wxh(frame)}",
            )
        if state.size is not None and state.size != self.size:
            raise StreamDiffVSRError(
                f"the state is of {format_size(state.size)} frames",
                f"these engines take {format_size(self.size)}",
                "start a new epoch with state.reset()",
            )

    def _tensor(self, graph: str, name: str) -> TensorSpec:
        spec = self._specs[graph]
        return next(t for t in (*spec.inputs, *spec.outputs) if t.name == name)

    def _temporal(self) -> tuple[TensorSpec, ...]:
        return self._specs["temporal"].outputs

    def _zeros(self, graph: str, name: str) -> Array:
        tensor = self._tensor(graph, name)
        return np.zeros(tensor.shape, tensor.dtype)


def to_uint8(hr: Array) -> Image:
    """Raw HR (1, 3, H, W) -> (H, W, 3) uint8 RGB, rounded half to even, as `decode` does it."""
    unit = np.clip(hr[0].astype(np.float32) / 2 + 0.5, 0, 1) * 255
    return np.ascontiguousarray(np.rint(unit).astype(np.uint8).transpose(1, 2, 0))


def _wxh(frame: Image) -> str:
    return format_size((frame.shape[0], frame.shape[1])) if frame.ndim == 3 else "WxH"


def load(engine_dir: str | Path) -> Upscaler:
    """Open an engine set that `streamdiffvsr.build` made.

    Raises:
        StreamDiffVSRError: It is missing or damaged, or its backend is not installed.
    """
    return Upscaler(*open_engines(Path(engine_dir)))
