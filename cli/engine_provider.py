"""Where `streamdiffvsr live` takes its engines from: a given set, the cache, or a build of now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StreamDiffVSRError
from ..graphs.spec import Size, format_size
from . import options as opt
from .console import PASSING

if TYPE_CHECKING:
    from ..runtime.live.engine_pool import QualityLevels

Tell = Callable[[str], None]
FLOW_RUNGS = {"flow 1/2": 2, "flow 1/4": 4}
FEW_STEPS = 2


def opener(
    engines: Path | None,
    model: str | None,
    options: opt.BuildOptions,
    seed: int,
    latency_ms: float | None,
    tell: Tell,
) -> Callable[[Size, Tell], QualityLevels]:
    """How a frame size gets its engines: the given set, or those of the cache, built if need be.

    Args:
        latency_ms: Where there is such a limit, cheaper sets of the cache are opened beside.
        tell: Receives what a user should know for good; the second argument of what is returned
            receives what a build is at.
    """

    def open_ladder(size: Size, at: Tell) -> QualityLevels:
        from ..runtime.live.engine_pool import QualityLevels
        from ..runtime.upscaler import load

        made = _built(model, size, options, tell, at) if engines is None else _given(engines, size)
        folders = {"full": made}
        if engines is None and latency_ms is not None:
            cheaper = cheaper_sets(model, size, options)  # where the model's own flow is as coarse
            folders |= {rung: one for rung, one in cheaper.items() if one != folders["full"]}
        device = options.run_on
        opened = {rung: load(folder, device).session() for rung, folder in folders.items()}
        what = opt.described(folders["full"], device)
        described = "{model} {size} {precision}, {backend} on {device}".format(**what)
        return QualityLevels(
            opened, seed=seed, described=described, device=device or what["device"]
        )

    return open_ladder


def _given(engines: Path, size: Size) -> Path:
    """The given set, if it is for frames of that size."""
    made_for = opt.described(engines)["size"]
    if made_for != format_size(size):
        raise StreamDiffVSRError(
            f"no engines for {format_size(size)}",
            f"those of --engines are made for {made_for}",
            "leave out --engines, and they are built",
        )
    return engines


def _built(
    model: str | None,
    size: Size,
    options: opt.BuildOptions,
    tell: Tell,
    at: Tell,
) -> Path:
    """The set of a size from the cache, or built now; `at` hears what the build is at."""
    from ..building.builder import build

    if model == opt.AUTO:
        from ..export.model_source import released_or_built_in

        model = released_or_built_in(tell)

    def progress(line: str) -> None:
        if line.startswith(PASSING):  # others name folders, which no page is to show
            at(line)

    settled = options.settled()
    return build(model or opt.BUILT_IN, size=size, progress=progress, **settled)


def cheaper_sets(model: str | None, size: Size, options: opt.BuildOptions) -> dict[str, Path]:
    """Sets with a coarser flow, or fewer steps, that are in the cache already; the best first."""
    from ..building.builder import find

    settled = options.settled()
    for unused in ("compute_capabilities", "workspace_mib"):
        settled.pop(unused)
    wanted = {
        rung: {"flow_scale": scale}
        for rung, scale in FLOW_RUNGS.items()
        if scale > (options.flow_scale or 1)
    }
    if options.steps > FEW_STEPS:
        wanted[f"{FEW_STEPS} steps"] = {"steps": FEW_STEPS}
    found = {
        rung: find(model or opt.BUILT_IN, size=size, **{**settled, **change})
        for rung, change in wanted.items()
    }
    return {rung: folder for rung, folder in found.items() if folder is not None}
