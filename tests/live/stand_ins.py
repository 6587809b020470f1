"""Sources, sinks and engines of known behaviour, for tests of what lies between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.live.engine_pool import QualityLevels
from streamdiffvsr.runtime.live.frame import LiveFrame, OutputFrame
from streamdiffvsr.runtime.state import StreamState

SIZE = (48, 64)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(h, w, 3) uint8: broad blots, another scene for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    rows = np.arange(size[0]) * 6 // size[0]
    return np.ascontiguousarray(coarse[rows][:, np.arange(size[1]) * 8 // size[1]])


@dataclass
class ListedSource:
    """Frames one after another, each as new as can be."""

    frames: list[LiveFrame]
    given: int = 0

    def newest(self, timeout_s: float) -> LiveFrame | None:
        if self.given == len(self.frames):
            raise EOFError
        self.given += 1
        return self.frames[self.given - 1]

    def status(self) -> dict[str, Any]:
        return {"state": "playing", "dropped": 0, "reconnects": 0, "fps": 30.0, "error": ""}

    def close(self) -> None:
        self.given = len(self.frames)


@dataclass
class PacedSource:
    """A camera of so many frames a second: the newest is given, the others are dropped."""

    fps: float
    started: float = field(default_factory=time.monotonic)
    last: int = -1
    dropped: int = 0

    def newest(self, timeout_s: float) -> LiveFrame | None:
        until = time.monotonic() + timeout_s
        while True:
            index = int((time.monotonic() - self.started) * self.fps)
            if index > self.last:
                break
            if time.monotonic() > until:
                return None
            time.sleep(0.001)
        self.dropped += index - self.last - 1
        self.last = index
        captured = self.started + index / self.fps
        return LiveFrame(picture(), index / self.fps, captured, 0, index)

    def status(self) -> dict[str, Any]:
        return {
            "state": "playing",
            "dropped": self.dropped,
            "reconnects": 0,
            "fps": self.fps,
            "error": "",
        }

    def close(self) -> None:
        """Nothing to stop."""


@dataclass
class KeepingSink:
    """Keeps what it is offered."""

    name: str = "kept"
    frames: list[OutputFrame] = field(default_factory=list)
    state: str = "open"
    closed: bool = False

    def offer(self, frame: OutputFrame) -> None:
        self.frames.append(frame)

    def status(self) -> dict[str, Any]:
        return {"name": self.name, "state": self.state, "written": len(self.frames), "error": "no"}

    def close(self, deadline_s: float) -> None:
        self.closed = True


@dataclass
class PassThrough:
    """Stands in for a `Session`: repeats pixels, takes its time, notes what was guided."""

    cost_s: Callable[[], float] = lambda: 0.0
    size: tuple[int, int] = SIZE
    state: StreamState = field(default_factory=StreamState)
    guided: list[bool] = field(default_factory=list)
    breaks: bool = False
    closed: bool = False

    def step(self, image: np.ndarray) -> np.ndarray:
        if self.breaks:
            raise StreamDiffVSRError("the engine failed", "on purpose")
        time.sleep(self.cost_s())  # the work that it stands in for
        self.guided.append(self.state.has_previous)
        height, width = image.shape[:2]
        hr = np.zeros((1, 3, 4 * height, 4 * width), np.float32)
        self.state = StreamState(self.state.seed, self.state.frame_index + 1, hr, image.copy())
        return image.repeat(4, axis=0).repeat(4, axis=1)

    def stage_ms(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.closed = True


def ladder(**engines: PassThrough) -> QualityLevels:
    """Rungs by name; underlines are spaces."""
    named = {name.replace("_", " "): engine for name, engine in engines.items()}
    return QualityLevels(named, seed=0, described="stand-ins")  # type: ignore[arg-type]
