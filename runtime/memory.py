"""Estimates the host and GPU memory that a run needs, and compares it with what is free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..engines.backends import BACKENDS
from ..engines.host import free_device_bytes, free_host_bytes
from ..engines.interface import kind_of, ordinal_of
from ..engines.manifest import Manifest, read_manifest
from ..errors import StreamDiffVSRError, option
from ..graphs.plan import Plan, correlation_bytes, make_plan
from ..graphs.spec import (
    FLOW_SCALES,
    LANES,
    MIB,
    MIN_SIDE,
    SCALE,
    Geometry,
    GraphSet,
    Size,
    format_bytes,
)
from .ring import SLOTS

PROGRAM_BYTES = {"cpu": 75 * MIB, "cuda": 600 * MIB}  # Python and libraries; CUDA's context
TORCH_BYTES = 300 * MIB  # more, where torch runs the graphs on a CPU
# Times the files: an engine keeps its weights, in a layout for its kernels, and its operators.
ENGINE_FACTOR = {"cpu": 1.3, "cuda": 1.1}
# Times what is alive at once: freed memory does not always fit the next tensor. It fits RAFT's
# volume more often, since that is most of the memory.
SCRATCH_FACTOR = {"cpu": 1.9, "cuda": 1.2}
VOLUME_FACTOR = {"cpu": 1.3, "cuda": 1.2}
VOLUMES = 2  # at once: the pyramid's levels are computed one by one, then stored together
# On a CPU half precision is computed in float32, in addition to the halves; RAFT's large tensors
# are float32 already.
HALF_ON_CPU = {"engines": 3.0, "scratch": 2.0, "flow": 1.0}
MEETING = 0.75  # of what all streams need at most: their peaks seldom coincide
PER_FRAME = ("prepare", "guide")  # grow with the frame; the others grow with the tile or the flow


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a run takes on the engines' device, by purpose.

    Attributes:
        program: Bytes of the process, or of CUDA, before any engine is loaded.
        correlation: RAFT's all-pairs volume, where it determines the scratch memory.
        scratch: Bytes of the graphs while they run, beyond the correlation.
        pinned: Page-locked host memory, with a GPU only.
    """

    device: str
    program: int
    engines: int
    correlation: int
    buffers: int
    scratch: int
    pinned: int = 0

    @property
    def total(self) -> int:
        """The bytes that the device must hold."""
        return self.program + self.engines + self.correlation + self.buffers + self.scratch


def footprint(manifest: Manifest, *, overlapped: bool | None = None) -> Footprint:
    """Estimates the memory that the engines of a manifest need.

    Args:
        overlapped: Whether frames overlap; by default on a GPU only, as in `stream`.
    """
    graphs, device = manifest.graphs, manifest.key.device
    on_gpu = device == "cuda"
    many = (on_gpu if overlapped is None else overlapped) and graphs.geometry.tile is None
    files = sum(e.bytes for name, e in manifest.files.items() if ".golden." not in name)
    scratch, worst = _scratch(manifest, many=many)
    volume = min(scratch, _volume_bytes(graphs)) if worst == "flow" else 0
    torch = TORCH_BYTES if manifest.key.backend == "torch" and not on_gpu else 0
    return Footprint(
        device=device,
        program=PROGRAM_BYTES[device] + torch,
        engines=int(ENGINE_FACTOR[device] * _widening(graphs, device, "engines") * files),
        correlation=volume,
        buffers=_buffer_bytes(graphs) * (SLOTS if many else 1) + _state_bytes(graphs),
        scratch=scratch - volume,
        pinned=_pinned_bytes(graphs) if on_gpu else 0,
    )


def _scratch(manifest: Manifest, *, many: bool) -> tuple[int, str]:
    """Returns the bytes that graphs have alive while they run, and the graph that has the most."""
    graphs, device = manifest.graphs, manifest.key.device
    alive: dict[str, int] = {}
    for name, count in graphs.activation_bytes.items():
        volumes = min(count, VOLUMES * _volume_bytes(graphs)) if name == "flow" else 0
        fragmented = SCRATCH_FACTOR[device] * (count - volumes) + VOLUME_FACTOR[device] * volumes
        alive[name] = int(fragmented * _widening(graphs, device, name))
    worst = max(alive, key=lambda name: alive[name], default="")
    lanes = [max(alive.get(name, 0) for name in lane) for lane in LANES]
    # On a CPU one arena serves all graphs of a lane.
    if device == "cuda":
        backend = BACKENDS.get(manifest.key.backend)
        shared = backend is not None and backend.scratch is not None
        return sum(lanes if shared else alive.values()), worst
    return int(MEETING * sum(lanes)) if many else max(lanes), worst


def _widening(graphs: GraphSet, device: str, what: str) -> float:
    if graphs.precision == "fp32" or device != "cpu":
        return 1.0
    return HALF_ON_CPU.get(what, HALF_ON_CPU["scratch"])


def resized(graphs: GraphSet, geometry: Geometry, correlation: str) -> GraphSet:
    """Returns the set at another geometry, its activations scaled from those that were counted.

    Activations grow with the pixels that a graph works on, RAFT's stored volume with their square.
    """
    old, new = graphs.geometry, geometry
    frame, tile = _area(new.padded) / _area(old.padded), _area(new.denoised) / _area(old.denoised)
    flow = frame * (old.flow_scale / new.flow_scale) ** 2
    then = replace(graphs, geometry=geometry, correlation=correlation)
    ratios = dict.fromkeys(graphs.activation_bytes, tile) | dict.fromkeys(PER_FRAME, frame)
    ratios |= {"features": flow, "flow": flow}
    alive = {name: int(ratios[name] * b) for name, b in graphs.activation_bytes.items()}
    if "flow" in alive:
        rest = max(0, graphs.activation_bytes["flow"] - VOLUMES * _volume_bytes(graphs))
        alive["flow"] = int(flow * rest) + VOLUMES * _volume_bytes(then)
    return replace(then, activation_bytes=alive)


def _volume_bytes(graphs: GraphSet) -> int:
    geometry = graphs.geometry
    stored = graphs.correlation == "all-pairs"
    volume = correlation_bytes(geometry.size, geometry.flow_scale)
    return geometry.batch * volume if stored else 0


def _buffer_bytes(graphs: GraphSet) -> int:
    """Counts each tensor that passes between graphs once; a tile's and its frame's are two."""
    specs = graphs.specs().values()
    tensors = {t for spec in specs for t in (*spec.inputs, *spec.outputs)}
    named = sum(t.nbytes for t in tensors if not t.name.startswith("previous"))
    if graphs.geometry.tile is None:
        return named
    # Blending tiles: weights, the latent and the frame in which they are summed.
    pixels, latent = _area(graphs.geometry.padded), graphs.dims.latent
    return named + 4 * pixels * (1 + 2 * latent + SCALE**2 * (1 + 2 * 3))


def _state_bytes(graphs: GraphSet) -> int:
    """Counts the previous frame: its input, output and features."""
    specs = graphs.specs()
    kept = (specs["guide"].inputs[0], specs["flow"].inputs[1], specs["prepare"].inputs[0])
    return sum(t.nbytes for t in kept)


def _pinned_bytes(graphs: GraphSet) -> int:
    """Counts each slot's frames on their way to and from the device, its noise, and one state."""
    specs = graphs.specs()
    hr, out = specs["decode"].outputs
    of_slot = (specs["prepare"].inputs[0], specs["denoise"].inputs[0], out)
    return SLOTS * sum(t.nbytes for t in of_slot) + hr.nbytes


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


MIN_FIT_RATIO = 0.6  # of the estimate: measured peaks are 0.85 to 1.15 of it (docs/memory.md)
Option: TypeAlias = tuple[str, Plan]
WHERE = {"cpu": "", "cuda": " on the GPU"}


@dataclass(frozen=True, slots=True)
class Preflight:
    """The memory that a run needs, and what is free.

    Attributes:
        free: Free bytes on the engines' device; None if this machine has no such device.
    """

    needs: Footprint
    free: int | None

    @property
    def tight(self) -> bool:
        """Returns whether the run probably needs more than is free."""
        return self.free is not None and self.needs.total > self.free

    def describe(self) -> str:
        """Returns one line for the user."""
        needs = self.needs
        parts = {
            "engines": needs.engines,
            "flow's correlation": needs.correlation,
            "buffers": needs.buffers,
            "scratch": needs.scratch,
            "program": needs.program,
        }
        each = ", ".join(f"{name} {format_bytes(count)}" for name, count in parts.items() if count)
        have = (
            "" if self.free is None else f" of {format_bytes(self.free)} free{WHERE[needs.device]}"
        )
        host = f"; {format_bytes(needs.pinned)} pinned on the host" if needs.pinned else ""
        doubt = "; that may not be enough" if self.tight else ""
        return f"memory: about {format_bytes(needs.total)}{have} ({each}){host}{doubt}"

    def to_json(self) -> dict[str, Any]:
        """Returns the same in bytes, for programs."""
        return {"total": self.needs.total, "free": self.free, **asdict(self.needs)}


def check_memory_fit(folder: Path, device: str | None = None) -> Preflight:
    """Estimates what a run of an engine set needs on this machine.

    Args:
        device: The GPU to run on, such as "cuda:1"; None means the first.

    Raises:
        StreamDiffVSRError: The folder is not an engine set.
    """
    return _preflight(read_manifest(folder), device)


def check_memory(manifest: Manifest, device: str | None = None) -> None:
    """Refuses a run that cannot fit, before its engines are loaded.

    Args:
        device: See `check_memory_fit`.

    Raises:
        StreamDiffVSRError: It does not fit; says the least it takes, what is free, what would fit.
    """
    found = _preflight(manifest, device)
    least = int(MIN_FIT_RATIO * found.needs.total)
    if found.free is None or least <= found.free:
        return
    where = WHERE[found.needs.device]
    options = list(fitting(manifest, found.free))
    fits = f"build engines that fit: {' or '.join(options)}" if options else "use a larger machine"
    raise StreamDiffVSRError(
        f"a run of these engines does not fit in {format_bytes(found.free)} of free memory{where}",
        f"it takes at least {format_bytes(least)}, and probably {format_bytes(found.needs.total)}",
        f"free some, or {fits}",
    )


def fitting(manifest: Manifest, free: int) -> Iterator[str]:
    """Yields options of a build with which a run fits into `free` bytes, mildest first.

    Each is one change: a coarser flow, smaller tiles, or a smaller input.
    """
    graphs = manifest.graphs
    for options in (_coarser_flows(graphs), _smaller_tiles(graphs), _smaller_inputs(graphs)):
        for change, plan in options:
            then = resized(graphs, plan.geometry, plan.correlation)
            if footprint(replace(manifest, graphs=then)).total <= free:
                yield change
                break


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
            yield option("flow_scale", scale), plan


def _smaller_tiles(graphs: GraphSet) -> Iterator[Option]:
    geometry = graphs.geometry
    for parts in range(2, 9):
        tile = _divided(geometry.denoised, 1, parts)
        if min(tile) >= MIN_SIDE:
            plan = Plan(replace(geometry, tile=tile), graphs.correlation)
            yield option("tile", tile), plan


def _smaller_inputs(graphs: GraphSet) -> Iterator[Option]:
    for eighths in range(7, 0, -1):
        smaller = _divided(graphs.geometry.size, eighths, 8)
        if min(smaller) >= MIN_SIDE:
            plan = make_plan(smaller, preferred=graphs.geometry.flow_scale)
            yield option("size", smaller), plan


def _divided(whole: Size, count: int, parts: int) -> Size:
    """Returns a fraction of a size, its sides rounded up so that no padding is needed."""
    height, width = (-(-side * count // parts // SCALE) * SCALE for side in whole)
    return height, width
