"""`denoise` in fp8: its weighted layers multiply in eight bits, everything else stays as exported.

nvidia-modelopt finds the scales, by running the graph in ONNX Runtime on given inputs, and writes
them as pairs of QuantizeLinear and DequantizeLinear to e4m3, which TensorRT computes in fp8.
Quantised are the convolutions and the products with a weight matrix, one scale for each output
channel of a weight and one for each activation. Not quantised: attention's products, norms, sums,
the tables of steps and prompt, the DDIM update. Knows no backend and no clip.

NVIDIA: Model Optimizer, https://github.com/NVIDIA/Model-Optimizer (Apache-2.0).
Micikevicius et al.: FP8 Formats for Deep Learning (arXiv:2209.05433).
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

Inputs = Mapping[str, npt.NDArray[Any]]
OPERATORS = ("Conv", "Gemm", "MatMul")
QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
# e4m3 keeps three bits of a number over 15 octaves: a scale that is a few times too large costs
# next to nothing, and one that is too small cuts. So the largest value seen sets it.
METHOD = "max"


def weighted_layers(graph: onnx.GraphProto) -> list[str]:
    """The nodes of `OPERATORS` whose second operand is a weight: a constant filter or matrix.

    The prompt's keys and values are constants too, of more dimensions, and not weights.
    """
    sizes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in OPERATORS
        and (
            sizes.get(node.input[1], 0) == 2 or (node.op_type == "Conv" and node.input[1] in sizes)
        )
    ]


def quantise(
    path: Path, inputs: Sequence[Inputs], progress: Callable[[float], None] = lambda _: None
) -> None:
    """Replace an fp16 ONNX file, and the weights beside it, by its quantised form.

    Args:
        inputs: What the graph is given when it runs, by name, as often as it is calibrated.
        progress: Called with the fraction of the inputs that has been run.
    """
    with tempfile.TemporaryDirectory(prefix=".fp8-", dir=path.parent) as name:
        folder = Path(name)
        for part in (path, path.with_name(f"{path.name}.data")):
            if part.exists():
                os.replace(part, folder / part.name)  # the quantiser writes into what it reads
        source, made = folder / path.name, folder / "quantised.onnx"
        network = onnx.load(str(source), load_external_data=False)
        layers = weighted_layers(network.graph)
        with _temporary_files_in(folder):
            _run_modelopt(source, made, layers, _reader(inputs, progress))
        network = onnx.load(str(made), load_external_data=False)
        confine(network.graph, layers)
        _move(network, made, path)


def confine(graph: onnx.GraphProto, layers: Sequence[str]) -> None:
    """Give what is not quantised the tensors as they were: a quantiser replaces them for everyone.

    Args:
        layers: The names of the nodes that may take quantised tensors.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    original = {
        node.output[0]: made_by[node.input[0]].input[0]
        for node in graph.node
        if node.op_type == DEQUANTISE and node.input[0] in made_by
    }
    allowed = set(layers)
    for node in graph.node:
        if node.name not in allowed and node.op_type != DEQUANTISE:
            for index, name in enumerate(node.input):
                node.input[index] = original.get(name, name)


def _run_modelopt(source: Path, made: Path, layers: Sequence[str], reader: Any) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source),
        quantize_mode="fp8",
        calibration_method=METHOD,
        calibration_data_reader=reader,
        calibration_eps=["cpu"],
        op_types_to_quantize=list(OPERATORS),
        nodes_to_quantize=[f"^{re.escape(name)}$" for name in layers],
        high_precision_dtype="fp32",  # which means: cast nothing, the graph has its precisions
        use_external_data_format=True,
        output_path=str(made),
        log_level="CRITICAL",  # it calls it an error that there is no GPU
    )


def _reader(inputs: Sequence[Inputs], progress: Callable[[float], None]) -> Any:
    """The inputs as the quantiser takes them; its base is the library's, so it is made here."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # of a library without types
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> Inputs | None:
            progress(self._given / len(inputs))
            self._given += 1
            return inputs[self._given - 1] if self._given <= len(inputs) else None

        def get_first(self) -> Inputs:
            return inputs[0]

        def rewind(self) -> None:
            self._given = 0

    return Reader()


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Copies of gigabytes belong beside the graph, where there is room: /tmp may be in memory."""
    before, tempfile.tempdir = tempfile.tempdir, os.fspath(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _move(network: onnx.ModelProto, made: Path, path: Path) -> None:
    """Write the network to `path`, and put the weights of `made` beside it under the usual name."""
    data = path.with_name(f"{path.name}.data")
    for tensor in network.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data.name
    os.replace(made.with_name(f"{made.name}_data"), data)
    onnx.save_model(network, str(path))
