"""Counts the work of an engine set: of its ONNX files, or of the same graphs elsewhere.

A set of `onnxruntime` contains ONNX. A compiled one, or torch's, does not: its graphs are those of
an ONNX set of the same model, size and precision in the user's cache, or are traced from the
model's configs without its weights (a minute or more, so the result is kept in the cache).

For that, modules and inputs are on torch's meta device, so tracing needs no memory and computes
nothing. The operators are those that `export/onnx_export.py` writes, except that weights are not
transposed ahead; they refer to data files that do not exist, so the graphs cannot be run. This
needs the export extra. Models are looked for on this disk, and never downloaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...durable import write_atomically
from ...engines.cache import cache_root, engines_root, remembered_digest
from ...engines.cache_listing import is_engine_set
from ...engines.host import require_export
from ...engines.manifest import Manifest, read_manifest
from ...errors import StreamDiffVSRError
from ...export.model_source import BUILT_IN, PROMPT_FILE, resolve_model
from ...graphs.plan import Plan
from ...graphs.spec import DEFAULT_STEPS, GRAPHS, TILED, Geometry, GraphSpec, Precision, onnx_file
from ...reading import read_json
from ...runtime.stages import TileGrid
from .graph_work import GraphWork, count_file

if TYPE_CHECKING:
    from torch import nn

    from ...export.configs import ModelConfigs


Progress = Callable[[str], None]
MAX_MEMO_BYTES = 2**22
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
        data = read_json(_memo(manifest), MAX_MEMO_BYTES)
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


STEPS = DEFAULT_STEPS
PROMPT_TOKENS = 77  # by the text encoder that the released model was trained with


@dataclass(frozen=True, slots=True)
class Traced:
    """The model and the geometry to trace.

    Attributes:
        plan: The size, flow, correlation and tiles.
        steps: The length of the folded tables, which does not change the operators.
    """

    configs: ModelConfigs
    plan: Plan
    precision: Precision = "fp16"
    steps: int = STEPS
    prompt_tokens: int = PROMPT_TOKENS


def trace_work(traced: Traced, only: Iterable[str] = GRAPHS) -> Iterator[tuple[str, GraphWork]]:
    """Writes each graph to a temporary folder, and yields its name and work.

    Raises:
        StreamDiffVSRError: The export extra is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        for path in write_graphs(traced, Path(folder), only):
            yield path.stem, count_file(path)


def write_graphs(traced: Traced, folder: Path, only: Iterable[str] = GRAPHS) -> Iterator[Path]:
    """Writes graphs without weights as ONNX files, and yields their paths one by one.

    Raises:
        StreamDiffVSRError: The export extra is not installed.
    """
    require_export()
    import torch

    from ...export.graph_folder import CORRELATIONS, model_dims
    from ...export.graphs import build_graphs
    from ...graphs.schedule import step_table
    from ...graphs.spec import graph_specs

    plan, table = traced.plan, step_table(traced.configs.scheduler, traced.steps)
    with torch.device("meta"):
        model = _model(traced)
        correlation = CORRELATIONS[plan.correlation]
        modules = build_graphs(model, plan.geometry, traced.precision, table, correlation)
    specs = graph_specs(plan.geometry, model_dims(model), traced.precision)
    for name in only:
        path = folder / onnx_file(name)
        with torch.device("meta"):
            exported = _export(modules[name], specs[name])
        _save(exported, path)
        yield path


def _model(traced: Traced) -> Any:
    import torch

    from ...export.model import Model
    from ...export.random_model import networks

    configs = traced.configs
    parts: dict[str, Any] = {
        name: network.eval().requires_grad_(False) for name, network in networks(configs).items()
    }
    prompt = torch.empty(1, traced.prompt_tokens, configs.unet.cross_attention_dim)
    return Model(configs=configs, prompt_embeds=prompt, digest="", **parts)


def _export(module: nn.Module, spec: GraphSpec) -> Any:
    """Returns the exporter's representation of a module with weights on the meta device."""
    import torch

    from ...export.graph_folder import example_inputs, tracing
    from ...export.onnx_export import OPSET

    with tracing():
        program = torch.onnx.export(
            module,
            example_inputs(spec),
            dynamo=True,
            opset_version=OPSET,
            input_names=[s.name for s in spec.inputs],
            output_names=[s.name for s in spec.outputs],
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


def _save(model: Any, path: Path) -> None:
    """Folds small constants, and saves the model with references to missing weights."""
    import onnx
    import onnx_ir
    import onnxscript.optimizer

    from ...export.graph_folder import tracing
    from ...export.onnx_export import SMALL_BYTES, fold_small_constants

    for value in model.graph.initializers.values():
        value.const_value = _stand_in(value.const_value)
    with tracing(), _no_complaints():
        onnxscript.optimizer.inline(model)
        onnxscript.optimizer.fold_constants(model, input_size_limit=SMALL_BYTES)
        onnxscript.optimizer.remove_unused_nodes(model)
        onnx.save_model(onnx_ir.serde.serialize_model(model), str(path))
        fold_small_constants(path)


def _stand_in(weight: Any) -> Any:
    """Returns ones for a weight that may be folded, or else a reference to a missing file."""
    import numpy as np
    import onnx_ir

    from ...export.onnx_export import SMALL_BYTES

    if weight.nbytes <= SMALL_BYTES:
        ones = np.ones(tuple(weight.shape), weight.dtype.numpy())
        return onnx_ir.Tensor(ones, name=weight.name)
    return onnx_ir.ExternalTensor(
        f"{weight.name}.weights",
        0,
        weight.nbytes,
        weight.dtype,
        shape=weight.shape,
        name=weight.name,
    )


@contextmanager
def _no_complaints() -> Iterator[None]:
    """Silences numpy: the stand-ins for weights may overflow where real weights do not."""
    import numpy as np

    with np.errstate(all="ignore"):
        yield


def find_local(name: str) -> Path:
    """Returns the folder of a model by the name that engines were built with.

    Raises:
        StreamDiffVSRError: The model is not on this disk.
    """
    if name == BUILT_IN or Path(name).expanduser().exists():
        return resolve_model(name)
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except Exception as error:  # not installed, not downloaded, or not a repository's name
        raise StreamDiffVSRError(f"the model {name} is not on this disk") from error


def configs_of(folder: Path) -> tuple[ModelConfigs, int]:
    """Returns the configs of a model folder, and the number of tokens of its prompt."""
    from ...export.config_files import read_configs

    return read_configs(folder), _prompt_tokens(folder / PROMPT_FILE)


def _prompt_tokens(path: Path) -> int:
    """Returns the length of a prompt's embedding, from its file's header or by default."""
    if not path.is_file():
        return PROMPT_TOKENS
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        (name,) = file.keys()
        return int(file.get_slice(name).get_shape()[1])
