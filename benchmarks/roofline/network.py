"""An ONNX file as operators on tensors of known size. Weights stay on the disk.

Sizes come from onnx's shape inference; every graph here is static. Knows nothing of work.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """Read an ONNX file; the data file beside it is not needed.

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
