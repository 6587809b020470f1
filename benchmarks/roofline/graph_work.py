"""The work of a graph: an ONNX file as operators on tensors of known size, and what each has to do.

The rule. Work is FLOPs, 2 for each multiply-add of a convolution or a matrix product, and bytes,
what must pass between memory and the processor:

- convolution, matrix product: inputs, weights and outputs;
- norm, softmax, pooling: inputs and outputs, no FLOPs;
- gather, grid sample: the indices, what is read of the table (no more than the table), the output;
- attention (a softmax between two matrix products): query, key, value and output. The scores stay
  in the processor, as in a fused kernel;
- everything else (activations, sums, copies, reshapes, concatenations, resizing) is counted as
  fused with its neighbours, and costs nothing.

So this is a lower limit of what any implementation of these operators costs, not an estimate.
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
    """What is known of a value without its content."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.size * self.itemsize


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        inputs, outputs: Names of values; an absent optional input is an empty text.
        attributes: Numbers, lists and texts; graphs are in `bodies`.
        bodies: Graphs inside the operator (Loop, Scan, If), by attribute.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    bodies: Mapping[str, Network] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """The operators of a graph in its order.

    Attributes:
        tensors: By name, those around a body included.
        numbers: Single integers that are constant, by name: how often a loop runs.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, int]

    def tensor(self, name: str) -> Tensor:
        """A value of known shape.

        Raises:
            StreamDiffVSRError: Its shape depends on what flows through the graph.
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
        StreamDiffVSRError: onnx is not installed, or the file is missing or no ONNX.
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
    except Exception as error:  # protobuf and onnx raise kinds of their own
        raise StreamDiffVSRError(f"{path} is not an ONNX graph", str(error)) from error
    return _network(path.name, model.graph, {}, {})


def _network(
    name: str,
    graph: onnx.GraphProto,
    outer: Mapping[str, Tensor],
    outer_numbers: Mapping[str, int],
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
# Arithmetic that this module does not know: better no figure than one without it.
UNKNOWN = (
    *("Attention", "ConvInteger", "DeformConv", "DFT", "Einsum", "GRU", "LSTM", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "RNN", "STFT"),
)
TAPS = 4  # that a bilinear sample reads


@dataclass(frozen=True, slots=True)
class Work:
    """What one operator does each time it runs.

    Attributes:
        kind: `conv`, `product`, `attention`, `norm`, `pool` or `gather`.
    """

    kind: str
    flops: int
    nbytes: int


def node_work(network: Network, node: Node) -> Work | None:
    """The work of an operator by itself, None for one that counts as fused.

    Raises:
        StreamDiffVSRError: It is arithmetic that is not known here, or has no static shape.
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
    """Bytes of these values together; absent ones have none."""
    return sum(network.tensor(name).nbytes for name in names if name)


def _conv_flops(network: Network, node: Node) -> int:
    kernel = network.tensor(node.inputs[1]).shape
    # A kernel is (out, in / groups, ...), of a transposed one (in, out / groups, ...): either way
    # each position of its first dimension's tensor meets all the rest of it.
    met = node.outputs[0] if node.op == "Conv" else node.inputs[0]
    return 2 * network.tensor(met).size * prod(kernel[1:])


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


# What may lie between the products and the softmax: scales, masks, conversions.
BETWEEN = ("Add", "Cast", "Div", "Identity", "Mul", "Reshape")


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention: its operators by their place in the graph's order, and its work."""

    nodes: tuple[int, int, int]
    work: Work


def find_attention(network: Network) -> list[Attention]:
    """Every softmax that stands between two matrix products of one graph."""
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
    """The product whose result, scaled, is this value."""
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
    """The product that takes this value as its weights."""
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
    """What one run of a graph does.

    Attributes:
        operators: How often each distinct piece of work is done in one run.
    """

    operators: Mapping[Work, int]

    @property
    def flops(self) -> int:
        """Of one run."""
        return sum(work.flops * count for work, count in self.operators.items())

    @property
    def nbytes(self) -> int:
        """Of one run."""
        return sum(work.nbytes * count for work, count in self.operators.items())

    def by_kind(self) -> dict[str, tuple[int, int, int]]:
        """Kind of operator -> (operators, FLOPs, bytes) of one run, the most FLOPs first."""
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
        """Kind -> lists of [FLOPs, bytes, count], most FLOPs first; `from_json` reads it back."""
        listed: dict[str, list[list[int]]] = {}
        for work, count in self.operators.items():
            listed.setdefault(work.kind, []).append([work.flops, work.nbytes, count])
        return {kind: sorted(rows, reverse=True) for kind, rows in sorted(listed.items())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GraphWork:
        """The inverse of `to_json`; raises TypeError or ValueError on anything else."""
        return cls(
            {
                Work(kind, int(flops), int(nbytes)): int(count)
                for kind, rows in data.items()
                for flops, nbytes, count in rows
            }
        )


def count_file(path: Path) -> GraphWork:
    """The work of one run of an ONNX file, by the rule of `operators.py`.

    Raises:
        StreamDiffVSRError: onnx is not installed, the file cannot be read, or something in it
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
    """Of the graph inside an operator: each turn of a loop, the heavier branch of a choice."""
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
        f"how often its {node.op} runs is only known when it does",
    )
