"""Opens an engine set, and checks it the first time that it is opened on a machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..durable import link_or_copy, write_atomically
from ..errors import StreamDiffVSRError, UsageError, command, option
from ..graphs.spec import (
    GRAPHS,
    GRAPHS_JSON,
    LANES,
    GraphSet,
    GraphSpec,
    Size,
    golden_file,
    onnx_file,
)
from ..reading import read_json
from .backends import Fraction
from .cache import engines_root, remembered_digest
from .host import Gpu, cuda_gpu, current_gpu
from .interface import Engine, kind_of, ordinal_of
from .manifest import MANIFEST, EngineKey, Gate, Manifest, ParityEntry, file_entry, verify_files
from .parity import check_parity
from .registry import Backend, installed_version, require_backend, run_on
from .trust import sign, trusted_manifest

ACCEPTANCE = "acceptance.json"
MAX_BYTES = 2**20


def is_accepted(folder: Path, gpu: Gpu, library: str) -> bool:
    """Returns whether this very set has passed on this kind of GPU, driver and library version."""
    return _place(folder, gpu, library) in [entry["place"] for entry in _read(folder)]


def record_acceptance(
    folder: Path, gpu: Gpu, library: str, parity: Mapping[str, ParityEntry]
) -> None:
    """Records that the set has passed; if it cannot be written, every start gates the set."""
    place = _place(folder, gpu, library)
    kept = [entry for entry in _read(folder) if entry["place"] != place]
    entries = {name: asdict(entry) for name, entry in parity.items()}
    text = json.dumps([*kept, {"place": place, "parity": entries}], indent=2)
    with contextlib.suppress(OSError), write_atomically(folder / ACCEPTANCE) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _place(folder: Path, gpu: Gpu, library: str) -> dict[str, str]:
    manifest = file_entry(folder / MANIFEST).sha256
    return {"gpu": gpu.name, "driver": gpu.driver, "library": library, "manifest": manifest}


def _read(folder: Path) -> list[dict[str, Any]]:
    path = folder / ACCEPTANCE
    try:
        entries = read_json(path, MAX_BYTES, follow=False)
        return [entry for entry in entries if isinstance(entry["place"], dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # missing or damaged: gated again


Progress = Callable[[str], None]
# Files that a set consists of; any other file in its folder is a cache that may change or vanish.
ENGINE_SUFFIXES = (".onnx", ".data", ".plan", ".safetensors")


def accept_graphs(
    folder: Path,
    key: EngineKey,
    model_name: str,
    *,
    package_version: str,
    started: float,
    progress: Progress,
    workspace_bytes: int | None = None,
    device: str | None = None,
    checked: Path | None = None,
) -> Manifest:
    """Turns the graph folder of an export into an engine set, in place.

    Every engine passes the parity gate before the manifest is written. If it cannot run on this
    machine, the gate stays pending, and the set keeps the files that the gate needs.

    Args:
        started: `time.monotonic()` when the build began.
        workspace_bytes: The most scratch memory of a compiled layer; None is the library's choice.
        device: The GPU that builds and checks them, "cuda:1"; None is the first.
        checked: The folder of a smaller set that passes the gate for this one; None is the folder.
    """
    backend = require_backend(key.backend)
    device = device or key.device
    graphs = GraphSet.read(folder)
    gated = GraphSet.read(checked or folder).specs()
    obstacle = backend.obstacle(key, device)
    parity: dict[str, ParityEntry] = {}
    made_of: dict[str, str] = {}
    for name, spec in graphs.specs().items():
        if backend.compile is not None:
            made_of[name] = _source_digest(folder, name, key, workspace_bytes)
            if not _take_over(folder, backend, name, made_of[name], progress):
                progress(f"compile {name}")
                with current_gpu(device):
                    backend.compile(folder, spec, key, workspace_bytes, _percent(name, progress))
        if not obstacle:
            progress(f"check {name}")
            parity |= _gate(backend, checked or folder, {name: gated[name]}, device, graphs)
    if obstacle:
        progress(f"not checked here: {obstacle}; they are when the set is first opened on one")
    _remove_export_files(folder, backend, key)
    gpu = cuda_gpu(ordinal_of(device)) if key.device == "cuda" else None
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
        files={
            p.name: file_entry(p) for p in sorted(folder.iterdir()) if p.suffix in ENGINE_SUFFIXES
        },
        gate=gate,
        parity=parity,
        made_of=made_of,
    )
    manifest.write(folder)
    sign(folder / MANIFEST)
    if gpu is not None and gate == "passed":
        record_acceptance(folder, gpu, manifest.backend_version, parity)
    return manifest


def _source_digest(folder: Path, name: str, key: EngineKey, workspace: int | None) -> str:
    """Returns a digest of all that a compiled engine depends on: graph, weights and settings."""
    from ..graphs.onnx_network import read_network, weights_files

    path = folder / onnx_file(name)
    settings = (key.backend, key.library, key.gpu, key.optimization_level, key.sizes, workspace)
    parts = [file_entry(path).sha256, repr(settings)]
    weights = sorted(weights_files(read_network(path)))
    parts += [remembered_digest(folder / file) for file in weights]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _take_over(folder: Path, backend: Backend, name: str, made_of: str, progress: Progress) -> bool:
    """Takes a graph's engine from a set of the cache that was made of the same, if there is one.

    Frames that are padded to one size share most engines, and so do numbers of steps.
    """
    for other in sorted(engines_root().glob(f"[!.]*/{MANIFEST}")):
        with contextlib.suppress(StreamDiffVSRError, OSError):
            manifest, file = trusted_manifest(other.parent), backend.file(name)
            if manifest.made_of.get(name) != made_of:
                continue
            engine = folder / file
            link_or_copy(other.parent / file, engine)
            if file_entry(engine) == manifest.files[file]:
                (folder / onnx_file(name)).unlink()
                progress(f"take {name} from {other.parent.name}")
                return True
            engine.unlink()
    return False


def _remove_export_files(folder: Path, backend: Backend, key: EngineKey) -> None:
    """Removes the files of which the engines were made.

    The recorded tensors of a GPU's set stay: every GPU on which it is opened first checks it
    against them.
    """
    if key.device != "cuda":
        for name in GRAPHS:
            (folder / golden_file(name)).unlink(missing_ok=True)
    if backend.compile is not None:
        for weights in folder.glob("*.data"):
            weights.unlink()
    (folder / GRAPHS_JSON).unlink()


def open_engines(
    folder: Path,
    device: str | None = None,
    size: Size | None = None,
    graphs: Collection[str] = GRAPHS,
) -> tuple[Manifest, dict[str, Engine]]:
    """Opens the engines of a set, after checking its files against their digests.

    Engines for a GPU pass the parity gate once on each kind of GPU, driver and library.

    Args:
        device: The GPU, "cuda:1"; None is the first, or the CPU for a CPU's set.
        size: LR size (h, w) of the frames, if the set takes a range of sizes; None is the one that
            it is tuned for.
        graphs: The names of the graphs whose engines are opened.

    Raises:
        UsageError: The set is for another kind of device, or the size is not in its range.
        StreamDiffVSRError: The set is missing, not trusted, damaged, cannot run here, or is not
            accepted.
    """
    manifest = trusted_manifest(folder)
    backend = require_backend(manifest.key.backend)
    device = device_of(folder, manifest, device)
    _check_runs_here(folder, manifest, backend, device)
    verify_files(folder, manifest)
    if manifest.key.device == "cuda":
        _accept_here(folder, manifest, backend, device)
    if size is not None:
        manifest = replace(manifest, graphs=manifest.graphs.at(size))
    specs = manifest.graphs.specs()
    engines: dict[str, Engine] = {}
    for lane in LANES:
        scratch = None if backend.scratch is None else backend.scratch(device)
        engines |= {
            name: backend.open(folder, specs[name], device, scratch)
            for name in lane
            if name in graphs
        }
    return manifest, {name: engines[name] for name in GRAPHS if name in graphs}


def device_of(folder: Path, manifest: Manifest, device: str | None) -> str:
    """Returns the device on which a set's engines will run: the one named, or the set's own.

    Raises:
        UsageError: The set is for another kind of device.
    """
    if device is None or device == manifest.key.device:
        return manifest.key.device
    if kind_of(device) != manifest.key.device:
        wanted = option("device", kind_of(device))
        raise UsageError(
            f"the engines of {folder} are for {manifest.key.device}, not {device}",
            remedy=f"leave the device out, or build engines with {wanted}",
        )
    return device


def _check_runs_here(folder: Path, manifest: Manifest, backend: Backend, device: str) -> None:
    if missing := [name for name in GRAPHS if backend.file(name) not in manifest.files]:
        raise StreamDiffVSRError(
            f"{folder} is incomplete", f"no {', '.join(missing)}", "rebuild the engines"
        )
    if obstacle := backend.obstacle(manifest.key, device):
        raise StreamDiffVSRError(
            f"the engines of {folder} cannot run here",
            obstacle,
            f"build others with {command('engines')}, on a CPU with "
            f"{option('backend', 'onnxruntime')}",
        )


def _accept_here(folder: Path, manifest: Manifest, backend: Backend, device: str) -> None:
    """Gates the set unless it has already passed on this kind of GPU."""
    gpu = cuda_gpu(ordinal_of(device))
    assert gpu is not None  # without a GPU there would have been an obstacle
    library = installed_version(backend) or "unknown"
    if is_accepted(folder, gpu, library):
        return
    graphs = manifest.graphs
    parity = _gate(backend, folder, graphs.specs(), device, graphs)
    record_acceptance(folder, gpu, library, parity)


def _gate(
    backend: Backend,
    folder: Path,
    specs: Mapping[str, GraphSpec],
    device: str,
    graphs: GraphSet,
) -> dict[str, ParityEntry]:
    """Opens each engine and checks it, one at a time, because the largest takes gigabytes."""
    parity = {}
    for name, spec in specs.items():
        engine = backend.open(folder, spec, device, None)
        parity[name] = check_parity(engine, folder, graphs.precision, run_on(device))
        del engine
    return parity


def _percent(name: str, progress: Progress) -> Fraction:
    return lambda fraction: progress(f"compile {name} {fraction:.0%}")
