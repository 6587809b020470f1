"""Writes the graphs of a model to a folder, with golden values to test engines against."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..graphs.schedule import step_table
from ..graphs.spec import (
    DEFAULT_STEPS,
    GRAPHS,
    Geometry,
    GraphSet,
    GraphSpec,
    ModelDims,
    Precision,
    TensorSpec,
    golden_file,
)
from .correlation import AllPairs, OnDemand
from .graphs import build_graphs
from .model import Model
from .raft import MakeCorrelation

Tensors = dict[str, Tensor]
TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int32": torch.int32,
    "uint8": torch.uint8,
}


def example_frame(height: int, width: int, shift: int) -> Tensor:
    """Returns a textured (1, h, w, 3) uint8 frame, moved by `shift` pixels.

    It has gradients, waves and grain.
    """
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float64)
    xs = xs + shift
    grain = np.random.default_rng(7).normal(0, 6, (height, width + 64))
    channels = [
        127 + 90 * np.sin(xs / (5 + c) + ys / (9 - c)) + 30 * np.cos(ys / 3 - xs / (17 + c))
        for c in range(3)
    ]
    image = np.stack(channels, axis=-1) + grain[:, shift : shift + width, None]
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)[None])


class Recorder:
    """Runs float32 modules on inputs rounded to the graphs' own dtypes, and records both."""

    def __init__(self, graphs: dict[str, nn.Module], specs: dict[str, GraphSpec]) -> None:
        self.graphs, self.specs = graphs, specs
        self.records: dict[str, Tensors] = {}

    def run(self, name: str, **inputs: Tensor) -> Tensors:
        """Runs one graph in float32, and records its inputs and outputs under its name."""
        spec = self.specs[name]
        given = {s.name: inputs[s.name].to(TORCH[s.dtype]) for s in spec.inputs}
        wide = [t.float() if t.is_floating_point() else t for t in given.values()]
        result = self.graphs[name](*wide)
        outputs = (result,) if isinstance(result, Tensor) else result
        named = {s.name: out for s, out in zip(spec.outputs, outputs, strict=True)}
        record = {f"in.{k}": v.contiguous() for k, v in given.items()}
        self.records[name] = record | {f"out.{k}": v.contiguous() for k, v in named.items()}
        return named


@torch.inference_mode()
def record_golden(graphs: dict[str, nn.Module], specs: dict[str, GraphSpec], folder: Path) -> None:
    """Writes the recorded tensors of every graph into `folder`; `graphs` are float32 modules."""
    recorder = Recorder(graphs, specs)
    frame_spec = specs["prepare"].inputs[0]
    height, width = frame_spec.shape[1:3]
    first = recorder.run("prepare", frame=example_frame(height, width, 2))
    previous = recorder.run("features", up=first["up"])
    second = recorder.run("prepare", frame=example_frame(height, width, 0))
    current = recorder.run("features", up=second["up"])
    flow = recorder.run("flow", previous_fmap=previous["fmap"], **current)["flow"]
    generator = torch.Generator().manual_seed(0)
    # An image instead of noise: a float32 position has an error of 1e-4 pixels, and only the slope
    # of what is sampled there turns that into an error of the value.
    past = _corner(first["up"], specs["guide"].inputs[0])
    guide = recorder.run("guide", previous_hr=past, flow=flow)
    # Denoise and decode may run on tiles: they are recorded on the top left one.
    by_name = {s.name: s for s in (*specs["denoise"].inputs, *specs["temporal"].inputs)}
    temporal = recorder.run("temporal", warped=_corner(guide["warped"], by_name["warped"]))
    latent = torch.randn(by_name["latent"].shape, generator=generator)
    one = torch.ones(1)
    lr = _corner(second["lr"], by_name["lr"])
    denoised = recorder.run(
        "denoise",
        latent=latent,
        lr=lr,
        hint=_corner(guide["hint"], by_name["hint"]),
        step=torch.tensor([1]),
        gate=one,
    )
    if any(tensor.name == "lr" for tensor in specs["decode"].inputs):
        temporal["lr"] = lr
    recorder.run("decode", latent=denoised["denoised"], gate=one, **temporal)
    for name, record in recorder.records.items():
        save_file(record, str(folder / golden_file(name)))


def _corner(x: Tensor, spec: TensorSpec) -> Tensor:
    return x[:, :, : spec.shape[2], : spec.shape[3]]


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
