"""The layers of an ONNX graph: what they are, which of two exports is which, and reading them.

A layer is a node by its first output, where that is a real number. Conversions do not count: they
are what two precisions of one graph differ by. Needs onnx, of the export extra, and no backend.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from polygraphy.backend.onnx import modify_outputs

from ..spec import TensorSpec

REAL = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One node.

    Attributes:
        index: Its place in the graph's order.
        name, op: As the exporter wrote them.
        tensor: Its first output.
    """

    index: int
    name: str
    op: str
    tensor: TensorSpec

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """What tells layers of two exports apart, when their names do not agree."""
        return self.op, self.tensor.shape


class LayeredGraph:
    """An ONNX file as layers; its weights stay on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model = onnx.load(str(path), load_external_data=False)
        self.layers = list(self._find_layers())
        self._makers = {name: node for node in self._model.graph.node for name in node.output}

    def reaching(self, diverging: Collection[str], paired: Collection[str]) -> set[str]:
        """Of tensors that diverge, those from which it spreads without a break to an output.

        A layer that was compared and does not diverge is a break: what came before was without
        consequence, such as the choice of a neighbour whose weight is 0. What was not compared
        (whole numbers, conversions) lets it pass.
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
        """Write the graph with these layers as its outputs; its weights are expected beside it."""
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
    """The layers that two exports of one graph share, in order.

    By their sequence, as a conversion more in one of them moves the numbers in names.
    """
    kinds, others = [layer.kind for layer in one], [layer.kind for layer in other]
    if kinds == others:
        return list(zip(one, other, strict=True))
    blocks = difflib.SequenceMatcher(None, kinds, others, autojunk=False).get_matching_blocks()
    return [(one[b.a + i], other[b.b + i]) for b in blocks for i in range(b.size)]
