"""Estimates what a run needs of host and GPU memory, and checks it against what is free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

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
TORCH_BYTES = 300 * MIB  # beyond that, where it is what runs the graphs on a CPU
# Of the files: an engine keeps its weights, laid out anew for its kernels, and its operators.
ENGINE_FACTOR = {"cpu": 1.3, "cuda": 1.1}
# Of what is alive at once: freed pieces of memory do not always fit the next tensor; of RAFT's
# volume, they do more often, as it is most of it.
SCRATCH_FACTOR = {"cpu": 1.9, "cuda": 1.2}
VOLUME_FACTOR = {"cpu": 1.3, "cuda": 1.2}
VOLUMES = 2  # at once: the pyramid's levels are found one by one, then stored side by side
# On a CPU half precision is computed in float32, beside the halves; RAFT's large tensors are that
# already.
HALF_ON_CPU = {"engines": 3.0, "scratch": 2.0, "flow": 1.0}
# On a CPU one arena serves all graphs of a lane. On a GPU TensorRT's engines of a lane share a
# block, and those of other backends each have their own.
SHARED_BY_LANE = ("tensorrt", "tensorrt-rtx")
MEETING = 0.75  # of what streams need at worst, as their worst moments seldom meet
PER_FRAME = ("prepare", "guide")  # their work grows with the frame; of others with tile or flow


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a run takes, by what they are for, on the engines' device.

    Attributes:
        program: Of the process, or of CUDA, before any engine.
        correlation: RAFT's all-pairs volume, where that is what the scratch memory is sized by.
        scratch: Of the graphs while they run, beyond the correlation.
        pinned: Host memory beside a GPU's.
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
        """All that the device must hold."""
        return self.program + self.engines + self.correlation + self.buffers + self.scratch


def footprint(manifest: Manifest, *, overlapped: bool | None = None) -> Footprint:
    """What the engines of a manifest will need.

    Args:
        overlapped: Whether frames are overlapped; by default on a GPU alone, as in `stream`.
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
    """What graphs have alive while they run, and the graph that has most."""
    graphs, device = manifest.graphs, manifest.key.device
    alive: dict[str, int] = {}
    for name, count in graphs.activation_bytes.items():
        volumes = min(count, VOLUMES * _volume_bytes(graphs)) if name == "flow" else 0
        fragmented = SCRATCH_FACTOR[device] * (count - volumes) + VOLUME_FACTOR[device] * volumes
        alive[name] = int(fragmented * _widening(graphs, device, name))
    worst = max(alive, key=lambda name: alive[name], default="")
    lanes = [max(alive.get(name, 0) for name in lane) for lane in LANES]
    if device == "cuda":
        shared = manifest.key.backend in SHARED_BY_LANE
        return sum(lanes if shared else alive.values()), worst
    return int(MEETING * sum(lanes)) if many else max(lanes), worst


def _widening(graphs: GraphSet, device: str, what: str) -> float:
    if graphs.precision == "fp32" or device != "cpu":
        return 1.0
    return HALF_ON_CPU.get(what, HALF_ON_CPU["scratch"])


def resized(graphs: GraphSet, geometry: Geometry, correlation: str) -> GraphSet:
    """The set as it would be at another geometry, its activations scaled from those counted.

    They grow with the pixels that a graph works on, RAFT's stored volume with their square.
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
    return correlation_bytes(geometry.size, geometry.flow_scale) if stored else 0


def _buffer_bytes(graphs: GraphSet) -> int:
    """One of every tensor that passes between graphs; a tile's and its frame's are two."""
    specs = graphs.specs().values()
    tensors = {t for spec in specs for t in (*spec.inputs, *spec.outputs)}
    named = sum(t.nbytes for t in tensors if not t.name.startswith("previous"))
    if graphs.geometry.tile is None:
        return named
    # The mixing of tiles: weights, the latent and the frame that they are summed up in.
    pixels, latent = _area(graphs.geometry.padded), graphs.dims.latent
    return named + 4 * pixels * (1 + 2 * latent + SCALE**2 * (1 + 2 * 3))


def _state_bytes(graphs: GraphSet) -> int:
    """The previous frame: its input, output and features."""
    specs = graphs.specs()
    kept = (specs["guide"].inputs[0], specs["flow"].inputs[1], specs["prepare"].inputs[0])
    return sum(t.nbytes for t in kept)


def _pinned_bytes(graphs: GraphSet) -> int:
    """Frames on their way to the device and back, and noise, of each slot; one state's copy."""
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
        told = ", ".join(f"{name} {format_bytes(count)}" for name, count in parts.items() if count)
        have = (
            "" if self.free is None else f" of {format_bytes(self.free)} free{WHERE[needs.device]}"
        )
        host = f"; {format_bytes(needs.pinned)} pinned on the host" if needs.pinned else ""
        doubt = "; that may not be enough" if self.tight else ""
        return f"memory: about {format_bytes(needs.total)}{have} ({told}){host}{doubt}"

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
        f"a run of these engines does not fit in {format_bytes(found.free)} of free memory{where}",
        f"it takes at least {format_bytes(least)}, and probably {format_bytes(found.needs.total)}",
        f"free some, or {fits}",
    )


def fitting(manifest: Manifest, free: int) -> Iterator[str]:
    """Options of a build that would fit into so many bytes, the mildest first.

    Each is a change on its own: of the flow's scale, to smaller tiles, or to a smaller input.
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
    """A part of a size, its sides rounded up to what needs no padding."""
    height, width = (-(-side * count // parts // SCALE) * SCALE for side in whole)
    return height, width
