"""Finds the layer at which an engine's values start to diverge from a reference."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from polygraphy.backend.onnx import modify_outputs

from ..graphs.arrays import Array
from ..graphs.spec import GraphSpec, TensorSpec, onnx_file
from .host import current_gpu
from .manifest import EngineKey
from .parity import relative_error
from .registry import Backend, run_on

REAL = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One node of an ONNX graph.

    Attributes:
        index: Its place in the graph's order.
        name, op: Its name and operator, as the exporter wrote them.
        tensor: Its first output.
    """

    index: int
    name: str
    op: str
    tensor: TensorSpec

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """The operator and output shape, which match layers of two exports whose names differ."""
        return self.op, self.tensor.shape


class LayeredGraph:
    """An ONNX file as layers; its weights stay on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model = onnx.load(str(path), load_external_data=False)
        self.layers = list(self._find_layers())
        self._makers = {name: node for node in self._model.graph.node for name in node.output}

    def reaching(self, diverging: Collection[str], paired: Collection[str]) -> set[str]:
        """Returns the diverging tensors whose difference spreads unbroken to an output.

        A layer that was compared and does not diverge is a break: differences before it had no
        effect, such as the choice of a neighbour whose weight is 0. Layers that were not compared
        (integers, conversions) are no break.
        """
        reached: set[str] = set()
        seen: set[str] = set()
        waiting = [output.name for output in self._model.graph.output]
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self._makers:
                continue
            seen.add(name)
            if name in diverging:
                reached.add(name)
            elif name in paired:
                continue
            waiting.extend(self._makers[name].input)
        return reached

    def write_marked(self, layers: Sequence[Layer], path: Path) -> None:
        """Writes the graph with these layers as outputs; weights are read from `path`'s folder."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        values = {value.name for value in model.graph.value_info}
        model.graph.value_info.extend(o for o in model.graph.output if o.name not in values)
        marked = modify_outputs(model, outputs=[layer.tensor.name for layer in layers])
        path.write_bytes(marked.SerializeToString())

    def _find_layers(self) -> Iterator[Layer]:
        graph = self._model.graph
        types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output)}
        for index, node in enumerate(graph.node):
            found = types.get(node.output[0])
            if node.op_type == "Cast" or found is None or found.elem_type not in REAL:
                continue
            shape = tuple(int(dim.dim_value) for dim in found.shape.dim)
            tensor = TensorSpec(node.output[0], shape, REAL[found.elem_type])
            yield Layer(index, node.name, node.op_type, tensor)


def pair_layers(one: Sequence[Layer], other: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Returns the layers that two exports of one graph share, in order.

    They are matched by their sequence, because an extra conversion in one export changes the
    numbers in names.
    """
    kinds, others = [layer.kind for layer in one], [layer.kind for layer in other]
    if kinds == others:
        return list(zip(one, other, strict=True))
    blocks = difflib.SequenceMatcher(None, kinds, others, autojunk=False).get_matching_blocks()
    return [(one[b.a + i], other[b.b + i]) for b in blocks for i in range(b.size)]


AT_ONCE_BYTES = 2**29  # size of the layers that are read in one run
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Divergence:
    """A layer whose output differs from the reference's.

    Attributes:
        error: The parity gate's error; NaN if a value is not finite.
        place: Its number among the compared layers, from 1.
        count: How many layers were compared.
    """

    layer: Layer
    error: float
    place: int
    count: int

    @property
    def described(self) -> str:
        """The error in words."""
        return "not finite" if np.isnan(self.error) else f"error {self.error:.2g}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A graph on a backend, whose layers can be read.

    Attributes:
        path: Its ONNX file, with the weights in the same folder.
        spec: Its inputs and outputs.
        inputs: Input arrays by name; they are converted to the spec's dtypes.
        device: "cpu", "cuda" or "cuda:1".
    """

    backend: Backend
    key: EngineKey
    path: Path
    spec: GraphSpec
    inputs: Mapping[str, Array]
    device: str

    def read(self, graph: LayeredGraph, layers: Sequence[Layer]) -> list[Array]:
        """Returns the outputs of these layers.

        Raises:
            StreamDiffVSRError: The backend refused the graph; the message quotes it.
        """
        spec = replace(self.spec, outputs=tuple(layer.tensor for layer in layers))
        with tempfile.TemporaryDirectory(dir=self.path.parent) as name:
            folder = Path(name)
            graph.write_marked(layers, folder / onnx_file(spec.name))
            self._copy_weights(folder)
            return list(self._run(folder, spec).values())

    def outputs(self) -> dict[str, Array]:
        """Returns the outputs of the unchanged graph, by name."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as name:
            shutil.copyfile(self.path, Path(name) / self.path.name)
            self._copy_weights(Path(name))
            return self._run(Path(name), self.spec)

    def _copy_weights(self, folder: Path) -> None:
        for weights in self.path.parent.glob("*.data"):
            shutil.copyfile(weights, folder / weights.name)

    def _run(self, folder: Path, spec: GraphSpec) -> dict[str, Array]:
        if self.backend.compile is not None:
            with current_gpu(self.device):
                self.backend.compile(folder, spec, self.key, None, lambda fraction: None)
        engine = self.backend.open(folder, spec, self.device, None)
        inputs = {t.name: self.inputs[t.name].astype(t.dtype) for t in spec.inputs}
        outputs = {t.name: np.empty(t.shape, t.dtype) for t in spec.outputs}
        run_on(self.device)(engine, inputs, outputs)
        return outputs


def find_divergences(
    reference: Probe, tested: Probe, tolerance: float, progress: Progress = lambda _: None
) -> list[Divergence]:
    """Returns the layers of `tested` that differ by more than `tolerance`, in the graph's order.

    Only layers whose difference spreads to an output are listed: the others are harmless.

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
    """Yields the pairs in as few runs as their size allows, each with its first pair's index."""
    start, size = 0, 0
    for index, (one, _) in enumerate(pairs):
        if size and size + one.tensor.nbytes > AT_ONCE_BYTES:
            yield start, pairs[start:index]
            start, size = index, 0
        size += one.tensor.nbytes
    if start < len(pairs):
        yield start, pairs[start:]
