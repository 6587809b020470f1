"""Engines of a live session: the levels of quality for one size, and the pool of sizes in use."""

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
    """The engines of one size by rung, best first, sharing one state.

    Args:
        engines: At least one, the best first; all of one size.
        seed: Of the noise.
        described: What they are, in a few words.
        device: What they run on, "cpu" or "cuda".
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
        """LR size (h, w) of its frames."""
        return self._active.size

    def forget(self) -> None:
        """Begin a new epoch: the next frame is made without a previous one."""
        self._active.state = self._active.state.reset()

    def step(self, rung: str, image: Image) -> tuple[Image, dict[str, float]]:
        """The frame by that rung, and the milliseconds of its stages."""
        engine = self.engines[rung]
        if engine is not self._active:
            engine.state = self._active.state
            self._active = engine
        return engine.step(image), engine.stage_ms()

    def close(self) -> None:
        """Give back what its engines hold."""
        for engine in self.engines.values():
            engine.close()


Tell = Callable[[str], None]
MAX_POOLED = 2  # sizes: a source that changes to and fro finds both


class _Opening:
    """How far the making of some engines is."""

    def __init__(self) -> None:
        self._step, self._since = "opening", time.monotonic()

    def at(self, step: str) -> None:
        self._step = step

    def now(self) -> tuple[str, int]:
        return self._step, int(time.monotonic() - self._since)


class EnginePool:
    """The ladders of the sizes that were asked for.

    Args:
        open_ladder: Finds or builds the engines of a size, and tells the second argument what it is
            at; may take minutes.
        tell: Receives one line when engines are wanted, are there, or cannot be had.
    """

    def __init__(self, open_ladder: Callable[[Size, Tell], QualityLevels], *, tell: Tell) -> None:
        self._open, self._tell = open_ladder, tell
        self._ladders: dict[Size, QualityLevels] = {}
        self._failures: dict[Size, str] = {}
        self._opening: dict[Size, _Opening] = {}
        self._lock = threading.Lock()

    def put(self, ladder: QualityLevels) -> None:
        """A ladder that was opened already."""
        with self._lock:
            self._ladders[ladder.size] = ladder

    def get(self, size: Size) -> QualityLevels | None:
        """The engines of a size, or None: they are being opened then, or cannot be had."""
        with self._lock:
            if size in self._ladders:
                self._ladders[size] = self._ladders.pop(size)  # the last in use is the last to go
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
        """Give up on the engines of a size: they have failed while running."""
        with self._lock:
            ladder = self._ladders.pop(size, None)
            self._failures[size] = why
        self._tell(f"engines for {format_size(size)} failed, bicubic from now on: {why}")
        if ladder is not None:
            ladder.close()

    def note(self, size: Size) -> str:
        """What a viewer should know of the engines of a size; empty when they run."""
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
        """`size`, `step` and `seconds` of engines that are being made; None where none are."""
        with self._lock:
            if size not in self._opening:
                return None
            step, seconds = self._opening[size].now()
            return {"size": format_size(size), "step": step, "seconds": seconds}

    def close(self) -> bool:
        """Give back the engines; returns whether some are still being opened, in a thread."""
        with self._lock:
            ladders, self._ladders = list(self._ladders.values()), {}
            opening = bool(self._opening)
        for ladder in ladders:
            ladder.close()
        return opening

    def _fetch(self, size: Size) -> None:
        try:
            ladder = self._open(size, self._opening[size].at)
        except Exception as error:  # of this thread nobody else would hear
            told = isinstance(error, StreamDiffVSRError)
            with self._lock:
                self._opening.pop(size)
            self.fail(size, str(error) if told else f"{type(error).__name__}: {error}")
            return
        with self._lock:
            self._opening.pop(size)
            self._ladders[size] = ladder
            for old in list(self._ladders)[
                :-MAX_POOLED
            ]:  # not closed: it may be in a frame just now
                self._ladders.pop(old)
        self._tell(f"engines for {format_size(size)}: {ladder.described}")
