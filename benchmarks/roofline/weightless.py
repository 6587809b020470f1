"""The ONNX files of a model from its configs alone: full-size graphs without a byte of weights.

Modules and inputs are on torch's meta device, so tracing needs no memory and computes nothing. What
is written is what `export/onnx_export.py` writes, operator for operator, but for weights that name
a data file that is not there, and their transposition, which is not done ahead. To count, not to
run. Needs the export extra. A model is only looked for on this disk, and not fetched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines.host import require_export
from ...errors import StreamDiffVSRError
from ...export.model_source import BUILT_IN, PROMPT_FILE, resolve_model
from ...graphs.plan import Plan
from ...graphs.spec import DEFAULT_STEPS, GRAPHS, GraphSpec, Precision, onnx_file
from .graph_work import GraphWork, count_file

if TYPE_CHECKING:
    from torch import nn

    from ...export.configs import ModelConfigs

STEPS = DEFAULT_STEPS
PROMPT_TOKENS = 77  # of the text encoder that the released model was trained with


@dataclass(frozen=True, slots=True)
class Traced:
    """What is traced.

    Attributes:
        plan: Size, flow, correlation and tiles.
        steps: Length of the folded tables; the operators are the same.
    """

    configs: ModelConfigs
    plan: Plan
    precision: Precision = "fp16"
    steps: int = STEPS
    prompt_tokens: int = PROMPT_TOKENS


def trace_work(traced: Traced, only: Iterable[str] = GRAPHS) -> Iterator[tuple[str, GraphWork]]:
    """Write each graph to a folder that is removed again, and count it: its name, its work.

    Raises:
        StreamDiffVSRError: The export extra is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        for path in write_graphs(traced, Path(folder), only):
            yield path.stem, count_file(path)


def write_graphs(traced: Traced, folder: Path, only: Iterable[str] = GRAPHS) -> Iterator[Path]:
    """Write graphs of a model without weights as ONNX files, one after the other.

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
    """The module as the exporter's own representation; its weights are on the meta device."""
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
    """Folds what is small, and saves with references to weights that do not exist."""
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
    """Ones where a small constant may be folded, a file that is not there for the rest."""
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
    """Numbers that stand in for weights overflow where weights do not."""
    import numpy as np

    with np.errstate(all="ignore"):
        yield


def find_local(name: str) -> Path:
    """The folder of a model by the name that engines were built with.

    Raises:
        StreamDiffVSRError: It is not on this disk.
    """
    if name == BUILT_IN or Path(name).expanduser().exists():
        return resolve_model(name)
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except Exception as error:  # not installed, not fetched, no name of a repository
        raise StreamDiffVSRError(f"the model {name} is not on this disk") from error


def configs_of(folder: Path) -> tuple[ModelConfigs, int]:
    """The configs of a model folder, and how many tokens its prompt has."""
    from ...export.config_files import read_configs

    return read_configs(folder), _prompt_tokens(folder / PROMPT_FILE)


def _prompt_tokens(path: Path) -> int:
    """The length of an embedding, from its file's header; one that is computed has the usual."""
    if not path.is_file():
        return PROMPT_TOKENS
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        (name,) = file.keys()
        return int(file.get_slice(name).get_shape()[1])
