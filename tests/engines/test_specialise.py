"""Graphs of one size, made from symbolic ones, compute what torch does at any size and option."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from streamdiffvsr.building.graph_source import SHIPPED, GraphSource, record_reference, write_set
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine, open_symbolic
from streamdiffvsr.engines.parity import check_parity
from streamdiffvsr.engines.specialise import specialise
from streamdiffvsr.graphs import plan
from streamdiffvsr.graphs.arrays import Array
from streamdiffvsr.graphs.golden import fitted, record_golden
from streamdiffvsr.graphs.library import GraphLibrary, GraphOptions
from streamdiffvsr.graphs.onnx_network import count_operators
from streamdiffvsr.graphs.spec import (
    FLOW_SCALES,
    GRAPHS,
    Geometry,
    GraphSpec,
    Size,
    TensorSpec,
    format_size,
    golden_file,
    graph_specs,
    onnx_file,
)

pytest.importorskip("torch")

from safetensors.numpy import load_file

from streamdiffvsr.export.graph_folder import CORRELATIONS, torch_runner
from streamdiffvsr.export.graphs import build_graphs
from streamdiffvsr.export.model import load_model
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER, model_digest
from streamdiffvsr.export.random_model import write_random_model
from streamdiffvsr.graphs.schedule import step_table

TOLERANCE = 1e-5  # of max |x|, or of 1
# A frame of one pixel has no variance, and RAFT's norms divide rounding errors by what there is.
FLAT_TOLERANCE = 5e-5
LOOKUPS = ("all-pairs", "on-demand")


def drawn() -> list[tuple[int, str, Size, Size | None]]:
    """Draws sizes of every kind, each with several flow scales and lookups."""
    draw, cases = random.Random(20), []
    kinds = ("odd", "fours", "thin", "tiny", "tiles", "any")
    for index, kind in enumerate(kinds * 3):
        turn = index // len(kinds)  # so that a kind meets every scale and both lookups
        scale, lookup = FLOW_SCALES[(index + turn) % 3], LOOKUPS[(index // 3 + turn) % 2]
        least = 32 * scale if scale > 1 else 1
        cases.append((scale, lookup, *_sides(draw, kind, least)))
    return cases


def _sides(draw: random.Random, kind: str, least: int) -> tuple[Size, Size | None]:
    low = max(33, least)
    if kind == "odd":
        return (2 * draw.randrange(low // 2, low // 2 + 12) + 1, low + 2 * draw.randrange(9)), None
    if kind == "fours":
        return (8 * draw.randrange(low // 8 + 1, low // 8 + 4) + 4, 8 * (low // 8 + 1) + 4), None
    if kind == "thin":
        return (max(least - 3, 1) if least > 1 else 2, least + 4 * draw.randrange(10, 20) + 1), None
    if kind == "tiny":
        return (max(least - draw.randrange(4), 1), max(least - draw.randrange(4), 1)), None
    if kind == "tiles":
        return (low + 31, low + 29), (32 + 4 * draw.randrange(5), 36)
    return (draw.randrange(low, low + 24), draw.randrange(low, low + 24)), None


CASES = drawn()


@pytest.fixture(scope="module")
def model():
    return load_model(BUILT_IN_FOLDER)


@pytest.fixture(scope="module")
def shipped() -> GraphLibrary:
    library = GraphLibrary.read(SHIPPED, model_digest(BUILT_IN_FOLDER))
    assert library is not None, "make graphs: the model has changed"
    return library


def sources(options: GraphOptions) -> dict[str, Path]:
    return {graph: SHIPPED / name for graph, name in options.files().items()}


def errors(made: dict[str, Array], expected: dict[str, Array]) -> dict[str, float]:
    """The largest difference of every output; frames may round either way."""
    found = {}
    for name, value in expected.items():
        assert made[name].shape == value.shape
        wide, other = made[name].astype(np.float64), value.astype(np.float64)
        if value.dtype == np.uint8:
            found[name] = max(0.0, np.abs(wide - other).max() - 1)
        else:
            found[name] = float(np.abs(wide - other).max() / max(1.0, np.abs(other).max()))
    return found


def agrees(
    folder: Path,
    spec: GraphSpec,
    inputs: dict[str, Array],
    expected: dict[str, Array],
    tolerance: float = TOLERANCE,
) -> None:
    outputs = {t.name: np.empty(t.shape, t.dtype) for t in spec.outputs}
    OrtEngine(folder / onnx_file(spec.name), spec).bind(inputs | outputs).enqueue()
    found = errors(outputs, expected)
    assert all(error <= tolerance for error in found.values()), (spec.name, found)


def check(folder, model, library, options: GraphOptions, geometry: Geometry, files=None) -> None:
    """Compares a set with torch's modules of that very size, and with the symbolic graphs."""
    files = files or sources(options)
    graphs = write_set(library, files, options, geometry, folder)
    specs = graphs.specs()
    padded = replace(graphs, geometry=replace(geometry, size=geometry.padded)).specs()
    table = step_table(model.configs.scheduler, options.steps)
    make = CORRELATIONS[options.correlation]
    record_golden(
        torch_runner(build_graphs(model, geometry, "fp32", table, make), specs), specs, folder
    )
    symbolic = fitted(lambda name, x: open_symbolic(files[name])(x), padded, specs)
    tolerance = TOLERANCE if max(geometry.size) > 1 else FLAT_TOLERANCE
    for name, spec in specs.items():
        golden = load_file(folder / golden_file(name))
        inputs = {t.name: golden[f"in.{t.name}"] for t in spec.inputs}
        agrees(
            folder, spec, inputs, {t.name: golden[f"out.{t.name}"] for t in spec.outputs}, tolerance
        )
        agrees(folder, spec, inputs, dict(symbolic(name, inputs)), tolerance)
        left = count_operators(folder / onnx_file(name))
        assert not left["Shape"], (name, left)


@pytest.mark.parametrize(
    ("scale", "lookup", "size", "tile"),
    [
        pytest.param(
            *case,
            id=f"{format_size(case[2])}-flow{case[0]}-{case[1]}",
            marks=[pytest.mark.slow] if case[0] != 1 or index > 2 else [],
        )
        for index, case in enumerate(CASES)
    ],
)
def test_a_specialised_graph_is_torchs_module_of_that_size(
    model, shipped, tmp_path, scale, lookup, size, tile
):
    options = GraphOptions("fp32", 2 if tile else 4, scale, lookup)
    check(tmp_path, model, shipped, options, Geometry(size, scale, tile))


def test_chunks_of_the_lookup_change_nothing(model, shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "CHUNK_BYTES", 300_000)
    options = GraphOptions("fp32", 4, 1, "on-demand")
    check(tmp_path, model, shipped, options, Geometry((37, 41)))
    assert count_operators(tmp_path / "flow.onnx")["Split"] > 10


def batched(spec: GraphSpec, count: int) -> GraphSpec:
    def wide(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(t, shape=(count, *t.shape[1:])) if len(t.shape) == 4 else t for t in tensors
        )

    return GraphSpec(spec.name, wide(spec.inputs), wide(spec.outputs))


def example(tensor: TensorSpec, draw: np.random.Generator) -> Array:
    """Values for an input; a smooth frame where a rounded position would be seen in noise."""
    shape = tensor.shape
    if tensor.dtype == "uint8":
        return draw.integers(0, 256, shape).astype(np.uint8)
    if len(shape) == 1:
        return np.ones(shape, tensor.dtype)
    if tensor.name == "previous_hr":
        rows, columns = np.mgrid[0 : shape[2], 0 : shape[3]]
        frames = [np.sin(rows / (20 + i) + columns / 30) for i in range(shape[0] * shape[1])]
        return np.stack(frames).reshape(shape).astype(np.float32)
    return draw.uniform(-1, 1, shape).astype(tensor.dtype)


@pytest.mark.parametrize(
    "count", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_batch_is_what_its_frames_are_one_by_one(model, shipped, tmp_path, count):
    geometry, options = Geometry((37, 41)), GraphOptions("fp32", 4, 1, "all-pairs")
    specs = graph_specs(geometry, shipped.dims, "fp32")
    padded = graph_specs(Geometry(geometry.padded), shipped.dims, "fp32")
    table = step_table(model.configs.scheduler, 4)
    modules = build_graphs(model, geometry, "fp32", table, CORRELATIONS["all-pairs"])
    draw = np.random.default_rng(count)
    for name in GRAPHS:
        spec = batched(specs[name], count)
        weights = specialise(
            sources(options)[name], tmp_path / onnx_file(name), batched(padded[name], count), spec
        )
        for file in weights:
            if not (tmp_path / file).exists():
                (tmp_path / file).hardlink_to(SHIPPED / file)
        inputs = {t.name: example(t, draw) for t in spec.inputs}
        singles = [
            torch_runner(modules, specs)(
                name, {k: v if v.ndim == 1 else v[i : i + 1] for k, v in inputs.items()}
            )
            for i in range(count)
        ]
        expected = {t.name: np.concatenate([s[t.name] for s in singles]) for t in spec.outputs}
        agrees(tmp_path, spec, inputs, expected)


def run_files(folder: Path, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return open_symbolic(folder / onnx_file(name))(inputs)


@pytest.mark.slow
def test_the_shipped_graphs_are_those_of_this_code(shipped, tmp_path):
    """Exported again, they compute the same: graphs and code cannot drift apart."""
    again = tmp_path / "graphs"
    source = GraphSource(BUILT_IN_FOLDER, shipped.model_digest, again)
    for index, options in enumerate(
        (GraphOptions("fp32", 4, 1, "all-pairs"), GraphOptions("fp32", 2, 2, "on-demand"))
    ):
        library, made = source.get(options, lambda line: None)
        assert library.dims == shipped.dims
        folders = [tmp_path / f"{index}{kind}" for kind in ("old", "new")]
        for folder, files in zip(folders, (sources(options), made), strict=True):
            folder.mkdir()
            graphs = write_set(shipped, files, options, Geometry((67, 75), index + 1), folder)
        old, new = folders
        specs = graphs.specs()
        record_golden(partial(run_files, old), specs, old)
        for name, spec in specs.items():
            golden = load_file(old / golden_file(name))
            inputs = {t.name: golden[f"in.{t.name}"] for t in spec.inputs}
            expected = {t.name: golden[f"out.{t.name}"] for t in spec.outputs}
            found = errors(run_files(new, name, inputs), expected)
            assert all(error <= 1e-6 for error in found.values()), (name, found)


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["on", "off"])
def test_a_build_may_decide_on_colours(model, shipped, tmp_path, colour):
    """A model is given the option that its config does not have."""
    source = write_random_model(tmp_path / "model") if colour == "on" else BUILT_IN_FOLDER
    options = GraphOptions("fp32", 2, 1, "all-pairs", colour)
    made = GraphSource(source, model_digest(source), tmp_path / "graphs")
    library, graphs = made.get(options, lambda line: None)
    other = load_model(source, match_colour=colour == "on")
    folder = tmp_path / "set"
    folder.mkdir()
    check(folder, other, library, options, Geometry((37, 41)), graphs)


@pytest.mark.slow
def test_a_large_frame_is_what_the_symbolic_graphs_compute(shipped, tmp_path):
    """At a size whose results are too large to be folded, in chunks and tiles."""
    chosen = plan.make_plan((539, 958))
    assert (chosen.correlation, chosen.geometry.flow_scale) == ("on-demand", 1)
    assert chosen.geometry.tile
    options = GraphOptions("fp32", 4, 1, "on-demand")
    graphs = write_set(shipped, sources(options), options, chosen.geometry, tmp_path)
    record_reference(graphs, sources(options), tmp_path)
    for name, spec in graphs.specs().items():
        check_parity(OrtEngine(tmp_path / onnx_file(name), spec), tmp_path, "fp32")
