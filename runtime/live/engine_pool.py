"""The engines of a live session: quality levels for one size, and a pool of sizes in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import StreamDiffVSRError
from ...graphs.spec import Size, format_size
from ..frame_stream import Image, Session
from ..state import StreamState
from .latency_budget import BICUBIC


class QualityLevels:
    """The engines of one size by rung, best first, which share one state.

    Args:
        engines: One session or more by rung, the best first; all of one size.
        seed: The seed of the noise.
        described: A short description of the engines.
        device: The device that they run on, "cpu", "cuda" or "cuda:1".
    """

    def __init__(
        self,
        engines: Mapping[str, Session],
        *,
        seed: int,
        described: str,
        device: str = "cpu",
    ) -> None:
        if not engines:
            raise ValueError("a ladder needs an engine")
        self.engines, self.described, self.device = dict(engines), described, device
        self.rungs = (*engines, BICUBIC)
        self._active = next(iter(self.engines.values()))
        self._active.state = StreamState(seed=seed)

    @property
    def size(self) -> Size:
        """LR size (h, w) of the frames."""
        return self._active.size

    def forget(self) -> None:
        """Begins a new epoch: the next frame is made without a previous one."""
        self._active.state = self._active.state.reset()

    def step(self, rung: str, image: Image) -> tuple[Image, dict[str, float]]:
        """Returns the frame upscaled by this rung, and the milliseconds of its stages."""
        engine = self.engines[rung]
        if engine is not self._active:
            engine.state = self._active.state
            self._active = engine
        return engine.step(image), engine.stage_ms()

    def close(self) -> None:
        """Closes the sessions."""
        for engine in self.engines.values():
            engine.close()


Tell = Callable[[str], None]
MAX_POOLED = 2  # sizes: a source that changes back and forth finds both


class _Opening:
    """The progress of opening or building the engines of one size."""

    def __init__(self) -> None:
        self._step, self._since = "opening", time.monotonic()

    def at(self, step: str) -> None:
        self._step = step

    def now(self) -> tuple[str, int]:
        return self._step, int(time.monotonic() - self._since)


class EnginePool:
    """Opens the ladders of quality levels for the sizes in use, and keeps them.

    Args:
        open_ladder: Finds or builds the engines of a size, and calls its second argument with the
            name of each step; may take minutes.
        tell: Receives one line when engines are needed, are ready, or have failed.
    """

    def __init__(self, open_ladder: Callable[[Size, Tell], QualityLevels], *, tell: Tell) -> None:
        self._open, self._tell = open_ladder, tell
        self._ladders: dict[Size, QualityLevels] = {}
        self._failures: dict[Size, str] = {}
        self._opening: dict[Size, _Opening] = {}
        self._lock = threading.Lock()

    def put(self, ladder: QualityLevels) -> None:
        """Adds a ladder that was opened already."""
        with self._lock:
            self._ladders[ladder.size] = ladder

    def get(self, size: Size) -> QualityLevels | None:
        """Returns the engines of a size; None while they are being opened, or if they failed."""
        with self._lock:
            if size in self._ladders:
                self._ladders[size] = self._ladders.pop(size)  # the last used is dropped last
                return self._ladders[size]
            if size in self._opening or size in self._failures:
                return None
            self._opening[size] = _Opening()
        self._tell(
            f"engines for {format_size(size)}: opened now, or built, which takes a minute or more "
            "the first time; bicubic meanwhile"
        )
        threading.Thread(target=self._fetch, args=(size,), name="engines", daemon=True).start()
        return None

    def fail(self, size: Size, why: str) -> None:
        """Gives up the engines of a size, which have failed."""
        with self._lock:
            ladder = self._ladders.pop(size, None)
            self._failures[size] = why
        self._tell(f"engines for {format_size(size)} failed, bicubic from now on: {why}")
        if ladder is not None:
            ladder.close()

    def note(self, size: Size) -> str:
        """Returns what a viewer should know about the engines of a size; "" if they run."""
        with self._lock:
            if size in self._failures:
                return f"bicubic: {self._failures[size]}"
            if size not in self._opening:
                return ""
            step, seconds = self._opening[size].now()
            return (
                f"bicubic until the engines for {format_size(size)} are there: {step}, {seconds} s"
            )

    def opening(self, size: Size) -> dict[str, Any] | None:
        """Returns `size`, `step` and `seconds` of engines being opened; None if none are."""
        with self._lock:
            if size not in self._opening:
                return None
            step, seconds = self._opening[size].now()
            return {"size": format_size(size), "step": step, "seconds": seconds}

    def close(self) -> bool:
        """Closes the engines; returns whether a thread is still opening some."""
        with self._lock:
            ladders, self._ladders = list(self._ladders.values()), {}
            opening = bool(self._opening)
        for ladder in ladders:
            ladder.close()
        return opening

    def _fetch(self, size: Size) -> None:
        try:
            ladder = self._open(size, self._opening[size].at)
        except Exception as error:  # the thread would end silently
            expected = isinstance(error, StreamDiffVSRError)
            with self._lock:
                self._opening.pop(size)
            self.fail(size, str(error) if expected else f"{type(error).__name__}: {error}")
            return
        with self._lock:
            self._opening.pop(size)
            self._ladders[size] = ladder
            for old in list(self._ladders)[:-MAX_POOLED]:
                self._ladders.pop(old)  # not closed: it may be making a frame right now
        self._tell(f"engines for {format_size(size)}: {ladder.described}")
