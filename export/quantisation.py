"""Quantises graphs to fp8, with scales calibrated on real frames."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from ..graphs.arrays import Image
from ..graphs.onnx_network import weights_files
from ..graphs.schedule import step_table
from ..graphs.spec import DEFAULT_STEPS, MIN_SIDE, Geometry, graph_specs
from .graph_folder import CORRELATIONS, model_dims
from .graphs import build_graphs
from .model import Model

Inputs = Mapping[str, npt.NDArray[Any]]
OPERATORS = ("Conv", "Gemm", "MatMul")
QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
# e4m3 keeps three bits of a number over 15 octaves: a scale that is a few times too large costs
# next to nothing, and one that is too small clips. So the largest observed value sets it.
METHOD = "max"


def weighted_layers(graph: onnx.GraphProto) -> list[str]:
    """Returns the nodes of `OPERATORS` whose second operand is a weight, a filter or matrix.

    The prompt's keys and values are also constants, but have more dimensions, and are not weights.
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
    """Replaces an fp16 ONNX file by the quantised graph, which has a weights file of its own.

    Args:
        inputs: The graph's inputs by name, for each calibration run.
        progress: Called with the fraction of the inputs that has been run.
    """
    with tempfile.TemporaryDirectory(prefix=".fp8-", dir=path.parent) as name:
        folder = Path(name)
        network = onnx.load(str(path), load_external_data=False)
        for weights in weights_files(network):  # the quantiser writes into what it reads
            shutil.copyfile(path.parent / weights, folder / weights)
        source, made = folder / path.name, folder / "quantised.onnx"
        os.replace(path, source)
        layers = weighted_layers(network.graph)
        with _temporary_files_in(folder):
            _run_modelopt(source, made, layers, _reader(inputs, progress))
        network = onnx.load(str(made), load_external_data=False)
        confine(network.graph, layers)
        _move(network, made, path)


def confine(graph: onnx.GraphProto, layers: Sequence[str]) -> None:
    """Gives nodes that are not quantised the original tensors, which a quantiser replaces for all.

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
        high_precision_dtype="fp32",  # means: no casts, the graph has its precisions
        use_external_data_format=True,
        output_path=str(made),
        log_level="CRITICAL",  # it logs an error if there is no GPU
    )


def _reader(inputs: Sequence[Inputs], progress: Callable[[float], None]) -> Any:
    """Returns the inputs as the quantiser takes them; the class's base is imported only here."""
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
    """Puts temporary files next to the graph, where there is room for gigabytes, not in /tmp."""
    before, tempfile.tempdir = tempfile.tempdir, os.fspath(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _move(network: onnx.ModelProto, made: Path, path: Path) -> None:
    """Writes the network to `path`, and moves the weights of `made` to the usual name there."""
    data = path.with_name(f"{path.name}.data")
    for tensor in network.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data.name
    os.replace(made.with_name(f"{made.name}_data"), data)
    onnx.save_model(network, str(path))


Clip = Sequence[Image]
SampleInputs = dict[str, npt.NDArray[Any]]


def denoise_inputs(
    model: Model,
    geometry: Geometry,
    clips: Sequence[Clip],
    *,
    steps: int = DEFAULT_STEPS,
    correlation: str = "all-pairs",
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> list[SampleInputs]:
    """Returns the inputs of the fp16 `denoise`, by name, of every step of every frame, in order.

    Args:
        geometry: The engines' geometry; the clips have the size on which `denoise` runs, which is a
            tile's if there are tiles.
        clips: (h, w, 3) uint8 RGB frames of `geometry.denoised`, in order of time. The first frame
            of each has no guidance; every other is guided by the model's output for the last.
        correlation: RAFT's lookup, "all-pairs" or "on-demand".
        seed: The seed of the noise.
        progress: Called with the fraction of the frames that is done.
    """
    runner = _Runner(model, geometry, steps, correlation, seed)
    inputs: list[SampleInputs] = []
    total = sum(len(clip) for clip in clips)
    for done, taken in enumerate(_frames(runner, clips), start=1):
        inputs += taken
        progress(done / total)
    return inputs


def _frames(runner: _Runner, clips: Sequence[Clip]) -> Iterator[list[SampleInputs]]:
    for clip in clips:
        runner.start()
        for image in clip:
            yield runner.frame(image)


class _Runner:
    """The seven float32 modules in a row, from frames to the inputs of `denoise`."""

    def __init__(
        self, model: Model, geometry: Geometry, steps: int, correlation: str, seed: int
    ) -> None:
        size, scale = geometry.denoised, geometry.flow_scale
        whole = Geometry(size, scale if min(size) >= scale * MIN_SIDE else 1)
        table, dims = step_table(model.configs.scheduler, steps), model_dims(model)
        self._graphs = build_graphs(model, whole, "fp32", table, CORRELATIONS[correlation])
        self._specs = graph_specs(whole, dims, "fp32")
        self._dtypes = {t.name: t.dtype for t in graph_specs(whole, dims, "fp16")["denoise"].inputs}
        self._steps = [torch.tensor([i], dtype=torch.int32) for i in range(steps)]
        self._noise = torch.Generator().manual_seed(seed)
        self.start()

    def start(self) -> None:
        """Starts an epoch: the next frame has no previous one."""
        self._previous: tuple[Tensor, Tensor] | None = None  # its features and its raw hr

    @torch.inference_mode()
    def frame(self, image: Image) -> list[SampleInputs]:
        """Runs one frame; returns the inputs of `denoise` at each of its steps."""
        lr, up = self._graphs["prepare"](torch.from_numpy(image.copy())[None])
        fmap, context = self._graphs["features"](up)
        hint, warped, gate = self._zeros("guide", "hint"), None, torch.zeros(1)
        if self._previous is not None:
            flow = self._graphs["flow"](fmap, self._previous[0], context)
            warped, hint = self._graphs["guide"](self._previous[1], flow)
            gate = torch.ones(1)
        latent = torch.randn(self._zeros("denoise", "denoised").shape, generator=self._noise)
        same = self._as_given(lr=lr, hint=hint, gate=gate)
        taken = []
        for step in self._steps:
            taken.append(same | self._as_given(latent=latent, step=step))
            latent = self._graphs["denoise"](latent, lr, hint, step, gate)
        self._previous = fmap, self._decoded(latent, lr, warped, gate)
        return taken

    def _decoded(self, latent: Tensor, lr: Tensor, warped: Tensor | None, gate: Tensor) -> Tensor:
        if warped is None:
            names = [t.name for t in self._specs["temporal"].outputs]
            features = [self._zeros("temporal", name) for name in names]
        else:
            features = list(self._graphs["temporal"](warped))
        matched = [lr] if any(t.name == "lr" for t in self._specs["decode"].inputs) else []
        hr: Tensor = self._graphs["decode"](latent, *matched, *features, gate)[0]
        return hr

    def _as_given(self, **tensors: Tensor) -> SampleInputs:
        return {
            name: x.numpy().astype(self._dtypes[name], order="C") for name, x in tensors.items()
        }

    def _zeros(self, graph: str, output: str) -> Tensor:
        found = next(t for t in self._specs[graph].outputs if t.name == output)
        return torch.zeros(found.shape)
