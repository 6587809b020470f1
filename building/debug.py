"""Finds the layers in which an engine diverges, and lists the operators of a model."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..engines.host import FP8, check_gpu, check_precision, require_export
from ..engines.interface import kind_of
from ..engines.manifest import EngineKey
from ..engines.parity import TOLERANCE, relative_error
from ..engines.registry import BACKENDS, Backend, require_backend
from ..errors import StreamDiffVSRError, UsageError, option
from ..graphs.spec import (
    GRAPH_VERSION,
    GRAPHS,
    GraphSpec,
    Precision,
    Size,
    format_size,
    golden_file,
    onnx_file,
)
from .graph_source import GraphSource, record_reference, write_set
from .memory import check_memory
from .request import BuildRequest
from .spec import export, resolve

if TYPE_CHECKING:
    from ..engines.divergence import Divergence

Progress = Callable[[str], None]
REFERENCE = "onnxruntime"
EXACT: Precision = "fp32"


@dataclass(frozen=True, slots=True)
class LayerRequest:
    """A request to compare one engine with the reference, layer by layer.

    Attributes:
        graph: One of `spec.GRAPHS`.
        build: The options with which the engine is built.
        size: LR size (h, w).
        tolerance: The largest error of a layer; None is the limit of the parity check.
    """

    graph: str
    build: BuildRequest
    size: Size
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.graph not in GRAPHS:
            raise UsageError(f"unknown graph {self.graph!r}", remedy=f"use {', '.join(GRAPHS)}")
        if self.build.precision == FP8:
            raise UsageError(
                "fp8 engines are not compared layer by layer",
                "each of their layers is off by design",
                f"use {option('precision', 'fp16')}, which has the same layers",
            )
        check_precision(self.precision)

    @property
    def precision(self) -> Precision:
        """The precision of the engine."""
        return cast(Precision, self.build.precision)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a comparison.

    Attributes:
        tolerance: The largest error that was allowed.
        layers: The layers that differ, in the graph's order.
        outputs: The error of each output of the graph, from the engine as it is built for frames.
    """

    tolerance: float
    layers: list[Divergence]
    outputs: dict[str, float]

    @property
    def diverges(self) -> bool:
        """Returns whether any error exceeds the tolerance."""
        return bool(self.layers) or not all(e <= self.tolerance for e in self.outputs.values())


def debug_engine(request: LayerRequest, progress: Progress = lambda _: None) -> Report:
    """Compares a graph on a backend with the float32 reference, layer by layer.

    Raises:
        StreamDiffVSRError: The graph cannot be exported, or the backend cannot run here.
    """
    backend = require_backend(request.build.backend)
    if backend.name == "torch":
        raise UsageError(
            "torch engines have no layers to compare",
            "they are not ONNX graphs",
            "choose among onnxruntime, tensorrt and tensorrt-rtx",
        )
    check_gpu(request.build.device)
    device = request.build.device
    if kind_of(device) not in backend.devices:
        raise UsageError(f"backend {backend.name} does not run on {device}")
    key = _key(request, backend)
    if obstacle := backend.obstacle(key, device):
        raise StreamDiffVSRError(f"{backend.name} engines cannot be debugged here", obstacle)
    require_export()
    require_backend(REFERENCE)
    with tempfile.TemporaryDirectory(prefix="streamdiffvsr-debug-") as folder:
        return _compare(request, backend, key, Path(folder), progress)


def _compare(
    request: LayerRequest, backend: Backend, key: EngineKey, folder: Path, progress: Progress
) -> Report:
    from safetensors.numpy import load_file

    from ..engines.divergence import Probe, find_divergences

    reference_spec, spec = _export(request, key, folder, progress)
    golden = load_file(str(folder / golden_file(request.graph)))
    inputs = {t.name: golden[f"in.{t.name}"] for t in spec.inputs}
    file = onnx_file(request.graph)
    exact = Probe(
        BACKENDS[REFERENCE], key, folder / "reference" / file, reference_spec, inputs, "cpu"
    )
    tested = Probe(backend, key, folder / "engine" / file, spec, inputs, request.build.device)
    tolerance = request.tolerance
    if tolerance is None:
        tolerance = TOLERANCE[request.precision]
    progress(f"run {request.graph} as it is built for frames")
    found = tested.outputs()
    outputs = {name: relative_error(found[name], golden[f"out.{name}"]) for name in found}
    return Report(tolerance, find_divergences(exact, tested, tolerance, progress), outputs)


def _export(
    request: LayerRequest, key: EngineKey, folder: Path, progress: Progress
) -> tuple[GraphSpec, GraphSpec]:
    """Writes the graph in both precisions and the recorded tensors; returns both specs."""
    order, _ = resolve(replace(request.build, backend=REFERENCE, device="cpu"), request.size)
    source = GraphSource(order.source, order.key.model_digest)
    specs = {}
    for name, options in (("reference", order.exact_options), ("engine", order.graph_options)):
        library, sources = source.get(options, progress)
        only = {request.graph: sources[request.graph]}
        (folder / name).mkdir()
        graphs = write_set(library, only, options, order.geometry, folder / name)
        specs[name] = graphs.specs()[request.graph]
    progress("reference")
    record_reference(graphs, source.get(order.exact_options, progress)[1], folder)
    return specs["reference"], specs["engine"]


def _key(request: LayerRequest, backend: Backend) -> EngineKey:
    """Returns a key with all that a backend reads, for an engine that is not kept."""
    target = backend.target(None, request.precision, request.build.device)
    return EngineKey(
        model_digest="",
        size=format_size(request.size),
        flow="",
        tile="",
        precision=request.precision,
        steps=request.build.steps,
        backend=backend.name,
        device=kind_of(request.build.device),
        library=target.library,
        gpu=target.gpu,
        graph_version=GRAPH_VERSION,
    )


@dataclass(frozen=True, slots=True)
class Operators:
    """The number of nodes of each operator in a graph, as exported and as TensorRT gets it."""

    graph: str
    exported: Counter[str]
    rewritten: Counter[str]

    def to_json(self) -> dict[str, Any]:
        """Returns the counts for `--json`."""
        return {
            "graph": self.graph,
            "exported": dict(self.exported.most_common()),
            "tensorrt": dict(self.rewritten.most_common()),
        }


def count_graphs(
    request: BuildRequest, size: Size, progress: Progress = lambda _: None
) -> list[Operators]:
    """Counts the operators of every graph, for frames of a size (h, w).

    Raises:
        StreamDiffVSRError: The model cannot be exported here.
    """
    if request.precision == FP8:
        raise UsageError(
            "the operators of fp8 graphs are not counted",
            "they are those of fp16 with pairs of conversions to eight bits in denoise",
            f"use {option('precision', 'fp16')}",
        )
    from ..engines.tensorrt_graph import rewrite_graph
    from ..export.model_source import model_files
    from ..graphs.onnx_network import count_operators

    order, _ = resolve(request, size)
    check_memory(model_files(order.source), order.key)
    counted = []
    with tempfile.TemporaryDirectory(prefix="streamdiffvsr-graphs-") as name:
        folder = Path(name)
        export(replace(order, stage=folder), progress)
        for graph in GRAPHS:
            path = folder / onnx_file(graph)
            exported = count_operators(path)
            rewrite_graph(path, group_norms=True)
            counted.append(Operators(graph, exported, count_operators(path)))
    return counted
