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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StreamDiffVSRError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Tensor:
    """The shape and element size of a value."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the dense tensor."""
        return self.size * self.itemsize


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        inputs, outputs: Names of values; "" is an optional input that is absent.
        attributes: The numbers, lists and strings by name; graphs are in `bodies`.
        bodies: The graphs inside the operator (Loop, Scan, If) by attribute.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    bodies: Mapping[str, Network] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """The operators of a graph, in order.

    Attributes:
        tensors: The tensors by name, including those outside a body.
        numbers: The constant single integers by name, such as how often a loop runs.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, int]

    def tensor(self, name: str) -> Tensor:
        """Returns the tensor of a value.

        Raises:
            StreamDiffVSRError: Its shape is not static.
        """
        try:
            return self.tensors[name]
        except KeyError:
            raise StreamDiffVSRError(
                f"the work of {self.name} cannot be counted", f"{name} has no static shape"
            ) from None


def read_network(path: Path) -> Network:
    """Reads an ONNX file; the data file next to it is not needed.

    Raises:
        StreamDiffVSRError: onnx is not installed, or the file is missing or is not ONNX.
    """
    try:
        import onnx
    except ImportError as error:
        raise StreamDiffVSRError(
            "the work of a graph cannot be counted",
            "onnx is not installed",
            "run pip install 'streamdiffvsr[export]'",
        ) from error
    try:
        model = onnx.load(str(path), load_external_data=False)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except OSError as error:
        raise StreamDiffVSRError(f"cannot read {path}", error.strerror or str(error)) from error
    except Exception as error:  # protobuf and onnx raise exceptions of their own
        raise StreamDiffVSRError(f"{path} is not an ONNX graph", str(error)) from error
    return _network(path.name, model.graph, {}, {})


def _network(
    name: str, graph: onnx.GraphProto, outer: Mapping[str, Tensor], outer_numbers: Mapping[str, int]
) -> Network:
    import onnx

    tensors, numbers = dict(outer), dict(outer_numbers)
    for value in (*graph.input, *graph.value_info, *graph.output):
        if (tensor := _tensor(value)) is not None:
            tensors[value.name] = tensor
    for weight in graph.initializer:
        tensors[weight.name] = Tensor(tuple(weight.dims), _itemsize(weight.data_type))
        inside = weight.data_location != onnx.TensorProto.EXTERNAL
        if inside and prod(weight.dims) == 1 and weight.data_type == onnx.TensorProto.INT64:
            numbers[weight.name] = int(onnx.numpy_helper.to_array(weight).reshape(()))
    nodes = []
    for proto in graph.node:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        bodies = {
            key: _network(f"{name}/{proto.name}", value, tensors, numbers)
            for key, value in given.items()
            if isinstance(value, onnx.GraphProto)
        }
        plain = {key: value for key, value in given.items() if key not in bodies}
        nodes.append(Node(proto.op_type, tuple(proto.input), tuple(proto.output), plain, bodies))
    return Network(name, tuple(nodes), tensors, numbers)


def _tensor(value: onnx.ValueInfoProto) -> Tensor | None:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return Tensor(tuple(dim.dim_value for dim in kind.shape.dim), _itemsize(kind.elem_type))


def _itemsize(kind: int) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


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


def node_work(network: Network, node: Node) -> Work | None:
    """Returns the work of an operator by itself; None if it counts as fused.

    Raises:
        StreamDiffVSRError: The operator cannot be counted, or has no static shape.
    """
    if node.op in UNKNOWN:
        raise StreamDiffVSRError(
            f"the work of {network.name} cannot be counted",
            f"the operator {node.op} is not known",
            "rebuild the engines with this version",
        )
    kind = KINDS.get(node.op)
    if kind is None:
        return None
    if kind == "gather":
        return Work(kind, 0, _gather_bytes(network, node))
    flops = _FLOPS[kind](network, node) if kind in _FLOPS else 0
    return Work(kind, flops, bytes_of(network, (*node.inputs, *node.outputs)))


def bytes_of(network: Network, names: Iterable[str]) -> int:
    """Returns the bytes of these values together; absent ones have none."""
    return sum(network.tensor(name).nbytes for name in names if name)


def _conv_flops(network: Network, node: Node) -> int:
    kernel = network.tensor(node.inputs[1]).shape
    # A kernel is (out, in / groups, ...), or if transposed (in, out / groups, ...). Either way each
    # element of the tensor with its first dimension is multiplied with all of the rest.
    counted = node.outputs[0] if node.op == "Conv" else node.inputs[0]
    return 2 * network.tensor(counted).size * prod(kernel[1:])


def _product_flops(network: Network, node: Node) -> int:
    first = network.tensor(node.inputs[0]).shape
    inner = first[0] if node.attributes.get("transA") else first[-1]
    return 2 * network.tensor(node.outputs[0]).size * inner


_FLOPS = {"conv": _conv_flops, "product": _product_flops}


def _gather_bytes(network: Network, node: Node) -> int:
    table, index = (network.tensor(name) for name in node.inputs[:2])
    output = network.tensor(node.outputs[0])
    reads = output.nbytes * (TAPS if node.op == "GridSample" else 1)
    return index.nbytes + min(table.nbytes, reads) + output.nbytes


# Operators that may lie between the products and the softmax: scales, masks, conversions.
BETWEEN = ("Add", "Cast", "Div", "Identity", "Mul", "Reshape")


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention: the indices of its operators in the graph, and its work."""

    nodes: tuple[int, int, int]
    work: Work


def find_attention(network: Network) -> list[Attention]:
    """Returns the attentions: each softmax between two matrix products of the graph."""
    makers = {name: i for i, node in enumerate(network.nodes) for name in node.outputs}
    takers: dict[str, list[int]] = {}
    for i, node in enumerate(network.nodes):
        for name in node.inputs:
            takers.setdefault(name, []).append(i)
    found = []
    for i, node in enumerate(network.nodes):
        if node.op != "Softmax":
            continue
        scores = _scores(network, makers, node.inputs[0])
        mix = _mix(network, takers, node.outputs[0])
        if scores is not None and mix is not None:
            found.append(Attention((scores, i, mix), _work(network, scores, mix)))
    return found


def _scores(network: Network, makers: Mapping[str, int], name: str) -> int | None:
    """Returns the index of the product whose result, scaled, is this value; or None."""
    waiting = [name]
    while waiting:
        index = makers.get(waiting.pop())
        if index is None:
            continue
        node = network.nodes[index]
        if node.op == "MatMul":
            return index
        if node.op in BETWEEN:
            waiting.extend(node.inputs)
    return None


def _mix(network: Network, takers: Mapping[str, list[int]], name: str) -> int | None:
    """Returns the index of the product that takes this value as its weights; or None."""
    index = next(iter(takers.get(name, [])), None)
    if index is None:
        return None
    node = network.nodes[index]
    if node.op == "MatMul":
        return index
    return _mix(network, takers, node.outputs[0]) if node.op in BETWEEN else None


def _work(network: Network, scores: int, mix: int) -> Work:
    first, last = network.nodes[scores], network.nodes[mix]
    flops = sum(_flops(network, node) for node in (first, last))
    names = (*first.inputs, last.inputs[1], *last.outputs)
    return Work(ATTENTION, flops, bytes_of(network, names))


def _flops(network: Network, node: Node) -> int:
    work = node_work(network, node)
    assert work is not None  # a matrix product
    return work.flops


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
    for work, count in _network_work(read_network(path), 1):
        operators[work] += count
    return GraphWork(dict(operators))


def _network_work(network: Network, runs: int) -> Iterator[tuple[Work, int]]:
    attentions = find_attention(network)
    within = {index for attention in attentions for index in attention.nodes}
    for attention in attentions:
        yield attention.work, runs
    for index, node in enumerate(network.nodes):
        if node.bodies:
            yield from _body_work(network, node, runs)
        elif index not in within and (work := node_work(network, node)) is not None:
            yield work, runs


def _body_work(network: Network, node: Node, runs: int) -> Iterator[tuple[Work, int]]:
    """Yields the work inside an operator: all turns of a loop, or the heavier branch of an If."""
    if node.op == "If":
        branches = [list(_network_work(body, runs)) for body in node.bodies.values()]
        yield from max(branches, key=lambda works: sum(w.flops * n for w, n in works))
        return
    yield from _network_work(node.bodies["body"], runs * _turns(network, node))


def _turns(network: Network, node: Node) -> int:
    if node.op == "Loop" and node.inputs[0] in network.numbers:
        return network.numbers[node.inputs[0]]
    if node.op == "Scan":
        first_scanned = len(node.inputs) - int(node.attributes["num_scan_inputs"])
        return network.tensor(node.inputs[first_scanned]).shape[0]
    raise StreamDiffVSRError(
        f"the work of {network.name} cannot be counted",
        f"how often its {node.op} runs is known only while it runs",
    )
