"""How long each graph of an engine set takes, measured around its calls on the host.

For engines that run on the host, where a call returns when its work is done. It knows nothing of
frames: whoever runs them takes the times in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..spec import GraphSpec
from .device import Stream
from .protocol import Bound, Buffer, Engine


class Listener(Protocol):
    """Who is told of every call."""

    def add(self, name: str, started: float, ended: float) -> None:
        """A graph was run, in seconds of `time.perf_counter`."""
        ...


class StageTimes:
    """Milliseconds by graph since they were last taken."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    def add(self, name: str, started: float, ended: float) -> None:
        """Count what one call has taken."""
        self._ms[name] = self._ms.get(name, 0.0) + 1000 * (ended - started)

    def take(self) -> dict[str, float]:
        """What was counted; the count begins anew."""
        taken, self._ms = self._ms, {}
        return taken


def timed(engines: Mapping[str, Engine], times: Listener) -> dict[str, Engine]:
    """The same engines, which tell `times` what their calls take."""
    return {name: _TimedEngine(engine, times) for name, engine in engines.items()}


@dataclass(frozen=True, slots=True)
class _TimedEngine:
    engine: Engine
    times: Listener

    def describe(self) -> GraphSpec:
        """See `Engine`."""
        return self.engine.describe()

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """See `Engine`."""
        name = self.engine.describe().name
        return _TimedBound(self.engine.bind(buffers), name, self.times)


@dataclass(frozen=True, slots=True)
class _TimedBound:
    bound: Bound
    name: str
    times: Listener

    def why_not_captured(self, stream: Stream) -> str:
        """See `Bound`."""
        return self.bound.why_not_captured(stream)

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `Bound`."""
        started = time.perf_counter()
        self.bound.enqueue(stream)
        self.times.add(self.name, started, time.perf_counter())
