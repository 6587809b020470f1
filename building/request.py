"""What a build is asked for, checked and settled: the order that it makes of it.

Decides everything that can be decided before minutes are spent; reads configs and digests, and
builds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..engines.backends import BACKENDS, require_backend
from ..engines.cache import default_folder
from ..engines.device import kind_of
from ..engines.digest_memo import remembered_digest
from ..engines.gpu import check_gpu
from ..engines.manifest import EngineKey, Target
from ..engines.precision import FP8, check_precision
from ..errors import StreamDiffVSRError, UsageError
from ..graph_set import GRAPH_VERSION
from ..host import EXPORT_MODULES, TORCH_MODULES, require_export
from ..plan import Plan, make_plan
from ..spec import Size, format_size
from .calibration import recipe_digest, require_quantiser
from .order import BuildSpec

MAX_STEPS = 50
COLOR_MATCH = ("auto", "on", "off")


def resolve(
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
    optimization_level: int | None = None,
    color_match: str = "auto",
) -> tuple[BuildSpec, Plan]:
    """The order whose stage is the folder of the set itself, and the plan it follows.

    Arguments and errors are those of `builder.build`.
    """
    started = time.monotonic()
    _check(precision, steps, device, workspace_mib, color_match)
    planned = partial(make_plan, size, flow_scale=flow_scale, correlation=correlation, tile=tile)
    # What is refused is refused here, before a model is fetched that may have wishes of its own.
    target = _target(backend, device, precision, compute_capabilities)
    level = BACKENDS[backend].level(optimization_level)
    _refuse_unchecked(_key(planned(), "", precision, steps, backend, device, target), device)
    require_export(TORCH_MODULES if backend == "torch" else EXPORT_MODULES)
    if precision == FP8:
        require_quantiser()
    from ..export.digest import model_digest
    from ..export.flow_files import read_flow
    from ..export.hub import resolve_model

    source = resolve_model(str(model), revision)
    plan = planned(preferred=read_flow(source).flow_scale)
    digest = model_digest(source, remembered_digest)
    key = _key(plan, digest, precision, steps, backend, device, target)
    key = replace(key, optimization_level=level)
    if color_match != "auto":
        from ..export.config_files import read_configs

        asked = color_match == "on"
        differs = read_configs(source).vae.match_colour != asked
        key = replace(key, colour=color_match if differs else "")
    order = BuildSpec(
        source=source,
        stage=Path(out) if out is not None else default_folder(str(model), key),
        key=key,
        model_name=str(model),
        geometry=plan.geometry,
        correlation=plan.correlation,
        device=device,
        workspace_bytes=None if workspace_mib is None else workspace_mib * 2**20,
        started=started,
    )
    return order, plan


def _check(
    precision: str, steps: int, device: str, workspace_mib: int | None, color_match: str
) -> None:
    check_precision(precision)
    if color_match not in COLOR_MATCH:
        raise UsageError(
            f"color match {color_match!r} is not possible", remedy=f"use {', '.join(COLOR_MATCH)}"
        )
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"{steps} steps are not possible", remedy=f"use 1 to {MAX_STEPS}, e.g. 4")
    kind_of(device)  # refuses what is no device
    check_gpu(device)
    if workspace_mib is not None and workspace_mib < 1:
        raise UsageError(f"a workspace of {workspace_mib} MiB is not possible")


def _target(
    backend: str, device: str, precision: str, capabilities: Sequence[int] | None
) -> Target:
    """What the engines would depend on; whatever stands against them is told before an export."""
    chosen = require_backend(backend)
    if kind_of(device) not in chosen.devices:
        raise UsageError(
            f"backend {backend} does not run on {device}",
            remedy=f"use --device {' or '.join(chosen.devices)}",
        )
    if precision not in chosen.precisions:
        able = [b.name for b in BACKENDS.values() if precision in b.precisions]
        raise UsageError(
            f"backend {backend} does not compute in {precision}",
            remedy=f"use --backend {' or '.join(able)}, or --precision fp16",
        )
    listed = None if capabilities is None else tuple(capabilities)
    return chosen.target(listed, precision, device)


def _refuse_unchecked(key: EngineKey, device: str) -> None:
    """Only compiled engines may be built where they cannot run: they are checked where they can."""
    backend = BACKENDS[key.backend]
    if backend.compile is None and (obstacle := backend.obstacle(key, device)):
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
        device=kind_of(device),
        library=target.library,
        gpu=target.gpu,
        graph_version=GRAPH_VERSION,
        calibration=recipe_digest() if precision == FP8 else "",
    )
