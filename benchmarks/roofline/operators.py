"""What an operator has to do at least: floating-point operations and bytes of memory.

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

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from ...errors import StreamDiffVSRError
from .network import Network, Node

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
