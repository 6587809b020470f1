"""An engine set: accept freshly exported graphs as engines, or open a set that was accepted."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import StreamDiffVSRError
from ..graph_set import GRAPHS_JSON, GraphSet, golden_file
from ..spec import GRAPHS, GraphSpec
from .acceptance import is_accepted, record_acceptance
from .backends import Backend, Fraction, installed_version, require_backend
from .gate import check_parity
from .gpu import cuda_gpu
from .manifest import (
    EngineKey,
    Gate,
    Manifest,
    ParityEntry,
    file_entry,
    read_manifest,
    verify_files,
)
from .protocol import Engine

Progress = Callable[[str], None]
# What a set is made of. Anything else in its folder is a cache that may change or be lost.
KEPT = (".onnx", ".data", ".plan", ".safetensors")


def accept_graphs(
    folder: Path,
    key: EngineKey,
    model_name: str,
    *,
    package_version: str,
    started: float,
    progress: Progress,
    workspace_bytes: int | None = None,
) -> Manifest:
    """Turn the graph folder of an export into an engine set, in place.

    Every engine passes the parity gate before the manifest is written. Where it cannot run on this
    machine the gate stays pending, and what it needs stays in the set.

    Args:
        started: `time.monotonic()` when the build began.
        workspace_bytes: The most scratch memory of a compiled layer; None is the library's choice.
    """
    backend = require_backend(key.backend)
    graphs = GraphSet.read(folder)
    obstacle = backend.obstacle(key)
    parity: dict[str, ParityEntry] = {}
    for name, spec in graphs.specs().items():
        if backend.compile is not None:
            progress(f"compile {name}")
            backend.compile(folder, spec, key, workspace_bytes, _percent(name, progress))
        if not obstacle:
            progress(f"check {name}")
            parity |= _gate(backend, folder, {name: spec}, key, graphs)
    if obstacle:
        progress(f"not checked here: {obstacle}; they are when the set is first opened on one")
    _remove_the_exports_files(folder, key)
    gpu = cuda_gpu() if key.device == "cuda" else None
    gate: Gate = "pending" if obstacle else "passed"
    manifest = Manifest(
        key=key,
        model_name=model_name,
        graphs=graphs,
        backend_version=installed_version(backend) or "unknown",
        package_version=package_version,
        machine=f"{platform.system()} {platform.machine()}",
        driver="" if gpu is None else gpu.driver,
        build_seconds=time.monotonic() - started,
        files={p.name: file_entry(p) for p in sorted(folder.iterdir()) if p.suffix in KEPT},
        gate=gate,
        parity=parity,
    )
    manifest.write(folder)
    if gpu is not None and gate == "passed":
        record_acceptance(folder, gpu, manifest.backend_version, parity)
    return manifest


def _remove_the_exports_files(folder: Path, key: EngineKey) -> None:
    """Engines of a GPU keep the recorded tensors: each GPU that they come to is a new one."""
    if key.device != "cuda":
        for name in GRAPHS:
            (folder / golden_file(name)).unlink()
    (folder / GRAPHS_JSON).unlink()


def open_engines(folder: Path) -> tuple[Manifest, dict[str, Engine]]:
    """Every engine of a set, after its files were checked against their digests.

    Those of a GPU pass the parity gate once on each kind of GPU, driver and library.

    Raises:
        StreamDiffVSRError: The set is missing, damaged, cannot run here, or is not accepted.
    """
    manifest = read_manifest(folder)
    backend = require_backend(manifest.key.backend)
    _check_runs_here(folder, manifest, backend)
    verify_files(folder, manifest)
    specs = manifest.graphs.specs()
    if manifest.key.device == "cuda":
        _accept_here(folder, manifest, backend)
    return manifest, {
        name: backend.open(folder, specs[name], manifest.key.device) for name in GRAPHS
    }


def _check_runs_here(folder: Path, manifest: Manifest, backend: Backend) -> None:
    if missing := [name for name in GRAPHS if backend.file(name) not in manifest.files]:
        raise StreamDiffVSRError(
            f"{folder} is incomplete", f"no {', '.join(missing)}", "rebuild the engines"
        )
    if obstacle := backend.obstacle(manifest.key):
        raise StreamDiffVSRError(
            f"the engines of {folder} cannot run here",
            obstacle,
            "build others with streamdiffvsr engines, on a CPU with --backend onnxruntime",
        )


def _accept_here(folder: Path, manifest: Manifest, backend: Backend) -> None:
    """Gate the set unless it has passed on this kind of GPU before."""
    gpu = cuda_gpu()
    assert gpu is not None  # else there was an obstacle
    library = installed_version(backend) or "unknown"
    if is_accepted(folder, gpu, library):
        return
    graphs = manifest.graphs
    parity = _gate(backend, folder, graphs.specs(), manifest.key, graphs)
    record_acceptance(folder, gpu, library, parity)


def _gate(
    backend: Backend,
    folder: Path,
    specs: Mapping[str, GraphSpec],
    key: EngineKey,
    graphs: GraphSet,
) -> dict[str, ParityEntry]:
    """Open each engine and check it, one at a time: the largest is gigabytes."""
    parity = {}
    for name, spec in specs.items():
        engine = backend.open(folder, spec, key.device)
        parity[name] = check_parity(engine, folder, graphs.precision, backend.run(key.device))
        del engine
    return parity


def _percent(name: str, progress: Progress) -> Fraction:
    return lambda fraction: progress(f"compile {name} {fraction:.0%}")
