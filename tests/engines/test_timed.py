"""Stage times: what each graph takes, counted around its calls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from streamdiffvsr.engines.interface import StageTimes, timed
from streamdiffvsr.graphs.spec import GraphSpec


@dataclass
class Busy:
    """An engine, bound to anything, whose call takes so long."""

    name: str
    seconds: float
    calls: int = 0

    def describe(self) -> GraphSpec:
        return GraphSpec(self.name, (), ())

    def bind(self, buffers: Any) -> Any:
        return self

    def why_not_captured(self, stream: Any) -> str:
        return ""

    def enqueue(self, stream: Any = None) -> None:
        self.calls += 1
        until = time.perf_counter() + self.seconds
        while time.perf_counter() < until:
            pass


def test_calls_add_up_by_graph_until_they_are_taken() -> None:
    times, denoise = StageTimes(), Busy("denoise", 0.01)
    engines = timed({"denoise": denoise, "decode": Busy("decode", 0.005)}, times)
    for _ in range(4):
        engines["denoise"].bind({}).enqueue()
    engines["decode"].bind({}).enqueue()
    taken = times.take()
    assert set(taken) == {"denoise", "decode"} and denoise.calls == 4
    assert taken["denoise"] >= 40 and taken["decode"] >= 5
    assert times.take() == {}
    assert engines["denoise"].describe().name == "denoise"
