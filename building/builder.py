"""From a model to an engine set: resolve, export, accept, and only what is stale."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..engines.backends import BACKENDS, require_backend
from ..engines.cache import default_folder, locked, refuse_foreign, staged
from ..engines.digest_memo import remember_files, remembered_digest
from ..engines.manifest import EngineKey, Target, read_manifest, verify_files
from ..errors import StreamDiffVSRError, UsageError
from ..graph_set import GRAPH_VERSION
from ..host import EXPORT_MODULES, TORCH_MODULES, require_export
from ..plan import Plan, make_plan
from ..spec import FLOAT, Size, format_size
from .memory import check_memory
from .order import BuildOrder, carry_out
from .process import carry_out_in_child

Progress = Callable[[str], None]
MAX_STEPS = 50


def build(
    model: str | Path,
    *,
    size: Size,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    out: str | Path | None = None,
    steps: int = 4,
    device: str = "cpu",
    flow_scale: int | None = None,
    correlation: str | None = None,
    tile: Size | str | None = "auto",
    revision: str | None = None,
    compute_capabilities: Sequence[int] | None = None,
    workspace_mib: int | None = None,
    progress: Progress = lambda _: None,
    in_process: bool = False,
) -> Path:
    """Build the engines of a model for one input size, or find them already built.

    Args:
        model: `tiny`, a model folder, or a Hugging Face repo id.
        size: LR size (h, w).
        backend: `onnxruntime`, `tensorrt`, `tensorrt-rtx` or `torch`.
        precision: "fp32" or "fp16".
        out: Folder of the engine set; by default one in the user's cache, named after its key.
        steps: Number of denoising steps; the released model is trained for 4.
        device: "cpu" or "cuda": where the engines will run.
        flow_scale, correlation, tile: Overrides of the plan, see `plan.make_plan`.
        revision: Of the Hugging Face repo.
        compute_capabilities: The GPUs of `tensorrt-rtx` engines, 89 for 8.9.
        workspace_mib: The most scratch memory of a compiled layer; None is the library's choice.
        progress: Called with one line whenever something begins.
        in_process: Build in this process, not in one of its own that may die alone.

    Returns:
        The engine set's folder, for `streamdiffvsr.load`.

    Raises:
        StreamDiffVSRError: One line: what could not be done, why, what to do.
    """
    started = time.monotonic()
    _check(precision, steps, device, workspace_mib)
    planned = partial(make_plan, size, flow_scale=flow_scale, correlation=correlation, tile=tile)
    # What is refused is refused here, before a model is fetched that may have wishes of its own.
    target = _target(backend, device, compute_capabilities)
    _refuse_unchecked(_key(planned(), "", precision, steps, backend, device, target))
    require_export(TORCH_MODULES if backend == "torch" else EXPORT_MODULES)
    from ..export.digest import model_digest
    from ..export.flow_files import read_flow
    from ..export.hub import resolve_model

    source = resolve_model(str(model), revision)
    plan = planned(preferred=read_flow(source).flow_scale)
    key = _key(
        plan, model_digest(source, remembered_digest), precision, steps, backend, device, target
    )
    folder = Path(out) if out is not None else default_folder(str(model), key)
    order = BuildOrder(
        source=source,
        stage=folder,
        key=key,
        model_name=str(model),
        geometry=plan.geometry,
        correlation=plan.correlation,
        workspace_bytes=None if workspace_mib is None else workspace_mib * 2**20,
        started=started,
    )
    refuse_foreign(folder)
    with locked(folder):
        _bring_up_to_date(folder, order, plan, progress, in_process=in_process)
    return folder


def _bring_up_to_date(
    folder: Path, order: BuildOrder, plan: Plan, progress: Progress, *, in_process: bool
) -> None:
    """Build the set unless it is there; the caller has locked it."""
    from ..export.digest import model_files

    stale = _why_stale(folder, order.key)
    if stale is None:
        progress(f"up to date: {folder}")
        return
    progress(f"building {folder} ({stale})")
    progress(plan.describe())
    check_memory(model_files(order.source), order.key)
    carry = carry_out if in_process else carry_out_in_child
    with staged(folder) as stage:
        carry(replace(order, stage=stage), progress)
    remember_files(folder, {k: v.sha256 for k, v in read_manifest(folder).files.items()})
    progress(f"built {folder} in {time.monotonic() - order.started:.0f} s")


def _check(precision: str, steps: int, device: str, workspace_mib: int | None) -> None:
    if precision not in FLOAT:
        raise UsageError(f"unknown precision {precision!r}", remedy=f"use {' or '.join(FLOAT)}")
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"{steps} steps are not possible", remedy=f"use 1 to {MAX_STEPS}, e.g. 4")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {device!r}", remedy="use cpu or cuda")
    if workspace_mib is not None and workspace_mib < 1:
        raise UsageError(f"a workspace of {workspace_mib} MiB is not possible")


def _target(backend: str, device: str, capabilities: Sequence[int] | None) -> Target:
    """What the engines would depend on; whatever stands against them is told before an export."""
    chosen = require_backend(backend)
    if device not in chosen.devices:
        raise UsageError(
            f"backend {backend} does not run on {device}",
            remedy=f"use --device {' or '.join(chosen.devices)}",
        )
    return chosen.target(None if capabilities is None else tuple(capabilities))


def _refuse_unchecked(key: EngineKey) -> None:
    """Only compiled engines may be built where they cannot run: they are checked where they can."""
    backend = BACKENDS[key.backend]
    if backend.compile is None and (obstacle := backend.obstacle(key)):
        raise StreamDiffVSRError(
            f"{key.backend} engines for {key.device} cannot be checked here",
            obstacle,
            "build them where they will run, or use --device cpu",
        )


def _key(
    plan: Plan,
    digest: str,
    precision: str,
    steps: int,
    backend: str,
    device: str,
    target: Target,
) -> EngineKey:
    geometry = plan.geometry
    return EngineKey(
        model_digest=digest,
        size=format_size(geometry.size),
        flow=f"{plan.correlation}-{geometry.flow_scale}",
        tile="" if geometry.tile is None else f"tile{format_size(geometry.tile)}",
        precision=precision,
        steps=steps,
        backend=backend,
        device=device,
        library=target.library,
        gpu=target.gpu,
        driver=target.driver,
        graph_version=GRAPH_VERSION,
    )


def _why_stale(folder: Path, key: EngineKey) -> str | None:
    """Why the set must be built, or None if it is there, whole, and the one asked for."""
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    try:
        manifest = read_manifest(folder)
        differences = key.differs_from(manifest.key)
        if differences:
            return "; ".join(differences)
        verify_files(folder, manifest, remembered_digest)
    except StreamDiffVSRError as error:
        return str(error)
    return None
