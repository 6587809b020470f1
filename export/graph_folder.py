"""A graph folder: every graph in one form, its recorded tensors, and `graphs.json`.

Knows no form: how a module becomes a file is the caller's. Knows no backend either: whether a graph
computes the right thing is for the engines' parity gate to find, on the tensors recorded here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from torch import nn

from ..graph_set import GraphSet
from ..schedule import step_table
from ..spec import GRAPHS, Geometry, GraphSpec, ModelDims, Precision
from .correlation import AllPairs, OnDemand
from .golden import record_golden
from .graphs import build_graphs
from .model import Model
from .raft import MakeCorrelation

CORRELATIONS: dict[str, MakeCorrelation] = {"all-pairs": AllPairs, "on-demand": OnDemand}
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Form:
    """What a graph is written as.

    Attributes:
        write: (module, its tensors, an existing folder) -> its files there, and the bytes of the
            intermediate tensors that are alive at its worst operator.
        packages: The distributions whose versions decide what is written.
        opset: Of ONNX, or empty.
    """

    write: Callable[[nn.Module, GraphSpec, Path], int]
    packages: tuple[str, ...]
    opset: str = ""

    def exporter(self) -> dict[str, str]:
        """Names and versions of what writes."""
        named = {name: version(name) for name in self.packages}
        return named | ({"opset": self.opset} if self.opset else {})


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
        match_colour=configs.vae.match_colour,
    )


def export_graphs(
    model: Model,
    folder: Path,
    form: Form,
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
    record_golden(exact, specs, folder)
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
