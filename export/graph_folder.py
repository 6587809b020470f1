"""Writes the graphs of a model to a folder, with golden values to test engines against."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..graphs.arrays import Array
from ..graphs.golden import RunGraph, fitted, record_golden
from ..graphs.library import GraphLibrary, GraphOptions, Stored
from ..graphs.program import program_file
from ..graphs.schedule import step_table
from ..graphs.spec import (
    DEFAULT_STEPS,
    GRAPHS,
    Geometry,
    GraphSet,
    GraphSpec,
    ModelDims,
    Precision,
    Size,
    graph_specs,
)
from ..reading import file_digest
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


EXAMPLE_SIZE = (144, 176)  # that symbolic graphs are traced with; each flow scale fits it
CORRELATIONS: dict[str, MakeCorrelation] = {"all-pairs": AllPairs, "on-demand": OnDemand}
Progress = Callable[[str], None]


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


def export_programs(
    model: Model,
    folder: Path,
    *,
    geometry: Geometry,
    precision: Precision = "fp32",
    steps: int = DEFAULT_STEPS,
    correlation: str = "all-pairs",
    progress: Progress = lambda _: None,
) -> GraphSet:
    """Writes the graphs of one size for the `torch` backend into an existing empty folder.

    With them go the recorded tensors and `graphs.json`.

    Args:
        progress: Called with the name of each part before it is made.
    """
    from .torch_export import export_program

    table = step_table(model.configs.scheduler, steps)
    make = CORRELATIONS[correlation]
    graph_set = GraphSet(
        geometry=geometry,
        precision=precision,
        dims=model_dims(model),
        steps=steps,
        correlation=correlation,
        model_digest=model.digest,
        exporter={"torch": version("torch")},
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
        path = folder / program_file(name)
        alive[name] = export_program(graphs.pop(name), specs[name], path)
    graph_set = replace(graph_set, activation_bytes=alive)
    graph_set.write(folder)
    return graph_set


def torch_reference(model: Model, options: GraphOptions, size: Size) -> RunGraph:
    """Returns what runs the float32 modules on frames of a size (h, w)."""
    table = step_table(model.configs.scheduler, options.steps)
    whole = Geometry(size, options.flow_scale)
    wide = Geometry(whole.padded, options.flow_scale)
    dims = model_dims(model)
    padded, specs = (graph_specs(g, dims, "fp32") for g in (wide, whole))
    make = CORRELATIONS[options.correlation]
    modules = build_graphs(model, wide, "fp32", table, make)
    return fitted(torch_runner(modules, padded), padded, specs)


def export_library(
    model: Model,
    folder: Path,
    options: GraphOptions,
    missing: Sequence[str],
    library: GraphLibrary | None,
    progress: Progress = lambda _: None,
) -> GraphLibrary:
    """Adds graphs with symbolic sizes to a library; returns the library as it is then.

    Args:
        folder: The library's folder; the caller has locked it.
        missing: The names of the graphs to add.
        library: What is there already; None if nothing is.
        progress: Called with the name of each graph before it is exported.
    """
    from .onnx_export import OPSET, PACKAGES, export_graph, share_weights, symbolic_axes

    dims = model_dims(model)
    if library is None:
        exporter = {name: version(name) for name in PACKAGES} | {"opset": str(OPSET)}
        library = GraphLibrary(model.digest, dims, exporter)
    if options.colour:  # the config says otherwise
        library = replace(library, dims=replace(library.dims, match_colour=options.colour != "on"))
    geometry = Geometry(EXAMPLE_SIZE, options.flow_scale)
    table = step_table(model.configs.scheduler, options.steps)
    make = CORRELATIONS[options.correlation]
    modules = build_graphs(model, geometry, options.precision, table, make, symbolic=True)
    specs = graph_specs(geometry, dims, options.precision)
    paths = {name: folder / options.file(name) for name in missing}
    for name, path in paths.items():
        progress(name)
        path.unlink(missing_ok=True)  # a damaged one, or a link to somewhere
        single = name == "flow" and options.correlation == "on-demand"
        axes = symbolic_axes(specs[name], geometry.padded, batch=not single)
        export_graph(modules.pop(name), specs[name], path, axes)
    known = [folder / name for name in library.files if name.endswith(".onnx")]
    used = share_weights(list(paths.values()), known)
    files = dict(library.files)
    for name in {name for names in used.values() for name in names} - files.keys():
        files[name] = Stored(file_digest(folder / name))
    for name, names in used.items():
        files[name] = Stored(file_digest(folder / name), tuple(sorted(names)))
    return replace(library, files=files)
