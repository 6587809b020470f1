"""STREAM_DIFFVSR_PIPE: one model and how it is run; its engines by the size of the frames.

Engines are made for one size, and the size is known when frames come, so they are built or opened
then. A pipe holds all that it has loaded; nothing is kept outside it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from ..building.builder import build, find
from ..engines.choice import Choice
from ..runtime.memory import check_memory_fit
from ..runtime.state import StreamState
from ..runtime.upscaler import Upscaler, load
from ..spec import Size, format_size
from . import host
from .installed import for_nodes

MAX_LOADED = 2  # sets of engines: a workflow that goes to and fro between two sizes must not reload
# Of a build without a compiler: what it says beside its own first and last lines.
BUILD_LINES = 18


@dataclass(frozen=True, slots=True)
class EngineWish:
    """Which engines of a pipe's model."""

    size: Size
    steps: int = 4
    flow_scale: int | None = None


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
        progress, lines = host.Progress(BUILD_LINES, node), 0
        options: dict[str, Any] = {
            "size": wish.size,
            "steps": wish.steps,
            "flow_scale": wish.flow_scale,
            "backend": self.choice.backend,
            "precision": self.choice.precision,
            "device": self.choice.device,
        }

        def tell(line: str) -> None:
            nonlocal lines
            lines += not line.endswith("%")
            progress.frames(min(lines, BUILD_LINES - 1), BUILD_LINES)
            progress.say(line)

        device = self.choice.device
        gpu = device if ":" in device else None
        folder = find(self.model, **options)
        if folder is None:
            host.make_room(gpu=gpu)
            folder = build(self.model, progress=tell, **options)
        host.make_room(check_memory_fit(folder, device).needs.total, gpu)
        progress.say(f"loading engines for {format_size(wish.size)}")
        upscaler = load(folder, device)
        what = for_nodes(self.choice.describe())
        progress.say(f"engines for {format_size(wish.size)}, {what}")
        return upscaler
