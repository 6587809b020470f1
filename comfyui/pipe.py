"""The pipe that the loader node passes on: engines by size, and guidance settings."""

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
    """What a node upscales with.

    Args:
        upscaler: Its engines are used as they are.
        strength: Of the ControlNet; 0 runs every frame without its previous one.
        temporal: Whether the decoder's temporal processors run.
        see: Called with every output frame; what it raises ends the stream.
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
        """(h, w) of the LR frames."""
        return self._upscaler.size

    @property
    def identity(self) -> str:
        """Of another identity, it may make other frames."""
        return f"{self._upscaler.identity} {self._strength} {self._temporal}"

    def stream_frames(
        self, frames: Iterable[S], state: StreamState | None = None
    ) -> Generator[Upscaled[S], None, None]:
        """See `Upscaler.stream_frames`."""
        outputs = self._upscaler.stream_frames(frames, state, guidance_scale=self._strength)
        with closing(outputs):
            for out in outputs:
                self._see(out.image)
                yield out


def without_temporal(upscaler: Upscaler) -> Upscaler:
    """The same engines; the decoder's gate is held at zero."""
    engines = dict(upscaler.engines)
    engines["decode"] = _Ungated(engines["decode"], upscaler.device)
    return Upscaler(upscaler.manifest, engines, upscaler.device)


class _Ungated:
    """A `decode` engine to which the gate is always zero: no temporal processor has a say."""

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


MAX_LOADED = 2  # sets of engines: a workflow that goes to and fro between two sizes must not reload
# Of a build without a compiler: what it says beside its own first and last lines.
BUILD_LINES = 18


@dataclass(frozen=True, slots=True)
class EngineWish:
    """Which engines of a pipe's model."""

    size: Size
    steps: int = DEFAULT_STEPS
    flow_scale: int | None = None


def check_flow(wish: EngineWish) -> None:
    """Raise `StreamDiffVSRError` where a flow that coarse does not fit the frames."""
    Geometry(wish.size)
    try:
        Geometry(wish.size, wish.flow_scale or 1)
    except UsageError as error:
        remedy = "turn force_flow_on_lq off, or set flow_scale to 1/2 or 1"
        raise StreamDiffVSRError(error.what, error.why, remedy) from error


class Pipe:
    """A model, its backend, and the engines of it that are loaded.

    Args:
        model: As `streamdiffvsr.build` takes it.
        choice: The backend, precision and device.

    Not for several threads at once; ComfyUI runs one node at a time.
    """

    def __init__(self, model: str, choice: Choice) -> None:
        self.model, self.choice = model, choice
        self._loaded: OrderedDict[EngineWish, Upscaler] = OrderedDict()
        self._last: StreamState | None = None  # as its Upscaler gave it

    def __repr__(self) -> str:
        sizes = ", ".join(format_size(wish.size) for wish in self._loaded) or "nothing loaded"
        choice = self.choice
        return f"{self.model}, {choice.backend} {choice.precision} on {choice.device}: {sizes}"

    def upscaler(self, wish: EngineWish, node: str | None = None) -> Upscaler:
        """The engines, built and loaded if they are not.

        Args:
            node: The one whose progress shows it.

        Raises:
            StreamDiffVSRError: They cannot be built, or do not fit in memory.
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
        """Give back all memory of engines; they are loaded again when they are next used."""
        self._loaded.clear()
        self._last = None

    def without_features(self, state: StreamState) -> StreamState:
        """A state to hand out: one that ComfyUI keeps must not keep the engines."""
        self._last = state
        return state.on_host()

    def with_features(self, state: StreamState) -> StreamState:
        """The same state with what it handed out last, if it is that one: less work, no change."""
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

        def tell(line: str) -> None:
            nonlocal lines
            lines += not line.endswith("%")
            progress.frames(min(lines, BUILD_LINES - 1), BUILD_LINES)
            progress.say(line)

        device = choice.device
        gpu = device if ":" in device else None
        folder = provider.find(wish.size)
        if folder is None:
            host.make_room(gpu=gpu)
            folder = provider.get(wish.size, tell)
        host.make_room(check_memory_fit(folder, device).needs.total, gpu)
        progress.say(f"loading engines for {format_size(wish.size)}")
        upscaler = load(folder, device)
        what = for_nodes(choice.describe())
        progress.say(f"engines for {format_size(wish.size)}, {what}")
        return upscaler
