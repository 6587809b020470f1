"""Whether a run fits in memory, told before anything is loaded, and what would fit if it does not.

`footprint` estimates; here that is held against what is free. A run is refused only where even the
least that the estimate may mean is not there: an estimate that is too high stops nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..engines.device import kind_of, ordinal_of
from ..engines.free_memory import free_device_bytes, free_host_bytes
from ..engines.manifest import Manifest, read_manifest
from ..errors import StreamDiffVSRError
from ..graph_set import GraphSet
from ..plan import Plan, make_plan
from ..spec import FLOW_SCALES, MIN_SIDE, SCALE, Size, format_size
from .footprint import MIB, Footprint, footprint, resized

MIN_FIT_RATIO = 0.6  # of the estimate: measured peaks are 0.85 to 1.15 of it (docs/memory.md)
GIB = 2**30
Option: TypeAlias = tuple[str, Plan]
WHERE = {"cpu": "", "cuda": " on the GPU"}


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a run needs and what there is.

    Attributes:
        free: Bytes on the engines' device; None where there is no such device here.
    """

    needs: Footprint
    free: int | None

    @property
    def tight(self) -> bool:
        """Whether it probably needs more than there is."""
        return self.free is not None and self.needs.total > self.free

    def describe(self) -> str:
        """One line for the user."""
        needs = self.needs
        parts = {
            "engines": needs.engines,
            "flow's correlation": needs.correlation,
            "buffers": needs.buffers,
            "scratch": needs.scratch,
            "program": needs.program,
        }
        told = ", ".join(f"{name} {size(count)}" for name, count in parts.items() if count)
        have = "" if self.free is None else f" of {size(self.free)} free{WHERE[needs.device]}"
        host = f"; {size(needs.pinned)} pinned on the host" if needs.pinned else ""
        doubt = "; that may not be enough" if self.tight else ""
        return f"memory: about {size(needs.total)}{have} ({told}){host}{doubt}"

    def to_json(self) -> dict[str, Any]:
        """The same for programs, in bytes."""
        return {"total": self.needs.total, "free": self.free, **asdict(self.needs)}


def check_memory_fit(folder: Path, device: str | None = None) -> Preflight:
    """What a run of an engine set would need here.

    Args:
        device: The GPU that it would run on, "cuda:1"; None is the first.

    Raises:
        StreamDiffVSRError: It is not an engine set.
    """
    return _preflight(read_manifest(folder), device)


def check_memory(manifest: Manifest, device: str | None = None) -> None:
    """Refuse a run that cannot fit, before its engines are loaded.

    Args:
        device: See `check_memory_fit`.

    Raises:
        StreamDiffVSRError: What it takes at least, what is free, and what would fit.
    """
    found = _preflight(manifest, device)
    least = int(MIN_FIT_RATIO * found.needs.total)
    if found.free is None or least <= found.free:
        return
    where = WHERE[found.needs.device]
    options = list(fitting(manifest, found.free))
    fits = f"build engines that fit: {' or '.join(options)}" if options else "use a larger machine"
    raise StreamDiffVSRError(
        f"a run of these engines does not fit in {size(found.free)} of free memory{where}",
        f"it takes at least {size(least)}, and probably {size(found.needs.total)}",
        f"free some, or {fits}",
    )


def fitting(manifest: Manifest, free: int) -> Iterator[str]:
    """What would fit into so many bytes, as it is written on the command line; the mildest first.

    Each is a change on its own: of the flow's scale, to smaller tiles, or to a smaller input.
    """
    graphs = manifest.graphs
    for options in (_coarser_flows(graphs), _smaller_tiles(graphs), _smaller_inputs(graphs)):
        for option, plan in options:
            then = resized(graphs, plan.geometry, plan.correlation)
            if footprint(replace(manifest, graphs=then)).total <= free:
                yield option
                break


def size(count: int) -> str:
    """Bytes as a user reads them."""
    return f"{count / GIB:.1f} GiB" if count >= 10 * GIB else f"{count / MIB:.0f} MiB"


def _preflight(manifest: Manifest, device: str | None) -> Preflight:
    if manifest.key.device == "cpu":
        return Preflight(footprint(manifest), free_host_bytes())
    where = device if device is not None and kind_of(device) == "cuda" else "cuda"
    return Preflight(footprint(manifest), free_device_bytes(ordinal_of(where)))


def _coarser_flows(graphs: GraphSet) -> Iterator[Option]:
    geometry = graphs.geometry
    for scale in FLOW_SCALES:
        if geometry.flow_scale < scale <= min(geometry.padded) / MIN_SIDE:
            plan = make_plan(geometry.size, flow_scale=scale, tile=geometry.tile)
            yield f"--flow-scale {scale}", plan


def _smaller_tiles(graphs: GraphSet) -> Iterator[Option]:
    geometry = graphs.geometry
    for parts in range(2, 9):
        tile = _divided(geometry.denoised, 1, parts)
        if min(tile) >= MIN_SIDE:
            plan = Plan(replace(geometry, tile=tile), graphs.correlation)
            yield f"--tile {format_size(tile)}", plan


def _smaller_inputs(graphs: GraphSet) -> Iterator[Option]:
    for eighths in range(7, 0, -1):
        smaller = _divided(graphs.geometry.size, eighths, 8)
        if min(smaller) >= MIN_SIDE:
            plan = make_plan(smaller, preferred=graphs.geometry.flow_scale)
            yield f"--size {format_size(smaller)}", plan


def _divided(whole: Size, count: int, parts: int) -> Size:
    """A part of a size, its sides rounded up to what needs no padding."""
    height, width = (-(-side * count // parts // SCALE) * SCALE for side in whole)
    return height, width
