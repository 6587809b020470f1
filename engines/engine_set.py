"""An engine set: accept freshly exported graphs as engines, or open a set that was accepted."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import StreamDiffVSRError
from ..graph_set import GRAPHS_JSON, GraphSet, golden_file
from ..spec import GRAPHS
from .backends import installed_version, require_backend
from .gate import check_parity
from .manifest import (
    EngineKey,
    Manifest,
    ParityEntry,
    file_entry,
    read_manifest,
    verify_files,
)
from .protocol import Engine

Progress = Callable[[str], None]


def accept_graphs(
    folder: Path,
    key: EngineKey,
    model_name: str,
    *,
    package_version: str,
    started: float,
    progress: Progress,
) -> Manifest:
    """Turn the graph folder of an export into an engine set, in place.

    Every engine passes the parity gate before the manifest is written.

    Args:
        started: `time.monotonic()` when the build began.
    """
    backend = require_backend(key.backend)
    assert backend.open is not None
    graphs = GraphSet.read(folder)
    parity: dict[str, ParityEntry] = {}
    for name, spec in graphs.specs().items():
        progress(name)
        engine = backend.open(folder, spec, key.device)
        parity[name] = check_parity(engine, folder, graphs.precision)
        del engine  # one at a time: the largest is gigabytes
    for name in GRAPHS:
        (folder / golden_file(name)).unlink()
    (folder / GRAPHS_JSON).unlink()
    manifest = Manifest(
        key=key,
        model_name=model_name,
        graphs=graphs,
        backend_version=installed_version(backend) or "unknown",
        package_version=package_version,
        machine=f"{platform.system()} {platform.machine()}",
        build_seconds=time.monotonic() - started,
        files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
        parity=parity,
    )
    manifest.write(folder)
    return manifest


def open_engines(folder: Path) -> tuple[Manifest, dict[str, Engine]]:
    """Every engine of a set, after its files were checked against their digests.

    Raises:
        StreamDiffVSRError: The set is missing, damaged, or its backend is not installed.
    """
    manifest = read_manifest(folder)
    backend = require_backend(manifest.key.backend)
    assert backend.open is not None
    verify_files(folder, manifest)
    missing = [name for name in GRAPHS if name not in manifest.parity]
    if missing:
        raise StreamDiffVSRError(
            f"{folder} is incomplete", f"no {', '.join(missing)}", "rebuild the engines"
        )
    specs = manifest.graphs.specs()
    return manifest, {
        name: backend.open(folder, specs[name], manifest.key.device) for name in GRAPHS
    }
