"""Engines that take a known time, and a GPU's twin on threads, to check the times reported.

Sleeping is their work: sleeps of several streams really overlap.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from streamdiffvsr.engines.cpu_device import CpuDevice
from streamdiffvsr.engines.interface import Bound, Buffer, HostBound
from streamdiffvsr.engines.manifest import Manifest
from streamdiffvsr.graphs.spec import Geometry, GraphSet, GraphSpec
from streamdiffvsr.runtime.upscaler import Upscaler
from streamdiffvsr.tests.runtime.simulated import DIMS, SIZE

MS = {
    "prepare": 2.0,
    "features": 6.0,
    "flow": 20.0,
    "guide": 4.0,
    "temporal": 10.0,
    "denoise": 8.0,
    "decode": 12.0,
}


class TwinOfAGpu(CpuDevice):
    """Threads for streams; the runtime takes it for a GPU and keeps frames in slots."""

    name = "cuda"


@dataclass(frozen=True)
class Taking:
    """An engine whose every run takes so long."""

    spec: GraphSpec
    ms: float

    def describe(self) -> GraphSpec:
        return self.spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        return HostBound(lambda: time.sleep(self.ms / 1e3))


def taking_upscaler(device: CpuDevice, tile: tuple[int, int] | None = None) -> Upscaler:
    """An Upscaler of such engines."""
    graphs = GraphSet(Geometry(SIZE, tile=tile), "fp32", DIMS, 4, "all-pairs", "0" * 64, {})
    key = SimpleNamespace(
        size="32x32", backend="stand-in", device=device.name, precision="fp32", steps=4, tile=""
    )
    manifest: Any = SimpleNamespace(graphs=graphs, key=key, model_name="stand-in")
    engines = {name: Taking(spec, MS[name]) for name, spec in graphs.specs().items()}
    return Upscaler(cast(Manifest, manifest), engines, device)
