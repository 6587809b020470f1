"""Counts the work of a graph: of each operator of an ONNX file, on tensors of known size.

Work is FLOPs, 2 for each multiply-add of a convolution or a matrix product, and the bytes that must
pass between memory and the processor:

- convolution, matrix product: inputs, weights and outputs;
- norm, softmax, pooling: inputs and outputs, no FLOPs;
- gather, grid sample: the indices, the part of the table that is read, and the output;
- attention (a softmax between two matrix products): query, key, value and output. The scores stay
  in the processor, as in a fused kernel;
- everything else (activations, sums, copies, reshapes, concatenations, resizing) is counted as
  fused with its neighbours, and costs nothing.

So this is a lower bound for every implementation of these operators, not an estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import StreamDiffVSRError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def read_network(path: Path) -> gs.Graph:
    """Reads an ONNX file; the data file next to it is not needed.

    Raises:
        StreamDiffVSRError: onnx is not installed, or the file is missing or is not ONNX.
    """
    try:
        import onnx
        import onnx_graphsurgeon as gs
    except ImportError as error:
        raise StreamDiffVSRError(
            "the work of a graph cannot be counted",
            f"{error.name} is not installed",
            "run pip install 'streamdiffvsr[export]'",
        ) from error
    try:
        model = onnx.load(str(path), load_external_data=False)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = gs.import_onnx(model)
    except OSError as error:
        raise StreamDiffVSRError(f"cannot read {path}", error.strerror or str(error)) from error
    except Exception as error:  # protobuf and onnx raise exceptions of their own
        raise StreamDiffVSRError(f"{path} is not an ONNX graph", str(error)) from error
    return graph


def shape_of(tensor: gs.Tensor) -> tuple[int, ...]:
    """Returns the shape of a tensor; raises `_UncountedError` unless it is static."""
    shape = tensor.shape
    if shape is None or not all(isinstance(side, int) for side in shape):
        raise _UncountedError(f"{tensor.name} has no static shape")
    return tuple(shape)


def bytes_of(*tensors: gs.Tensor) -> int:
    """Returns the bytes of these tensors together; absent ones, which have no name, have none."""
    return sum(
        prod(shape_of(tensor)) * np.dtype(tensor.dtype).itemsize
        for tensor in tensors
        if tensor.name
    )


class _UncountedError(Exception):
    """Raised for an operator that cannot be counted; says why, and what to do."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why, remedy)


CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("MatMul", "Gemm")
NORMS = (
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "BatchNormalization",
    "RMSNormalization",
    "Softmax",
)
POOLS = ("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")
GATHERS = ("Gather", "GatherElements", "GatherND", "GridSample")
KINDS = (
    dict.fromkeys(CONVOLUTIONS, "conv")
    | dict.fromkeys(PRODUCTS, "product")
    | dict.fromkeys(NORMS, "norm")
    | dict.fromkeys(POOLS, "pool")
    | dict.fromkeys(GATHERS, "gather")
)
ATTENTION = "attention"
# Arithmetic that this module cannot count: better no figure than one without it.
UNKNOWN = (
    *("Attention", "ConvInteger", "DeformConv", "DFT", "Einsum", "GRU", "LSTM", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "RNN", "STFT"),
)
TAPS = 4  # pixels that a bilinear sample reads


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one operator each time it runs.

    Attributes:
        kind: `conv`, `product`, `attention`, `norm`, `pool` or `gather`.
    """

    kind: str
    flops: int
    nbytes: int


def node_work(node: gs.Node) -> Work | None:
    """Returns the work of an operator by itself; None if it counts as fused."""
    if node.op in UNKNOWN:
        why = f"the operator {node.op} is not known"
        raise _UncountedError(why, "rebuild the engines with this version")
    kind = KINDS.get(node.op)
    if kind is None:
        return None
    if kind == "gather":
        return Work(kind, 0, _gather_bytes(node))
    flops = _FLOPS[kind](node) if kind in _FLOPS else 0
    return Work(kind, flops, bytes_of(*node.inputs, *node.outputs))


def _conv_flops(node: gs.Node) -> int:
    kernel = shape_of(node.inputs[1])
    # A kernel is (out, in / groups, ...), or if transposed (in, out / groups, ...). Either way each
    # element of the tensor with its first dimension is multiplied with all of the rest.
    counted = node.outputs[0] if node.op == "Conv" else node.inputs[0]
    return 2 * prod(shape_of(counted)) * prod(kernel[1:])


def _product_flops(node: gs.Node) -> int:
    first = shape_of(node.inputs[0])
    inner = first[0] if node.attrs.get("transA") else first[-1]
    return 2 * prod(shape_of(node.outputs[0])) * inner


_FLOPS = {"conv": _conv_flops, "product": _product_flops}


def _gather_bytes(node: gs.Node) -> int:
    table, index = (bytes_of(tensor) for tensor in node.inputs[:2])
    output = bytes_of(node.outputs[0])
    return index + min(table, output * (TAPS if node.op == "GridSample" else 1)) + output


# Operators that may lie between the products and the softmax: scales, masks, conversions.
BETWEEN = ("Add", "Cast", "Div", "Identity", "Mul", "Reshape")


def find_attention(graph: gs.Graph) -> Iterator[tuple[set[int], Work]]:
    """Yields the ids of the operators of each attention, and its work.

    An attention is a softmax between two matrix products of the same graph.
    """
    ours = {id(node) for node in graph.nodes}
    for node in graph.nodes:
        if node.op == "Softmax":
            scores, mix = _scores(node.inputs[0], ours), _mix(node.outputs[0], ours)
            if scores is not None and mix is not None:
                flops = _product_flops(scores) + _product_flops(mix)
                nbytes = bytes_of(*scores.inputs, mix.inputs[1], *mix.outputs)
                yield {id(scores), id(node), id(mix)}, Work(ATTENTION, flops, nbytes)


def _scores(tensor: gs.Tensor, ours: set[int]) -> gs.Node | None:
    """Returns the product whose result, scaled, is this tensor; or None."""
    waiting = [tensor]
    while waiting:
        for node in waiting.pop().inputs:
            if node.op == "MatMul" and id(node) in ours:
                return node
            if node.op in BETWEEN and id(node) in ours:
                waiting.extend(node.inputs)
    return None


def _mix(tensor: gs.Tensor, ours: set[int]) -> gs.Node | None:
    """Returns the product that takes this tensor as its weights; or None."""
    node = next((node for node in tensor.outputs if id(node) in ours), None)
    if node is None or node.op == "MatMul":
        return node
    return _mix(node.outputs[0], ours) if node.op in BETWEEN else None


@dataclass(frozen=True, slots=True)
class GraphWork:
    """The work of one run of a graph.

    Attributes:
        operators: The number of times that each distinct piece of work is done in one run.
    """

    operators: Mapping[Work, int]

    @property
    def flops(self) -> int:
        """The FLOPs of one run."""
        return sum(work.flops * count for work, count in self.operators.items())

    @property
    def nbytes(self) -> int:
        """The bytes of one run."""
        return sum(work.nbytes * count for work, count in self.operators.items())

    def by_kind(self) -> dict[str, tuple[int, int, int]]:
        """Returns (operators, FLOPs, bytes) of one run by kind of operator, most FLOPs first."""
        totals: dict[str, tuple[int, int, int]] = {}
        for work, count in self.operators.items():
            n, flops, nbytes = totals.get(work.kind, (0, 0, 0))
            totals[work.kind] = (
                n + count,
                flops + count * work.flops,
                nbytes + count * work.nbytes,
            )
        return dict(sorted(totals.items(), key=lambda item: -item[1][1]))

    def to_json(self) -> dict[str, list[list[int]]]:
        """Returns lists of [FLOPs, bytes, count] by kind, most FLOPs first, for `from_json`."""
        listed: dict[str, list[list[int]]] = {}
        for work, count in self.operators.items():
            listed.setdefault(work.kind, []).append([work.flops, work.nbytes, count])
        return {kind: sorted(rows, reverse=True) for kind, rows in sorted(listed.items())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GraphWork:
        """Returns the work that `to_json` wrote; raises TypeError or ValueError on other data."""
        return cls(
            {
                Work(kind, int(flops), int(nbytes)): int(count)
                for kind, rows in data.items()
                for flops, nbytes, count in rows
            }
        )


def count_file(path: Path) -> GraphWork:
    """Returns the work of one run of an ONNX file.

    Raises:
        StreamDiffVSRError: onnx is not installed, the file cannot be read, or an operator in it
            cannot be counted.
    """
    operators: Counter[Work] = Counter()
    try:
        for work, count in _graph_work(read_network(path), 1):
            operators[work] += count
    except _UncountedError as error:
        what = f"the work of {path.name} cannot be counted"
        raise StreamDiffVSRError(what, *error.args) from error
    return GraphWork(dict(operators))


def _graph_work(graph: gs.Graph, runs: int) -> Iterator[tuple[Work, int]]:
    within: set[int] = set()
    for nodes, work in find_attention(graph):
        within |= nodes
        yield work, runs
    for node in graph.nodes:
        if bodies := list(node.subgraphs()):
            yield from _body_work(node, bodies, runs)
        elif id(node) not in within and (found := node_work(node)) is not None:
            yield found, runs


def _body_work(node: gs.Node, bodies: list[gs.Graph], runs: int) -> Iterator[tuple[Work, int]]:
    """Yields the work inside an operator: all turns of a loop, or the heavier branch of an If."""
    if node.op == "If":
        branches = [list(_graph_work(body, runs)) for body in bodies]
        yield from max(branches, key=lambda works: sum(w.flops * n for w, n in works))
        return
    yield from _graph_work(bodies[0], runs * _turns(node))


def _turns(node: gs.Node) -> int:
    count = node.inputs[0]
    if node.op == "Loop" and hasattr(count, "values"):  # a constant
        return int(count.values.item())
    if node.op == "Scan":
        return shape_of(node.inputs[len(node.inputs) - int(node.attrs["num_scan_inputs"])])[0]
    raise _UncountedError(f"how often its {node.op} runs is known only while it runs")
