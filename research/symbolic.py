"""Frame times of symbolic, specialised and statically exported graphs; times of making each.

    python -m streamdiffvsr.research.symbolic --size 96x64
    python -m streamdiffvsr.research.symbolic --preset full --size 96x64

Three forms of the same seven float32 graphs run on ONNX Runtime's CPU provider in one process, in
turn: the symbolic graphs as they were exported, those that were specialised for the size, and an
export of that size alone. A frame is one run of every graph, and as many of `denoise` as there are
steps. The symbolic export runs in a process of its own, whose peak memory it is. Prints JSON as its
last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from safetensors.numpy import load_file

from ..benchmarks.machine import describe_machine, peak_memory_mb
from ..building.graph_source import GraphSource, record_reference, write_set
from ..export.model_source import BUILT_IN_FOLDER, model_digest
from ..graphs.arrays import Array
from ..graphs.library import GraphOptions
from ..graphs.plan import make_plan
from ..graphs.spec import (
    DEFAULT_STEPS,
    GraphSet,
    Size,
    format_size,
    golden_file,
    onnx_file,
    parse_size,
)

MODULE = "streamdiffvsr.research.symbolic"
STATIC, SPECIALISED, SYMBOLIC = "static export", "specialised", "symbolic"


def main() -> None:
    """Exports in a child process, measures the three forms here, and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="96x64", metavar="WxH")
    parser.add_argument("--preset", help="a random model of that preset, instead of the built-in")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = parse_size(asked.size, "--size")
    if asked.library is not None:
        print(json.dumps(_export(asked.model, size, asked.library)))
        return
    with tempfile.TemporaryDirectory(prefix="streamdiffvsr-") as name:
        folder = Path(name)
        model = BUILT_IN_FOLDER if asked.preset is None else _random(asked.preset, folder / "model")
        command = [sys.executable, "-m", MODULE, "--size", asked.size, "--model", str(model)]
        command += ["--library", str(folder / "library")]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        export = json.loads(done.stdout.splitlines()[-1])
        result = _measure(model, size, folder, asked.pairs)
    result = {"benchmark": "symbolic", "size": asked.size, "preset": asked.preset} | export | result
    print(json.dumps(result | {"machine": describe_machine()}))


def _random(preset: str, folder: Path) -> Path:
    from ..export.random_model import write_random_model

    return write_random_model(folder, preset=preset)


def _options(size: Size) -> GraphOptions:
    plan = make_plan(size)
    return GraphOptions("fp32", DEFAULT_STEPS, plan.geometry.flow_scale, plan.correlation)


def _export(model: Path, size: Size, library: Path) -> dict[str, Any]:
    said: list[tuple[str, float]] = []
    started = time.perf_counter()
    source = GraphSource(model, model_digest(model), library)
    source.get(_options(size), lambda line: said.append((line, time.perf_counter() - started)))
    seconds = time.perf_counter() - started
    compared = next((at for line, at in said if line.startswith("compare")), seconds)
    return {
        "export_s": round(compared, 2),
        "compare_s": round(seconds - compared, 2),
        "export_peak_mb": peak_memory_mb(),
        "library_mb": round(sum(p.stat().st_size for p in library.iterdir()) / 1e6, 1),
    }


def _measure(model: Path, size: Size, folder: Path, pairs: int) -> dict[str, Any]:
    digest, options, geometry = model_digest(model), _options(size), make_plan(size).geometry
    library, sources = GraphSource(model, digest, folder / "library").get(options, print)
    made = folder / "specialised"
    made.mkdir()
    started = time.perf_counter()
    graphs = write_set(library, sources, options, geometry, made)
    specialise_s = time.perf_counter() - started
    record_reference(graphs, sources, made)
    inputs = {name: _inputs(made, name) for name in graphs.specs()}
    started = time.perf_counter()
    static = _static(model, graphs, folder / "static")
    static_s = time.perf_counter() - started
    files = {
        SYMBOLIC: sources,
        SPECIALISED: {name: made / onnx_file(name) for name in sources},
        STATIC: static,
    }
    # A padded frame is what the symbolic graphs take.
    assert geometry.padded == size, f"take sides that are multiples of 4, not {format_size(size)}"
    frames = _frames(files, inputs, pairs)
    medians = {kind: statistics.median(times) for kind, times in frames.items()}
    return {
        "specialise_s": round(specialise_s, 3),
        "static_export_s": round(static_s, 1),
        "pairs": pairs,
        "frame_ms": {kind: round(1000 * value, 2) for kind, value in medians.items()},
        "ratio_to_static": {
            kind: round(
                statistics.median(a / b for a, b in zip(times, frames[STATIC], strict=True)), 3
            )
            for kind, times in frames.items()
        },
    }


def _inputs(folder: Path, name: str) -> dict[str, Array]:
    golden = load_file(str(folder / golden_file(name)))
    return {k.removeprefix("in."): v for k, v in golden.items() if k.startswith("in.")}


def _static(model: Path, graphs: GraphSet, folder: Path) -> dict[str, Path]:
    """Exports graphs of one size alone."""
    from ..export.graph_folder import CORRELATIONS
    from ..export.graphs import build_graphs
    from ..export.model import load_model
    from ..export.onnx_export import export_graph
    from ..graphs.schedule import step_table

    folder.mkdir()
    loaded = load_model(model)
    table = step_table(loaded.configs.scheduler, graphs.steps)
    make = CORRELATIONS[graphs.correlation]
    modules = build_graphs(loaded, graphs.geometry, "fp32", table, make)
    files = {}
    for name, spec in graphs.specs().items():
        files[name] = folder / onnx_file(name)
        export_graph(modules.pop(name), spec, files[name])
    return files


def _frames(
    files: Mapping[str, Mapping[str, Path]], inputs: Mapping[str, dict[str, Array]], count: int
) -> dict[str, list[float]]:
    """Returns the seconds of every frame, of each form of the graphs in turn."""
    sessions = {
        kind: {name: onnxruntime.InferenceSession(str(path)) for name, path in paths.items()}
        for kind, paths in files.items()
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in files}
    for index in range(count + 1):
        kinds = list(files)
        for kind in kinds[index % len(kinds) :] + kinds[: index % len(kinds)]:
            started = time.perf_counter()
            for name, session in sessions[kind].items():
                for _ in range(DEFAULT_STEPS if name == "denoise" else 1):
                    session.run(None, inputs[name])
            seconds[kind].append(time.perf_counter() - started)
    return {kind: times[1:] for kind, times in seconds.items()}  # the first run allocates


if __name__ == "__main__":
    main()
