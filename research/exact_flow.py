"""Peak memory and time of a large input's exact flow, with the on-demand correlation lookup.

    python -m streamdiffvsr.research.exact_flow --model models/tiny --size 1280x720

Exports the model's `features` and `flow` graphs at that size and runs them on ONNX Runtime's CPU
provider, in a process of its own, so that the peak includes nothing else. Prints JSON as its last
line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.machine import describe_machine, peak_memory_mb
from ..graphs.plan import correlation_bytes
from ..graphs.spec import Geometry, GraphSpec, Size, format_size, graph_specs, parse_size

MODULE = "streamdiffvsr.research.exact_flow"
SHIFT = 8  # HR pixels between the two frames


def main() -> None:
    """Exports here, runs in a child process, and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--size", default="1280x720", metavar="WxH")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = parse_size(options.size, "--size")
    if options.run is not None:
        print(json.dumps(_run(options.model, size, options.run)))
        return
    with tempfile.TemporaryDirectory() as folder:
        exported = _export(options.model, size, Path(folder))
        command = [sys.executable, "-m", MODULE, "--model", str(options.model)]
        command += ["--size", options.size, "--run", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = {
        "benchmark": "exact_flow",
        "model": str(options.model),
        "size": format_size(size),
        "all_pairs_gib": round(correlation_bytes(size) / 2**30, 1),
        "export_s": exported,
        **json.loads(done.stdout.splitlines()[-1]),
        "machine": describe_machine(),
    }
    print(json.dumps(result))


def _specs(model: Path, size: Size) -> dict[str, GraphSpec]:
    from ..export.graph_folder import model_dims
    from ..export.model import load_model

    return graph_specs(Geometry(size), model_dims(load_model(model)), "fp32")


def _export(model: Path, size: Size, folder: Path) -> dict[str, float]:
    """Writes both graphs; returns the seconds that each took."""
    from ..export.correlation import OnDemand
    from ..export.graphs import build_graphs
    from ..export.model import load_model
    from ..export.onnx_export import export_graph
    from ..graphs.schedule import step_table
    from ..graphs.spec import onnx_file

    loaded, specs = load_model(model), _specs(model, size)
    table = step_table(loaded.configs.scheduler)
    graphs = build_graphs(loaded, Geometry(size), "fp32", table, OnDemand)
    taken = {}
    for name in ("features", "flow"):
        started = time.perf_counter()
        export_graph(graphs[name], specs[name], folder / onnx_file(name))
        taken[name] = round(time.perf_counter() - started, 1)
    return taken


def _run(model: Path, size: Size, folder: Path) -> dict[str, Any]:
    """Computes the features of two frames and their flow, as for a frame of a video."""
    from ..engines.onnxruntime_backend import OrtEngine
    from ..graphs.spec import onnx_file

    specs = _specs(model, size)
    arrays = {
        tensor.name: np.zeros(tensor.shape, tensor.dtype)
        for spec in (specs["features"], specs["flow"])
        for tensor in (*spec.inputs, *spec.outputs)
    }
    image = np.random.default_rng(0).uniform(-1, 1, arrays["up"].shape).astype(np.float32)
    features = OrtEngine(folder / onnx_file("features"), specs["features"])
    bound = features.bind({name: arrays[name] for name in ("up", "fmap", "context")})
    arrays["up"][:] = np.roll(image, SHIFT, axis=3)
    bound.enqueue()
    arrays["previous_fmap"][:] = arrays["fmap"]
    arrays["up"][:] = image
    started = time.perf_counter()
    bound.enqueue()
    features_s = time.perf_counter() - started
    peak_features = peak_memory_mb()
    flow = OrtEngine(folder / onnx_file("flow"), specs["flow"])
    names = ("fmap", "previous_fmap", "context", "flow")
    bound = flow.bind({name: arrays[name] for name in names})
    started = time.perf_counter()
    bound.enqueue()
    return {
        "features_s": round(features_s, 1),
        "flow_s": round(time.perf_counter() - started, 1),
        "peak_mb": {"features": peak_features, "flow": peak_memory_mb()},
        "finite": bool(np.isfinite(arrays["flow"]).all()),
    }


if __name__ == "__main__":
    main()
