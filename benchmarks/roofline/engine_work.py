"""Counts the work of an engine set: of its ONNX files, or of the same graphs elsewhere.

A set of `onnxruntime` contains ONNX. A compiled one, or torch's, does not: its graphs are those of
an ONNX set of the same model, size and precision in the user's cache, or are traced from the
model's configs without its weights (a minute or more, so the result is kept in the cache).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...durable import write_atomically
from ...engines.cache import cache_root, engines_root, remembered_digest
from ...engines.cache_listing import is_engine_set
from ...engines.manifest import Manifest, read_manifest
from ...errors import StreamDiffVSRError
from ...graphs.plan import Plan
from ...graphs.spec import GRAPHS, TILED, Geometry, Precision, onnx_file
from ...runtime.stages import TileGrid
from .graph_work import GraphWork, count_file

if TYPE_CHECKING:
    from ...export.configs import ModelConfigs

Progress = Callable[[str], None]
COUNT_VERSION = 1  # raise this when the same graphs would be counted differently
# The fields of a key that its graphs depend on; the others are about how they are run.
GRAPH_FIELDS = ("model_digest", "size", "flow", "tile", "steps", "graph_version")


@dataclass(frozen=True, slots=True)
class FrameWork:
    """The work of a guided frame.

    Attributes:
        graphs: The work of one run of each graph.
        runs: The number of runs of each graph per frame: steps and tiles.
    """

    graphs: Mapping[str, GraphWork]
    runs: Mapping[str, int]
    precision: Precision

    @property
    def flops(self) -> int:
        """The FLOPs of the whole frame."""
        return sum(work.flops * self.runs[name] for name, work in self.graphs.items())

    @property
    def nbytes(self) -> int:
        """The bytes of the whole frame."""
        return sum(work.nbytes * self.runs[name] for name, work in self.graphs.items())


def frame_runs(geometry: Geometry, steps: int) -> dict[str, int]:
    """Returns the number of runs of each graph for a guided frame."""
    tiles = 1
    if geometry.tile is not None:
        tiles = len(TileGrid(geometry.padded, geometry.tile).tiles)
    runs = {name: tiles if name in TILED else 1 for name in GRAPHS}
    return runs | {"denoise": steps * tiles}


def engine_work(folder: Path, progress: Progress = lambda _: None) -> FrameWork:
    """Returns the work of a guided frame of an engine set.

    Args:
        progress: Receives one line before a step that takes a while.

    Raises:
        StreamDiffVSRError: The set does not exist, onnx is not installed, or the set has no ONNX
            and its model is no longer on this disk.
    """
    manifest = read_manifest(folder)
    graphs = manifest.graphs
    if manifest.key.backend == "onnxruntime":
        found: Path | None = folder
    else:
        found = _exported_like(manifest)
    if found is not None:
        works = {name: count_file(found / onnx_file(name)) for name in GRAPHS}
    else:
        works = _kept(manifest) or _keep(manifest, _traced(folder, manifest, progress))
    return FrameWork(works, frame_runs(graphs.geometry, graphs.steps), graphs.precision)


def _exported_like(manifest: Manifest) -> Path | None:
    """Returns a set in the user's cache that has the graphs of this one as ONNX; or None."""
    root = engines_root()
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not is_engine_set(folder):
            continue
        with contextlib.suppress(StreamDiffVSRError):
            other = read_manifest(folder)
            if other.key.backend == "onnxruntime" and _identity(other) == _identity(manifest):
                return folder
    return None


def _identity(manifest: Manifest) -> tuple[object, ...]:
    key = manifest.key
    return (manifest.graphs.precision, *(getattr(key, name) for name in GRAPH_FIELDS))


def _memo(manifest: Manifest) -> Path:
    text = json.dumps([COUNT_VERSION, *_identity(manifest)])
    return cache_root() / "work" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _kept(manifest: Manifest) -> dict[str, GraphWork] | None:
    """Returns the work that was counted before; None if it is missing or damaged."""
    try:
        data = json.loads(_memo(manifest).read_text(encoding="utf-8"))
        return {name: GraphWork.from_json(data[name]) for name in GRAPHS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(manifest: Manifest, works: dict[str, GraphWork]) -> dict[str, GraphWork]:
    path = _memo(manifest)
    with contextlib.suppress(OSError):  # a read-only cache is not an error
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as part:
            part.write_text(json.dumps({name: work.to_json() for name, work in works.items()}))
    return works


def _traced(folder: Path, manifest: Manifest, progress: Progress) -> dict[str, GraphWork]:
    from .weightless import Traced, trace_work

    graphs = manifest.graphs
    configs, prompt_tokens = _configs(folder, manifest)
    traced = Traced(
        configs,
        Plan(graphs.geometry, graphs.correlation),
        graphs.precision,
        graphs.steps,
        prompt_tokens,
    )
    progress("trace the graphs again, to count their work; the set has them compiled only")
    return dict(trace_work(traced))


def _configs(folder: Path, manifest: Manifest) -> tuple[ModelConfigs, int]:
    """Returns the configs and prompt length of the model that the set was built from."""
    from ...export.model_source import model_digest
    from .weightless import configs_of, find_local

    remedy = "count where the model is, or build it for onnxruntime"
    what = f"the work of {folder} cannot be counted"
    try:
        source = find_local(manifest.model_name)
        digest = model_digest(source, remembered_digest)
    except StreamDiffVSRError as error:
        raise StreamDiffVSRError(what, f"it holds no ONNX, and {error}", remedy) from error
    if digest != manifest.key.model_digest:
        why = f"it holds no ONNX, and {manifest.model_name} is not the model it was built from"
        raise StreamDiffVSRError(what, why, remedy)
    return configs_of(source)
