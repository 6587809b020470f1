"""What a run of an engine set needs of memory, from its manifest, before anything is loaded.

The engines' files, RAFT's correlation, the buffers between the graphs and what the largest graph
has alive at once (counted at export, `export/activations.py`) are known exactly. What a backend
makes of them is calibrated: docs/memory.md has the estimates beside measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..engines.manifest import Manifest
from ..graph_set import GraphSet
from ..plan import correlation_bytes
from ..spec import LANES, SCALE, Geometry
from .ring import SLOTS

MIB = 2**20
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
