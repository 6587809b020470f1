"""Exports a graph to ONNX, merges duplicate initializers and counts the live activations."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from math import prod
from pathlib import Path

import onnx
import onnxscript.optimizer
import torch
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor
from polygraphy.backend.onnx import fold_constants as polygraphy_fold
from torch import nn

from ..graphs.onnx_network import activation_bytes, tidy
from ..graphs.spec import GraphSpec, onnx_file
from .graph_folder import Form, example_inputs, tracing

OPSET = 20
NO_LIMIT = 2**40  # folding may produce tensors of any size, such as transposed weights
SMALL_BYTES = 2**16  # tensors up to this size are stored in the network itself
MAX_ITEM_BYTES = 8


def export_graph(module: nn.Module, spec: GraphSpec, path: Path) -> None:
    """Writes one module as `path` and `path` + `.data`, with constants folded.

    Weights are written from torch's memory to the file one by one: a whole copy of them in protobuf
    would take gigabytes in each stage that it passes through.
    """
    with tracing():
        program = torch.onnx.export(
            module,
            example_inputs(spec),
            dynamo=True,
            opset_version=OPSET,
            input_names=[s.name for s in spec.inputs],
            output_names=[s.name for s in spec.outputs],
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # Not `optimize=True`: its rewriter is quadratic in the number of nodes (minutes for flow),
        # and the engines make its other optimizations themselves.
        onnxscript.optimizer.inline(program.model)
        onnxscript.optimizer.fold_constants(
            program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT
        )
        onnxscript.optimizer.remove_unused_nodes(program.model)
        program.save(str(path), external_data=True)
        del program
        fold_small_constants(path)


def fold_small_constants(path: Path) -> None:
    """Folds the remaining constants of a saved network and tidies it, reading only small tensors.

    Polygraphy runs the constant part in ONNX Runtime, which supports more operators than the
    exporter's own folding; the weights stay in their file.
    """
    network = onnx.load(str(path), load_external_data=False)
    for tensor in network.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external and prod(tensor.dims) * MAX_ITEM_BYTES <= SMALL_BYTES:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    folded = polygraphy_fold(network, size_threshold=SMALL_BYTES)
    tidy(folded)
    onnx.save_model(folded, str(path))
    if not any(t.data_location == onnx.TensorProto.EXTERNAL for t in folded.graph.initializer):
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def _write(module: nn.Module, spec: GraphSpec, folder: Path) -> int:
    path = folder / onnx_file(spec.name)
    export_graph(module, spec, path)
    return activation_bytes(path)


ONNX = Form(_write, ("torch", "onnx", "onnxscript", "polygraphy"), str(OPSET))
