"""Export of the seven graphs to ONNX: static shapes, named tensors, weights in external data.

The dynamo exporter at opset 20, which TensorRT 10.13, TensorRT-RTX and ONNX Runtime all take.
Knows no backend: whether a graph computes the right thing is for the engines' parity gate to find,
on the tensors that are recorded here.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from math import prod
from pathlib import Path

import onnx
import onnxscript.optimizer
import torch
from onnx.external_data_helper import load_external_data_for_tensor
from polygraphy.backend.onnx import fold_constants as polygraphy_fold
from torch import nn

from ..graph_set import GraphSet, onnx_file
from ..schedule import step_table
from ..spec import GRAPHS, Geometry, GraphSpec, ModelDims, Precision
from .correlation import AllPairs, OnDemand
from .golden import TORCH, record_golden
from .graphs import build_graphs
from .model import Model
from .raft import MakeCorrelation

OPSET = 20
NO_LIMIT = 2**40  # folding may produce tensors of any size: transposed weights are some
SMALL_BYTES = 2**16  # tensors up to this size lie in the network itself
MAX_ITEM_BYTES = 8
CORRELATIONS: dict[str, MakeCorrelation] = {"all-pairs": AllPairs, "on-demand": OnDemand}
Progress = Callable[[str], None]


def model_dims(model: Model) -> ModelDims:
    """What the graphs' shapes need to know of a model."""
    configs = model.configs
    blocks = configs.vae.num_decoder_blocks
    scales = [2**stage for stage, count in enumerate(blocks) for _ in range(count)]
    return ModelDims(
        latent=configs.vae.latent_channels,
        hint=configs.controlnet.block_out_channels[0],
        fmap=configs.flow.feature_encoder_layers[-1],
        context=configs.flow.context_encoder_layers[-1],
        temporal=tuple((configs.vae.width, scale) for scale in scales),
    )


def export_graphs(
    model: Model,
    folder: Path,
    *,
    geometry: Geometry,
    precision: Precision = "fp32",
    steps: int = 4,
    correlation: str = "all-pairs",
    progress: Progress = lambda _: None,
) -> GraphSet:
    """Write every graph, its recorded tensors and `graphs.json` into an existing empty folder.

    Args:
        progress: Called with the name of each part before it is made.
    """
    table = step_table(model.configs.scheduler, steps)
    make = CORRELATIONS[correlation]
    packages = ("torch", "onnx", "onnxscript", "polygraphy")
    graph_set = GraphSet(
        geometry=geometry,
        precision=precision,
        dims=model_dims(model),
        steps=steps,
        correlation=correlation,
        model_digest=model.digest,
        exporter={name: version(name) for name in packages} | {"opset": str(OPSET)},
    )
    specs = graph_set.specs()
    progress("reference")
    exact = build_graphs(model, geometry, "fp32", table, make)
    record_golden(exact, specs, folder)
    graphs = exact
    if precision != "fp32":
        del exact  # the float32 copy is only needed for the recording
        graphs = build_graphs(model, geometry, precision, table, make)
    for name in GRAPHS:
        progress(name)
        export_graph(graphs.pop(name), specs[name], folder / onnx_file(name))
    graph_set.write(folder)
    return graph_set


def export_graph(module: nn.Module, spec: GraphSpec, path: Path) -> None:
    """Write one module as `path` and `path` + `.data`, constants folded.

    Weights go from torch's memory to the file one by one: a whole copy of them, in protobuf, would
    cost gigabytes for each stage that it passes through.
    """
    inputs = tuple(torch.zeros(s.shape, dtype=TORCH[s.dtype]) for s in spec.inputs)
    with _quiet(), _no_collection():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=[s.name for s in spec.inputs],
            output_names=[s.name for s in spec.outputs],
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # Not `optimize=True`: its rewriter is quadratic in the number of nodes (minutes for flow),
        # and what it finds beyond constants the engines find themselves.
        onnxscript.optimizer.inline(program.model)
        onnxscript.optimizer.fold_constants(
            program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT
        )
        onnxscript.optimizer.remove_unused_nodes(program.model)
        program.save(str(path), external_data=True)
        del program
        fold_small_constants(path)


def fold_small_constants(path: Path) -> None:
    """Fold what is left in a saved network, reading only its small tensors.

    Polygraphy runs the constant part in ONNX Runtime, which knows more operators than the
    exporter's own folding; weights stay where they are, in the file beside the network.
    """
    network = onnx.load(str(path), load_external_data=False)
    for tensor in network.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external and prod(tensor.dims) * MAX_ITEM_BYTES <= SMALL_BYTES:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    folded = polygraphy_fold(network, size_threshold=SMALL_BYTES)
    onnx.save_model(folded, str(path))
    if not any(t.data_location == onnx.TensorProto.EXTERNAL for t in folded.graph.initializer):
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Tracing makes millions of objects that stay: looking for garbage costs a quarter of it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
        gc.collect()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk of torchvision and of pass counts; none of it is for a user."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
