"""Writes the graphs of a model to a folder, with golden values to test engines against."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..graphs.arrays import Array
from ..graphs.golden import RunGraph, record_golden
from ..graphs.schedule import step_table
from ..graphs.spec import (
    DEFAULT_STEPS,
    GRAPHS,
    Geometry,
    GraphSet,
    GraphSpec,
    ModelDims,
    Precision,
)
from .correlation import AllPairs, OnDemand
from .graphs import build_graphs
from .model import Model
from .raft import MakeCorrelation

TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int32": torch.int32,
    "uint8": torch.uint8,
}


def torch_runner(graphs: Mapping[str, nn.Module], specs: Mapping[str, GraphSpec]) -> RunGraph:
    """Returns what runs float32 modules on arrays."""

    def run(name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = [torch.from_numpy(np.ascontiguousarray(inputs[t.name])) for t in specs[name].inputs]
        with torch.inference_mode():
            result = graphs[name](*given)
        outputs = (result,) if isinstance(result, Tensor) else result
        return {t.name: out.numpy() for t, out in zip(specs[name].outputs, outputs, strict=True)}

    return run


def example_inputs(spec: GraphSpec) -> tuple[Tensor, ...]:
    """Returns zeros for every input of a graph."""
    return tuple(torch.zeros(s.shape, dtype=TORCH[s.dtype]) for s in spec.inputs)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Silences logs and warnings during a trace, and disables garbage collection.

    Tracing makes millions of objects that stay: collecting garbage takes a quarter of its time. The
    exporters log messages about torchvision and pass counts, which are not for users.
    """
    collected, previous = gc.isenabled(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        if collected:
            gc.enable()
        gc.collect()


CORRELATIONS: dict[str, MakeCorrelation] = {"all-pairs": AllPairs, "on-demand": OnDemand}
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Form:
    """A file format for graphs.

    Attributes:
        write: (module, its spec, an existing folder) -> writes its files there, and returns the
            bytes of the intermediate tensors that are alive at its worst operator.
        packages: The distributions whose versions affect the files.
        opset: ONNX's opset, or empty.
    """

    write: Callable[[nn.Module, GraphSpec, Path], int]
    packages: tuple[str, ...]
    opset: str = ""

    def exporter(self) -> dict[str, str]:
        """Returns the names and versions of the packages that write the files."""
        named = {name: version(name) for name in self.packages}
        return named | ({"opset": self.opset} if self.opset else {})


def model_dims(model: Model) -> ModelDims:
    """Returns the dimensions of a model that determine its graphs' shapes."""
    configs = model.configs
    blocks = configs.vae.num_decoder_blocks
    scales = [2**stage for stage, count in enumerate(blocks) for _ in range(count)]
    return ModelDims(
        latent=configs.vae.latent_channels,
        hint=configs.controlnet.block_out_channels[0],
        fmap=configs.flow.feature_encoder_layers[-1],
        context=configs.flow.context_encoder_layers[-1],
        temporal=tuple((configs.vae.width, scale) for scale in scales),
        match_colour=configs.vae.match_colour,
    )


def export_graphs(
    model: Model,
    folder: Path,
    form: Form,
    *,
    geometry: Geometry,
    precision: Precision = "fp32",
    steps: int = DEFAULT_STEPS,
    correlation: str = "all-pairs",
    progress: Progress = lambda _: None,
) -> GraphSet:
    """Writes every graph, its recorded tensors and `graphs.json` into an existing empty folder.

    Args:
        progress: Called with the name of each part before it is made.
    """
    table = step_table(model.configs.scheduler, steps)
    make = CORRELATIONS[correlation]
    graph_set = GraphSet(
        geometry=geometry,
        precision=precision,
        dims=model_dims(model),
        steps=steps,
        correlation=correlation,
        model_digest=model.digest,
        exporter=form.exporter(),
    )
    specs = graph_set.specs()
    progress("reference")
    exact = build_graphs(model, geometry, "fp32", table, make)
    record_golden(torch_runner(exact, specs), specs, folder)
    graphs = exact
    if precision != "fp32":
        del exact  # the float32 copy is only needed for the recording
        graphs = build_graphs(model, geometry, precision, table, make)
    alive: dict[str, int] = {}
    for name in GRAPHS:
        progress(name)
        alive[name] = form.write(graphs.pop(name), specs[name], folder)
    graph_set = replace(graph_set, activation_bytes=alive)
    graph_set.write(folder)
    return graph_set
