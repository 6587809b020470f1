"""Resolves a request into a build that is ready to run, and runs it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..engines.cache import default_folder, remembered_digest
from ..engines.engine_set import accept_graphs
from ..engines.host import (
    FP8,
    GRAPH_MODULES,
    TORCH_MODULES,
    check_gpu,
    check_precision,
    graph_precision,
    require_export,
)
from ..engines.interface import kind_of
from ..engines.manifest import EngineKey, Target
from ..engines.registry import BACKENDS, require_backend
from ..errors import StreamDiffVSRError, UsageError, option, without
from ..graphs.library import GraphOptions
from ..graphs.plan import Plan, make_plan
from ..graphs.spec import (
    DEFAULT_STEPS,
    GRAPH_VERSION,
    Geometry,
    GraphSet,
    Size,
    SizeRange,
    format_size,
)
from .fp8 import recipe_digest, require_quantiser
from .graph_source import (
    GraphSource,
    have_one_skeleton,
    record_reference,
    small_geometry,
    write_set,
)
from .request import BUILT_IN, BuildRequest

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """A build that is ready to run.

    Attributes:
        source: The model folder.
        stage: The folder of the engine set; to run the build, an existing empty folder.
        correlation: RAFT's lookup, "all-pairs" or "on-demand".
        device: The device that makes and checks the engines, "cpu", "cuda" or "cuda:1".
        workspace_bytes: The most scratch memory of a compiled layer; None: the library's choice.
        started: `time.monotonic()` when the build began.
        sizes: The sizes that the engines take; None is that of the geometry alone.
    """

    source: Path
    stage: Path
    key: EngineKey
    model_name: str
    geometry: Geometry
    correlation: str
    device: str
    workspace_bytes: int | None
    started: float
    sizes: SizeRange | None = None

    @property
    def graph_options(self) -> GraphOptions:
        """The options that decide the symbolic graphs."""
        key = self.key
        precision = graph_precision(key.precision)
        scale = self.geometry.flow_scale
        return GraphOptions(precision, key.steps, scale, self.correlation, key.colour)

    @property
    def exact_options(self) -> GraphOptions:
        """The options of the float32 reference."""
        return replace(self.graph_options, precision="fp32")

    @property
    def is_checked_small(self) -> bool:
        """Whether the parity gate runs at a smaller size, as a whole frame would take too long."""
        compiled = BACKENDS[self.key.backend].compile is not None
        own_format = self.key.backend == "torch" or compiled
        if own_format or self.key.device != "cpu":
            return False
        return small_geometry(self.geometry) != self.geometry

    def to_json(self) -> dict[str, Any]:
        """Returns the build as JSON can carry it."""
        plain = {"source": str(self.source), "stage": str(self.stage)}
        sizes = None if self.sizes is None else self.sizes.to_json()
        return asdict(self) | plain | {"geometry": self.geometry.to_json(), "sizes": sizes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildSpec:
        """Returns the build that `to_json` wrote."""
        made = {"key": EngineKey(**data["key"]), "geometry": Geometry.from_json(data["geometry"])}
        made["sizes"] = SizeRange.from_json(data["sizes"])
        return cls(**{**data, "source": Path(data["source"]), "stage": Path(data["stage"]), **made})


def execute(order: BuildSpec, progress: Progress) -> None:
    """Fills `order.stage` with a complete engine set.

    Raises:
        StreamDiffVSRError: One line: what could not be done, why, what to do.
    """
    export(order, progress)
    with _checked_folder(order, progress) as checked:
        accept_graphs(
            order.stage,
            order.key,
            order.model_name,
            package_version=__version__,
            started=order.started,
            progress=progress,
            workspace_bytes=order.workspace_bytes,
            device=order.device,
            checked=checked,
        )


def export(order: BuildSpec, progress: Progress) -> None:
    """Fills `order.stage` with the graphs of its size, in the form that its backend takes.

    Raises:
        StreamDiffVSRError: The model cannot be read or quantised, or the graphs cannot be written.
    """
    with _writing(order):
        if order.key.backend == "torch":
            _export_programs(order, progress)
        else:
            _write_graphs(order, progress)


@contextlib.contextmanager
def _writing(order: BuildSpec) -> Iterator[None]:
    """Puts an error of the disk into words."""
    try:
        yield
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write the graphs to {order.stage.parent}",
            str(error),
            f"free space or use {option('out')}",
        ) from error


def _export_programs(order: BuildSpec, progress: Progress) -> None:
    from ..export.graph_folder import export_programs
    from ..export.model import load_model

    key = order.key
    progress("load weights")
    export_programs(
        load_model(order.source, match_colour=key.match_colour),
        order.stage,
        geometry=order.geometry,
        precision=graph_precision(key.precision),
        steps=key.steps,
        correlation=order.correlation,
        progress=lambda name: progress(f"export {name}"),
    )


def _write_graphs(order: BuildSpec, progress: Progress) -> None:
    key, calibration = order.key, None
    if key.precision == FP8:
        from ..export.model import load_model
        from .fp8 import calibration_inputs, quantise_graphs

        progress("load weights")
        model = load_model(order.source, match_colour=key.match_colour)
        calibration = calibration_inputs(
            model, order.geometry, key.steps, order.correlation, progress
        )
        del model  # quantising takes gigabytes of its own
    source, options = GraphSource(order.source, key.model_digest), order.graph_options
    library, sources = source.get(options, progress)
    progress(f"make the graphs of {key.size}")
    graphs = write_set(library, sources, options, order.geometry, order.stage, order.sizes)
    if not order.is_checked_small:
        progress("reference")
        record_reference(graphs, source.get(order.exact_options, progress)[1], order.stage)
    if calibration is not None:
        quantise_graphs(order.stage, calibration, progress)


@contextlib.contextmanager
def _checked_folder(order: BuildSpec, progress: Progress) -> Iterator[Path]:
    """Yields a folder with the graphs that the parity gate runs, and the recorded tensors.

    It is the set's own, unless a whole frame would take longer than everything else: a set that is
    not compiled is then checked at a small size, with graphs that are made in the same way and
    differ in nothing but the constants that follow from sizes.
    """
    if not order.is_checked_small:
        yield order.stage
        return
    source, options = GraphSource(order.source, order.key.model_digest), order.graph_options
    with tempfile.TemporaryDirectory(prefix=".check-", dir=order.stage) as name:
        folder, whole = Path(name), order.geometry
        with _writing(order):
            library, sources = source.get(options, progress)
            exact = source.get(order.exact_options, progress)[1]
            small = small_geometry(whole)
            graphs = write_set(library, sources, options, small, folder, stands_for=whole)
            if not have_one_skeleton(folder, order.stage):
                graphs, folder = GraphSet.read(order.stage), order.stage
            progress("reference")
            record_reference(graphs, exact, folder)
        yield folder


MAX_STEPS = 50
# By `color_match`: whether the output takes over LR's broad colours; None: as the config says.
MATCH_COLOUR = {"auto": None, "on": True, "off": False}


def resolve(
    request: BuildRequest, size: Size, *, out: str | Path | None = None
) -> tuple[BuildSpec, Plan]:
    """Returns the build of a request, whose stage is the folder of the set, and its plan.

    Args:
        request: The engines to build; what is left open is chosen for this machine.
        size: LR size (h, w).
        out: The folder of the set; by default one in the user's cache, named after its key.

    Raises:
        StreamDiffVSRError: The request is not possible, or the model cannot be found or downloaded.
    """
    started = time.monotonic()
    request = request.settled()
    _check(request)
    sizes = request.profile
    if sizes is not None:
        sizes.check(size)
    planned = partial(
        make_plan,
        size if sizes is None else sizes.most,
        flow_scale=request.flow_scale,
        correlation=request.correlation,
        tile=request.tile,
        batch=request.batch,
    )
    # Refuse what is impossible before a model is downloaded, which may prefer another flow scale.
    target = _target(request)
    level = BACKENDS[request.backend].level(request.optimization_level)
    _refuse_unchecked(_key(request, planned(), "", target), request.device)
    require_export(TORCH_MODULES if request.backend == "torch" else GRAPH_MODULES)
    if request.precision == FP8:
        require_quantiser()
    from ..export.config_files import read_configs, read_flow
    from ..export.model_source import model_digest, resolve_model

    model = request.model or BUILT_IN
    source = resolve_model(model, request.revision)
    plan = planned(preferred=read_flow(source).flow_scale)
    if sizes is not None:
        plan = _ranged(plan, sizes)
    key = _key(request, plan, model_digest(source, remembered_digest), target)
    key = replace(key, optimization_level=level)
    if (match := MATCH_COLOUR[request.color_match]) is not None:
        differs = read_configs(source).vae.match_colour != match
        key = replace(key, colour=request.color_match if differs else "")
    workspace = request.workspace_mib
    order = BuildSpec(
        source=source,
        stage=Path(out) if out is not None else default_folder(key),
        key=key,
        model_name=model,
        geometry=plan.geometry,
        correlation=plan.correlation,
        device=request.device,
        workspace_bytes=None if workspace is None else workspace * 2**20,
        started=started,
        sizes=sizes,
    )
    return order, plan


def _ranged(plan: Plan, sizes: SizeRange) -> Plan:
    """Returns the plan of the largest size at the usual one; raises if a range cannot have it."""
    if plan.correlation == "on-demand":
        raise UsageError(
            f"engines for {sizes} are not possible",
            f"flow of {format_size(sizes.most)} is looked up on demand, in chunks of that size",
            f"use {option('flow_scale', 2)}, a smaller largest size, or engines of single sizes",
        )
    geometry = plan.geometry
    if geometry.tile is not None and any(
        tile > side for tile, side in zip(geometry.tile, sizes.least, strict=True)
    ):
        raise UsageError(
            f"engines for {sizes} are not possible",
            f"tiles of {format_size(geometry.tile)} do not fit {format_size(sizes.least)}",
            f"use {option('tile', sizes.least)} or a larger smallest size",
        )
    return replace(plan, geometry=replace(geometry, size=sizes.usual))


def _check_batch(request: BuildRequest) -> None:
    """Raises `UsageError` if such engines cannot take several tiles at once."""
    if request.batch == 1:
        return
    what = f"{request.batch} tiles at once are not possible"
    if kind_of(request.device) == "cpu":
        raise UsageError(
            f"{what} on a CPU",
            "it runs tiles one by one",
            f"{without('batch')}, or use {option('device', 'cuda')}",
        )
    if request.profile is not None:
        raise UsageError(
            f"{what} with a range of sizes",
            "tiles are of one size",
            f"{without('profile')}, or {without('batch')}",
        )
    if request.precision == FP8:
        raise UsageError(
            f"{what} in fp8",
            "its engines are calibrated one frame at a time",
            f"use {option('precision', 'fp16')}, or {without('batch')}",
        )


def _check(request: BuildRequest) -> None:
    check_precision(request.precision or "")
    if request.color_match not in MATCH_COLOUR:
        raise UsageError(
            f"color match {request.color_match!r} is not possible",
            remedy=f"use {', '.join(MATCH_COLOUR)}",
        )
    if not 1 <= request.steps <= MAX_STEPS:
        raise UsageError(
            f"{request.steps} steps are not possible",
            remedy=f"use 1 to {MAX_STEPS}, e.g. {DEFAULT_STEPS}",
        )
    kind_of(request.device)  # raises if this is not a device
    check_gpu(request.device)
    if request.profile is not None and not request.backend.startswith("tensorrt"):
        raise UsageError(
            f"{request.backend} has no engines for a range of sizes",
            "its graphs are made for each size in a second",
            f"{without('profile')}, or use {option('backend', 'tensorrt', 'tensorrt-rtx')}",
        )
    if request.profile is not None and request.precision == FP8:
        raise UsageError(
            "fp8 engines for a range of sizes are not possible",
            "they are calibrated at one size",
            f"use {option('precision', 'fp16')}, or {without('profile')}",
        )
    if request.workspace_mib is not None and request.workspace_mib < 1:
        raise UsageError(f"a workspace of {request.workspace_mib} MiB is not possible")
    _check_batch(request)


def _target(request: BuildRequest) -> Target:
    """Returns what the engines depend on; raises, before an export, if they are impossible."""
    chosen, precision = require_backend(request.backend), request.precision or ""
    if kind_of(request.device) not in chosen.devices:
        raise UsageError(
            f"backend {chosen.name} does not run on {request.device}",
            remedy=f"use {option('device', *chosen.devices)}",
        )
    if precision not in chosen.precisions:
        able = [b.name for b in BACKENDS.values() if precision in b.precisions]
        raise UsageError(
            f"backend {chosen.name} does not compute in {precision}",
            remedy=f"use {option('backend', *able)}, or {option('precision', 'fp16')}",
        )
    listed = request.compute_capabilities
    return chosen.target(None if listed is None else tuple(listed), precision, request.device)


def _refuse_unchecked(key: EngineKey, device: str) -> None:
    """Raises unless the engines can be checked: here, or later because they are compiled."""
    backend = BACKENDS[key.backend]
    if backend.compile is None and (obstacle := backend.obstacle(key, device)):
        raise StreamDiffVSRError(
            f"{key.backend} engines for {key.device} cannot be checked here",
            obstacle,
            f"build them where they will run, or use {option('device', 'cpu')}",
        )


def _key(request: BuildRequest, plan: Plan, digest: str, target: Target) -> EngineKey:
    geometry, precision = plan.geometry, request.precision or ""
    return EngineKey(
        model_digest=digest,
        size=format_size(geometry.size),
        flow=f"{plan.correlation}-{geometry.flow_scale}",
        tile="" if geometry.tile is None else f"tile{format_size(geometry.tile)}",
        precision=precision,
        steps=request.steps,
        backend=request.backend,
        device=kind_of(request.device),
        library=target.library,
        gpu=target.gpu,
        graph_version=GRAPH_VERSION,
        calibration=recipe_digest() if precision == FP8 else "",
        sizes="" if request.profile is None else str(request.profile),
        batch=request.batch,
    )
