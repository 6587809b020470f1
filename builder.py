"""From a model to an engine set: resolve, export, accept, and only what is stale."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import __version__
from .engines.backends import require_backend
from .engines.cache import default_folder, locked, refuse_foreign, staged
from .engines.engine_set import accept_graphs
from .engines.manifest import EngineKey, read_manifest, verify_files
from .errors import StreamDiffVSRError, UsageError
from .graph_set import GRAPH_VERSION
from .host import require_export
from .plan import Plan, make_plan
from .spec import Precision, Size, format_size

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
    progress: Progress = lambda _: None,
) -> Path:
    """Build the engines of a model for one input size, or find them already built.

    Args:
        model: `tiny`, a model folder, or a Hugging Face repo id.
        size: LR size (h, w).
        backend: `onnxruntime` (others follow).
        precision: "fp32" or "fp16".
        out: Folder of the engine set; by default one in the user's cache, named after its key.
        steps: Number of denoising steps; the released model is trained for 4.
        device: "cpu" or "cuda": where ONNX Runtime runs.
        flow_scale, correlation, tile: Overrides of the plan, see `plan.make_plan`.
        revision: Of the Hugging Face repo.
        progress: Called with one line whenever something begins.

    Returns:
        The engine set's folder, for `streamdiffvsr.load`.

    Raises:
        StreamDiffVSRError: One line: what could not be done, why, what to do.
    """
    started = time.monotonic()
    checked = _check_precision(precision)
    _check(steps, device)
    planned = partial(make_plan, size, flow_scale=flow_scale, correlation=correlation, tile=tile)
    planned()  # refused here, before a model is fetched that may have wishes of its own
    require_backend(backend)
    require_export()
    from .export.digest import model_digest
    from .export.flow_files import read_flow
    from .export.hub import resolve_model

    source = resolve_model(str(model), revision)
    plan = planned(preferred=read_flow(source).flow_scale)
    key = _key(plan, model_digest(source), checked, steps, backend, device)
    folder = Path(out) if out is not None else default_folder(str(model), key)
    refuse_foreign(folder)
    with locked(folder):
        stale = _why_stale(folder, key)
        if stale is None:
            progress(f"up to date: {folder}")
            return folder
        progress(f"building {folder} ({stale})")
        progress(plan.describe())
        with staged(folder) as stage:
            _export(source, stage, plan, checked, steps, progress)
            accept_graphs(
                stage,
                key,
                str(model),
                package_version=__version__,
                started=started,
                progress=lambda name: progress(f"check {name}"),
            )
    progress(f"built {folder} in {time.monotonic() - started:.0f} s")
    return folder


def _check(steps: int, device: str) -> None:
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"{steps} steps are not possible", remedy=f"use 1 to {MAX_STEPS}, e.g. 4")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {device!r}", remedy="use cpu or cuda")


def _export(
    source: Path, stage: Path, plan: Plan, precision: Precision, steps: int, progress: Progress
) -> None:
    from .export.model import load_model
    from .export.onnx_export import export_graphs

    progress("load weights")
    try:
        export_graphs(
            load_model(source),
            stage,
            geometry=plan.geometry,
            precision=precision,
            steps=steps,
            correlation=plan.correlation,
            progress=lambda name: progress(f"export {name}"),
        )
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write the graphs to {stage.parent}", str(error), "free space or use --out"
        ) from error


def _key(
    plan: Plan, digest: str, precision: Precision, steps: int, backend: str, device: str
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
        verify_files(folder, manifest)
    except StreamDiffVSRError as error:
        return str(error)
    return None


def _check_precision(precision: str) -> Precision:
    if precision == "fp32":
        return "fp32"
    if precision == "fp16":
        return "fp16"
    raise UsageError(f"unknown precision {precision!r}", remedy="use fp32 or fp16")
