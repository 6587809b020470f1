"""Where an engine begins to differ: its layers beside those of the float32 reference, one by one.

The reference is the same graph in float32 on ONNX Runtime's CPU provider. The engine is made and
run as any engine of its backend, with its layers as outputs, which leaves the backend less to fuse.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..graph_set import onnx_file
from ..spec import GraphSpec
from .backends import Backend
from .gate import relative_error
from .gpu import current_gpu
from .layers import Layer, LayeredGraph, pair_layers
from .manifest import EngineKey

Array = npt.NDArray[Any]
AT_ONCE_BYTES = 2**29  # of layers that are read in one run
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Divergence:
    """A layer whose output is not the reference's.

    Attributes:
        error: As the parity gate counts it; NaN where a value is not finite.
        place, count: Which of how many compared layers it is, from 1.
    """

    layer: Layer
    error: float
    place: int
    count: int

    @property
    def told(self) -> str:
        """The error in words."""
        return "not finite" if np.isnan(self.error) else f"error {self.error:.2g}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A graph on a backend, whose layers can be read.

    Attributes:
        path: Its ONNX file, weights beside it.
        spec: Its tensors.
        inputs: By name; they are converted to the spec's types.
        device: "cpu", "cuda" or "cuda:1".
    """

    backend: Backend
    key: EngineKey
    path: Path
    spec: GraphSpec
    inputs: Mapping[str, Array]
    device: str

    def read(self, graph: LayeredGraph, layers: Sequence[Layer]) -> list[Array]:
        """The outputs of these layers.

        Raises:
            StreamDiffVSRError: The backend refused the graph, in its own words.
        """
        spec = replace(self.spec, outputs=tuple(layer.tensor for layer in layers))
        with tempfile.TemporaryDirectory(dir=self.path.parent) as name:
            folder = Path(name)
            graph.write_marked(layers, folder / onnx_file(spec.name))
            weights = self.path.with_name(f"{self.path.name}.data")
            if weights.is_file():
                shutil.copyfile(weights, folder / weights.name)
            return list(self._run(folder, spec).values())

    def outputs(self) -> dict[str, Array]:
        """What the graph gives as it is."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as name:
            for path in self.path.parent.glob(f"{self.path.name}*"):
                shutil.copyfile(path, Path(name) / path.name)
            return self._run(Path(name), self.spec)

    def _run(self, folder: Path, spec: GraphSpec) -> dict[str, Array]:
        if self.backend.compile is not None:
            with current_gpu(self.device):
                self.backend.compile(folder, spec, self.key, None, lambda fraction: None)
        engine = self.backend.open(folder, spec, self.device, None)
        inputs = {t.name: self.inputs[t.name].astype(t.dtype) for t in spec.inputs}
        outputs = {t.name: np.empty(t.shape, t.dtype) for t in spec.outputs}
        self.backend.run(self.device)(engine, inputs, outputs)
        return outputs


def find_divergences(
    reference: Probe, tested: Probe, tolerance: float, progress: Progress = lambda _: None
) -> list[Divergence]:
    """The layers of `tested` that differ by more than `tolerance`, in the graph's order.

    Only those from which the difference spreads to an output: the others harm nobody.

    Args:
        progress: Called with one line before each run.
    """
    exact, graph = LayeredGraph(reference.path), LayeredGraph(tested.path)
    pairs = pair_layers(exact.layers, graph.layers)
    diverging: dict[str, Divergence] = {}
    for start, part in _parts(pairs):
        progress(f"compare layers {start + 1} to {start + len(part)} of {len(pairs)}")
        expected = reference.read(exact, [one for one, _ in part])
        found = tested.read(graph, [other for _, other in part])
        for offset, (value, wanted) in enumerate(zip(found, expected, strict=True)):
            error = relative_error(value, wanted)
            if not error <= tolerance:  # also catches NaN
                layer = part[offset][1]
                place = Divergence(layer, error, start + offset + 1, len(pairs))
                diverging[layer.tensor.name] = place
    paired = {other.tensor.name for _, other in pairs}
    harmful = graph.reaching(diverging.keys(), paired)
    return [found for name, found in diverging.items() if name in harmful]


def _parts(pairs: list[tuple[Layer, Layer]]) -> Iterator[tuple[int, list[tuple[Layer, Layer]]]]:
    """The pairs in as few runs as their size allows, each with the number of its first."""
    start, held = 0, 0
    for index, (one, _) in enumerate(pairs):
        if held and held + one.tensor.nbytes > AT_ONCE_BYTES:
            yield start, pairs[start:index]
            start, held = index, 0
        held += one.tensor.nbytes
    if start < len(pairs):
        yield start, pairs[start:]
