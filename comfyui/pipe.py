"""Defines what the loader node passes on: a model with its engines by size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from ..building.provider import EngineProvider
from ..building.request import BuildRequest
from ..engines.interface import Bound, Buffer, Device, Engine
from ..engines.registry import Choice
from ..errors import StreamDiffVSRError, UsageError
from ..graphs.spec import DEFAULT_STEPS, Geometry, GraphSpec, Size, format_size
from ..runtime.frame_stream import Image, S, Upscaled
from ..runtime.memory import check_memory_fit
from ..runtime.state import StreamState
from ..runtime.upscaler import Upscaler, load
from . import host
from .host import for_nodes

FrameCallback = Callable[[Image], None]


class GuidedUpscaler:
    """An upscaler with the guidance settings of a node.

    Args:
        upscaler: The upscaler whose engines are used.
        strength: The strength of the ControlNet; 0 runs every frame without its previous one.
        temporal: Whether the decoder's temporal processors run.
        see: Receives every output frame; an exception from it ends the stream.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        *,
        strength: float = 1.0,
        temporal: bool = True,
        see: FrameCallback,
    ) -> None:
        self._upscaler = upscaler if temporal else without_temporal(upscaler)
        self._strength, self._temporal, self._see = strength, temporal, see

    @property
    def size(self) -> Size:
        """The size (h, w) of the LR frames."""
        return self._upscaler.size

    @property
    def identity(self) -> str:
        """A text that differs wherever the output frames may differ."""
        return f"{self._upscaler.identity} {self._strength} {self._temporal}"

    def stream_frames(
        self, frames: Iterable[S], state: StreamState | None = None
    ) -> Generator[Upscaled[S], None, None]:
        """Upscales frames; see `Upscaler.stream_frames`."""
        outputs = self._upscaler.stream_frames(frames, state, guidance_scale=self._strength)
        with closing(outputs):
            for out in outputs:
                self._see(out.image)
                yield out


def without_temporal(upscaler: Upscaler) -> Upscaler:
    """Returns an upscaler with the same engines and the decoder's gate fixed at zero."""
    engines = dict(upscaler.engines)
    engines["decode"] = _Ungated(engines["decode"], upscaler.device)
    return Upscaler(upscaler.manifest, engines, upscaler.device)


class _Ungated:
    """A `decode` engine whose gate is always zero, so its temporal processors have no effect."""

    def __init__(self, engine: Engine, device: Device) -> None:
        self._engine, self._device = engine, device

    def describe(self) -> GraphSpec:
        return self._engine.describe()

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        gate = buffers["gate"]
        zero: Buffer
        if isinstance(gate, np.ndarray):
            zero = np.zeros_like(gate)
        else:
            zero = self._device.empty(gate.shape, gate.dtype.name)
        return self._engine.bind({**buffers, "gate": zero})


MAX_LOADED = 2  # engine sets; a workflow that alternates between two sizes must not reload them
BUILD_LINES = 18  # roughly how many lines of progress a build without a compiler reports


@dataclass(frozen=True, slots=True)
class EngineWish:
    """The choice of one engine set of a pipe's model."""

    size: Size
    steps: int = DEFAULT_STEPS
    flow_scale: int | None = None


def check_flow(wish: EngineWish) -> None:
    """Raises `StreamDiffVSRError` if the flow scale is too coarse for the frames' size."""
    Geometry(wish.size)
    try:
        Geometry(wish.size, wish.flow_scale or 1)
    except UsageError as error:
        remedy = "turn force_flow_on_lq off, or set flow_scale to 1/2 or 1"
        raise StreamDiffVSRError(error.what, error.why, remedy) from error


class Pipe:
    """A model, its backend, and its engines that are loaded.

    Not for use by several threads at once; ComfyUI runs one node at a time.

    Args:
        model: The model, as for `streamdiffvsr.build`.
        choice: The backend, precision and device.
    """

    def __init__(self, model: str, choice: Choice) -> None:
        self.model, self.choice = model, choice
        self._loaded: OrderedDict[EngineWish, Upscaler] = OrderedDict()
        self._last: StreamState | None = None  # the last one handed out, with its features

    def __repr__(self) -> str:
        sizes = ", ".join(format_size(wish.size) for wish in self._loaded) or "nothing loaded"
        choice = self.choice
        return f"{self.model}, {choice.backend} {choice.precision} on {choice.device}: {sizes}"

    def upscaler(self, wish: EngineWish, node: str | None = None) -> Upscaler:
        """Returns an upscaler with the engines of a size, which are built and loaded if necessary.

        Args:
            node: The id of the node that shows the progress.

        Raises:
            StreamDiffVSRError: The engines cannot be built, or do not fit in memory.
        """
        found = self._loaded.pop(wish, None)
        if found is None:
            while len(self._loaded) >= MAX_LOADED:
                self._loaded.popitem(last=False)
                self._last = None
            found = self._open(wish, node)
        self._loaded[wish] = found
        return found

    def unload(self) -> None:
        """Frees the memory of all engines; they are loaded again on the next use."""
        self._loaded.clear()
        self._last = None

    def without_features(self, state: StreamState) -> StreamState:
        """Returns a state for ComfyUI to keep, which does not keep the engines alive."""
        self._last = state
        return state.on_host()

    def with_features(self, state: StreamState) -> StreamState:
        """Returns a state with its features if it is the one handed out last, which saves work."""
        last = self._last
        if last is None or state.previous_hr is not last.previous_hr:
            return state
        if (state.seed, state.frame_index) == (last.seed, last.frame_index):
            return last
        return replace(state, features=last.features)

    def _open(self, wish: EngineWish, node: str | None) -> Upscaler:
        check_flow(wish)
        progress, lines = host.Progress(BUILD_LINES, node), 0
        choice = self.choice
        provider = EngineProvider(
            BuildRequest(
                model=self.model,
                backend=choice.backend,
                precision=choice.precision,
                device=choice.device,
                steps=wish.steps,
                flow_scale=wish.flow_scale,
            )
        )

        def show(line: str) -> None:
            nonlocal lines
            lines += not line.endswith("%")
            progress.frames(min(lines, BUILD_LINES - 1), BUILD_LINES)
            progress.say(line)

        device = choice.device
        gpu = device if ":" in device else None
        folder = provider.find(wish.size)
        if folder is None:
            host.make_room(gpu=gpu)
            folder = provider.get(wish.size, show)
        host.make_room(check_memory_fit(folder, device).needs.total, gpu)
        progress.say(f"loading engines for {format_size(wish.size)}")
        upscaler = load(folder, device)
        what = for_nodes(choice.describe())
        progress.say(f"engines for {format_size(wish.size)}, {what}")
        return upscaler
