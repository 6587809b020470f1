"""A graph of one matrix product, to measure rates with, and samples of repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ...engines.interface import HostArray
from ...errors import StreamDiffVSRError
from ...graphs.spec import FLOAT, GraphSpec, Precision, TensorSpec

OPSET = 20
IR_VERSION = 10  # of that opset; the newest of onnx may be too new for engines


def product_spec(side: int, precision: Precision) -> GraphSpec:
    """Returns the spec of `product` = `a` @ `b`, all (side, side)."""
    a, b, product = (
        TensorSpec(name, (side, side), FLOAT[precision]) for name in ("a", "b", "product")
    )
    return GraphSpec("product", (a, b), (product,))


def product_arrays(side: int, precision: Precision) -> dict[str, HostArray]:
    """Returns random tensors by name: with zeros, a GPU needs less power and runs too fast."""
    random = np.random.default_rng(0)
    dtype = FLOAT[precision]
    return {
        name: random.standard_normal((side, side), np.float32).astype(dtype)
        for name in ("a", "b", "product")
    }


def write_product(folder: Path, side: int, precision: Precision) -> Path:
    """Writes the graph as ONNX, and returns its path.

    Raises:
        StreamDiffVSRError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError as error:
        raise StreamDiffVSRError(
            "onnx is not installed", remedy="run pip install 'streamdiffvsr[export]'"
        ) from error
    spec = product_spec(side, precision)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(FLOAT[precision]))
    values = {t.name: helper.make_tensor_value_info(t.name, kind, t.shape) for t in spec.inputs}
    product = helper.make_tensor_value_info("product", kind, spec.outputs[0].shape)
    node = helper.make_node("MatMul", ["a", "b"], ["product"])
    graph = helper.make_graph([node], "product", [*values.values()], [product])
    opsets = [helper.make_opsetid("", OPSET)]
    path = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), str(path))
    return path


@dataclass(frozen=True, slots=True)
class Sample:
    """The repetitions of one measurement, in its unit.

    Attributes:
        how: How it was measured, for the reader of the result.
    """

    values: tuple[float, ...]
    how: str

    @property
    def best(self) -> float:
        """The largest value."""
        return max(self.values)

    @property
    def spread(self) -> float:
        """The distance of the median below the best, as a share of the best."""
        return 1 - median(self.values) / self.best


def sample(seconds: Sequence[float], amount: float, how: str) -> Sample:
    """Returns the rates of an amount (in 1e9 operations or bytes) done in each of these times."""
    return Sample(tuple(amount / s for s in seconds), how)
