"""Graph folders for the tests of compiled engines, made from the engine set of the recorded model.

That set holds the exported ONNX as it is; what else an export leaves is made up here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save_file

from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.graphs.onnx_network import weights_files
from streamdiffvsr.graphs.spec import GraphSpec, golden_file, onnx_file


def specs_of(engines: Path) -> dict[str, GraphSpec]:
    """The tensors of every graph of a set."""
    return read_manifest(engines).graphs.specs()


def copy_graph(engines: Path, name: str, folder: Path) -> Path:
    """One graph with its weights; returns the ONNX file."""
    source = engines / onnx_file(name)
    for weights in weights_files(onnx.load(str(source), load_external_data=False)):
        shutil.copy(engines / weights, folder)
    return Path(shutil.copy(source, folder))


def make_graph_folder(engines: Path, folder: Path) -> Path:
    """Makes what an export of the recorded model leaves, with tensors recorded by ONNX Runtime."""
    folder.mkdir()
    for name, spec in specs_of(engines).items():
        path = copy_graph(engines, name, folder)
        draw = np.random.default_rng(0)
        inputs = {
            t.name: np.ones(t.shape, t.dtype)
            if t.dtype in ("int32", "uint8")
            else draw.normal(size=t.shape).astype(t.dtype)
            for t in spec.inputs
        }
        outputs = {t.name: np.empty(t.shape, t.dtype) for t in spec.outputs}
        OrtEngine(path, spec).bind(inputs | outputs).enqueue()
        record = {f"in.{k}": v for k, v in inputs.items()}
        save_file(record | {f"out.{k}": v for k, v in outputs.items()}, folder / golden_file(name))
    read_manifest(engines).graphs.write(folder)
    return folder
