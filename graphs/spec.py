"""Describes the seven graphs of the model: their inputs, outputs, sizes and files.

The exporters, the engines and the runtime share this module; it needs only numpy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..errors import UsageError
from ..reading import read_json

SCALE = 4
MIN_SIDE = 32  # RAFT's coarsest correlation level needs 128 HR pixels
MAX_PIXELS = 7680 * 4320  # of an input frame; anything above is a mistake or an attack
TILE_OVERLAP = 32  # LR pixels that neighbouring tiles share, feathered; an eighth of small tiles
DEFAULT_STEPS = 4  # of denoising; the released model is trained for them
FlowScale = Literal[1, 2, 4]  # the flow is computed at HR divided by this
FLOW_SCALES: tuple[int, ...] = get_args(FlowScale)
BATCHES = (1, 2, 4)  # frames or tiles that the engines of one set take at once
GRAPHS = ("prepare", "features", "flow", "guide", "temporal", "denoise", "decode")
# Each lane is a stream: its graphs run one after another; graphs of two lanes run concurrently.
LANES = (("prepare", "features", "flow"), ("guide", "denoise"), ("temporal", "decode"))
TILED = ("temporal", "denoise", "decode")  # these may run on tiles; the others see the full frame

Precision = Literal["fp32", "fp16"]
Size = tuple[int, int]
FLOAT = {"fp32": "float32", "fp16": "float16"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its name, static shape and numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """The number of bytes of the dense tensor."""
        return prod(self.shape) * {"float32": 4, "float16": 2, "int32": 4, "uint8": 1}[self.dtype]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One graph: inputs and outputs in the order of the exported network."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class ModelDims:
    """The dimensions of a model that determine its graphs' shapes.

    `temporal` lists (channels, resolution relative to LR) for each decoder block, in order; with
    `match_colour`, `decode` also takes LR and gives its output LR's broad colours.
    """

    latent: int
    hint: int
    fmap: int
    context: int
    temporal: tuple[tuple[int, int], ...]
    match_colour: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelDims:
        """Reads the dimensions from a manifest; the inverse of `dataclasses.asdict`."""
        return cls(
            latent=int(data["latent"]),
            hint=int(data["hint"]),
            fmap=int(data["fmap"]),
            context=int(data["context"]),
            temporal=tuple((int(c), int(s)) for c, s in data["temporal"]),
            match_colour=bool(data.get("match_colour", False)),
        )


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes at which frames of one size pass through the graphs.

    Args:
        size: LR size (h, w) of the frames as they arrive.
        flow_scale: The flow is computed at HR / flow_scale (1, 2 or 4).
        tile: LR size of the tiles on which denoise and decode run, or None for the whole frame.
        batch: How many frames every graph takes at once: 1, or 2 or 4 for engines that refine the
            tiles of a frame in batches.
    """

    size: Size
    flow_scale: int = 1
    tile: Size | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.batch not in BATCHES:
            raise UsageError(f"a batch of {self.batch} is not possible", remedy="use 1, 2 or 4")
        if self.flow_scale not in FLOW_SCALES:
            raise UsageError(f"flow scale 1/{self.flow_scale} is not known", remedy="use 1, 2 or 4")
        smallest = MIN_SIDE * self.flow_scale
        if self.flow_scale > 1 and min(self.padded) < smallest:
            raise UsageError(
                f"flow scale 1/{self.flow_scale} does not fit {format_size(self.size)}",
                f"the flow network needs at least {smallest} input pixels a side at that scale",
                "use a smaller flow scale: 1, or 2 instead of 4",
            )
        if self.tile is not None and (
            any(side % SCALE or side < MIN_SIDE for side in self.tile)
            or any(side > full for side, full in zip(self.tile, self.padded, strict=True))
        ):
            raise UsageError(
                f"tiles of {format_size(self.tile)} do not fit {format_size(self.size)}",
                f"sides must be multiples of {SCALE}, at least {MIN_SIDE}, within the frame",
            )

    @property
    def padded(self) -> Size:
        """The LR size (h, w) at which the networks run: multiples of 4, at least 32 a side."""
        return padded_size(self.size)

    @property
    def denoised(self) -> Size:
        """The LR size (h, w) at which denoise and decode run: a tile's, or the padded frame's."""
        return self.tile or self.padded

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest's entry, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Geometry:
        """Reads the entry that `to_json` returns."""
        tile = data["tile"]
        return cls(
            size=_size(data["size"]),
            flow_scale=int(data["flow_scale"]),
            tile=_size(tile) if tile else None,
            batch=int(data.get("batch", 1)),  # older sets do not state it
        )


def _size(pair: Any) -> Size:
    height, width = pair
    return int(height), int(width)


def check_size(size: Size) -> None:
    """Raises `UsageError` unless (h, w) is a possible frame size."""
    height, width = size
    if height < 1 or width < 1:
        raise UsageError(
            f"{format_size(size)} is not a frame size", "both sides must be at least 1 pixel"
        )
    if height * width > MAX_PIXELS:
        raise UsageError(
            f"{format_size(size)} is too large",
            f"input frames may have at most {MAX_PIXELS:,} pixels (8K)",
            "check that width and height are the input's, not the output's",
        )


def padded_size(size: Size) -> Size:
    """Returns (h, w) rounded up to multiples of 4, at least 32 a side.

    The original implementation shrinks the frame instead, and loses pixels.
    """
    height, width = (max(MIN_SIDE, -(-side // SCALE) * SCALE) for side in size)
    return height, width


def format_size(size: Size) -> str:
    """Returns (h, w) as users read it: WxH."""
    return f"{size[1]}x{size[0]}"


MIB, GIB = 2**20, 2**30


def format_bytes(count: float, unit: str = "") -> str:
    """Returns an amount of memory or of a disk as a user reads it, such as "812 MiB".

    Args:
        unit: "MiB" or "GiB" for one decimal of it; "" for whole MiB, or from 10 GiB on for GiB.
    """
    if unit == "MiB" or (not unit and count < 10 * GIB):
        return f"{count / MIB:.1f} MiB" if unit else f"{count / MIB:.0f} MiB"
    return f"{count / GIB:.1f} GiB"


def parse_size(text: str, option: str) -> Size:
    """Returns WxH, as a user writes it, as (h, w).

    Args:
        text: The value to parse.
        option: The option that it was given for, named in the error.

    Raises:
        UsageError: It is not two numbers with an x between them.
    """
    match = re.fullmatch(r"(-?\d{1,9})[xX](-?\d{1,9})", text.strip())
    if match is None:
        raise UsageError(
            f"{option} {text!r:.60} is not a size", remedy="write WIDTHxHEIGHT, such as 320x180"
        )
    return int(match[2]), int(match[1])


def graph_specs(geometry: Geometry, dims: ModelDims, precision: Precision) -> dict[str, GraphSpec]:
    """Returns every graph's inputs and outputs at a size.

    lr and hr are nominally in [-1, 1]; flow is in HR pixels. Flow is float32 in any precision: half
    precision would lose half a pixel beyond 1024 pixels.
    """
    n = geometry.batch
    h, w = geometry.size
    full_h, full_w = geometry.padded
    th, tw = geometry.denoised
    real = FLOAT[precision]
    coarse = tuple(-(-side * SCALE // geometry.flow_scale // 8) for side in geometry.padded)
    T = TensorSpec
    frame = T("frame", (n, h, w, 3), "uint8")
    up = T("up", (n, 3, SCALE * full_h, SCALE * full_w), real)
    fmap = T("fmap", (n, dims.fmap, *coarse), real)
    context = T("context", (n, dims.context, *coarse), real)
    flow = T("flow", (n, 2, SCALE * full_h, SCALE * full_w), "float32")
    warped = T("warped", (n, 3, SCALE * full_h, SCALE * full_w), real)
    tile_warped = T("warped", (n, 3, SCALE * th, SCALE * tw), real)
    latent = T("latent", (n, dims.latent, th, tw), real)
    gate = T("gate", (1,), real)
    tile_lr = T("lr", (n, 3, th, tw), real)
    # A tile is cut from padded frames; only a whole frame is cropped to four times the input's
    # size.
    out_h, out_w = (SCALE * h, SCALE * w) if geometry.tile is None else (SCALE * th, SCALE * tw)
    temporal = tuple(
        T(f"temporal_{i}", (n, channels, th * scale // 4, tw * scale // 4), real)
        for i, (channels, scale) in enumerate(dims.temporal)
    )
    specs = (
        GraphSpec("prepare", (frame,), (T("lr", (n, 3, full_h, full_w), real), up)),
        GraphSpec("features", (up,), (fmap, context)),
        GraphSpec("flow", (fmap, T("previous_fmap", fmap.shape, real), context), (flow,)),
        GraphSpec(
            "guide",
            (T("previous_hr", (n, 3, SCALE * h, SCALE * w), real), flow),
            (warped, T("hint", (n, dims.hint, full_h, full_w), real)),
        ),
        GraphSpec("temporal", (tile_warped,), temporal),
        GraphSpec(
            "denoise",
            (
                latent,
                tile_lr,
                T("hint", (n, dims.hint, th, tw), real),
                T("step", (1,), "int32"),
                gate,
            ),
            (T("denoised", latent.shape, real),),
        ),
        GraphSpec(
            "decode",
            (latent, *((tile_lr,) if dims.match_colour else ()), *temporal, gate),
            (T("hr", (n, 3, out_h, out_w), real), T("frame", (n, out_h, out_w, 3), "uint8")),
        ),
    )
    return {spec.name: spec for spec in specs}


@dataclass(frozen=True, slots=True)
class SizeRange:
    """The frame sizes (h, w) that the engines of one set take, and the one they are tuned for.

    Engines of a range neither pad frames nor crop outputs, so sides are multiples of 4.
    """

    least: Size
    usual: Size
    most: Size

    def __post_init__(self) -> None:
        for size in (self.least, self.usual, self.most):
            check_size(size)
            if size != padded_size(size):
                raise UsageError(
                    f"{format_size(size)} is not possible in a range of sizes",
                    f"sides must be multiples of {SCALE}, at least {MIN_SIDE}",
                    "build engines of that size by itself",
                )
        if not all(a <= b <= c for a, b, c in zip(self.least, self.usual, self.most, strict=True)):
            raise UsageError(
                f"{self} is not a range of sizes",
                "each side must not be smaller than in the size before",
                "write MIN:OPT:MAX, such as 160x96:320x180:640x360",
            )

    def __str__(self) -> str:
        return ":".join(format_size(size) for size in (self.least, self.usual, self.most))

    def check(self, size: Size) -> None:
        """Raises `UsageError` unless the engines take frames of a size."""
        inside = zip(self.least, size, self.most, strict=True)
        if size != padded_size(size) or not all(a <= b <= c for a, b, c in inside):
            raise UsageError(
                f"the engines do not take frames of {format_size(size)}",
                f"they take {format_size(self.least)} to {format_size(self.most)}, in steps of "
                f"{SCALE}",
                "build engines of that size",
            )

    def to_json(self) -> list[Size]:
        """Returns the manifest's entry, which `from_json` reads."""
        return [self.least, self.usual, self.most]

    @classmethod
    def from_json(cls, data: Any) -> SizeRange | None:
        """Reads the entry that `to_json` returns; None if there is none."""
        if data is None:
            return None
        least, usual, most = map(_size, data)
        return cls(least, usual, most)


GRAPHS_JSON = "graphs.json"
MAX_JSON_BYTES = 4 * 2**20
# Increase this when the same model at the same size would export to other graphs, or when TensorRT
# would be given other graphs.
GRAPH_VERSION = 4


def onnx_file(name: str) -> str:
    """Returns the name of a graph's network file; its weights file has `.data` added to that."""
    return f"{name}.onnx"


def golden_file(name: str) -> str:
    """Returns the name of a graph's recorded tensors, `in.<tensor>` and float32 `out.<tensor>`."""
    return f"{name}.golden.safetensors"


@dataclass(frozen=True, slots=True)
class GraphSet:
    """One model exported at one size and precision.

    Attributes:
        steps: Number of denoising steps in the `denoise` graph's tables.
        correlation: RAFT's lookup, "all-pairs" or "on-demand".
        exporter: Names and versions of the packages that wrote the graphs.
        activation_bytes: For each graph, the bytes of the intermediate tensors that are alive at
            its worst node.
        sizes: The sizes that the engines take; None is that of the geometry alone.
    """

    geometry: Geometry
    precision: Precision
    dims: ModelDims
    steps: int
    correlation: str
    model_digest: str
    exporter: Mapping[str, str]
    activation_bytes: Mapping[str, int] = field(default_factory=dict)
    sizes: SizeRange | None = None

    def at(self, size: Size) -> GraphSet:
        """Returns the set for frames of a size (h, w); a set of one size as it is.

        Raises:
            UsageError: It is not in the range of sizes that the engines take.
        """
        if self.sizes is None:
            return self
        self.sizes.check(size)
        return replace(self, geometry=replace(self.geometry, size=size))

    def specs(self) -> dict[str, GraphSpec]:
        """Returns every graph's inputs and outputs."""
        return graph_specs(self.geometry, self.dims, self.precision)

    def to_json(self) -> dict[str, Any]:
        """Returns the data that `from_json` reads."""
        return {
            "geometry": self.geometry.to_json(),
            "precision": self.precision,
            "dims": asdict(self.dims),
            "steps": self.steps,
            "correlation": self.correlation,
            "model_digest": self.model_digest,
            "exporter": dict(self.exporter),
            "activation_bytes": dict(self.activation_bytes),
            "sizes": None if self.sizes is None else self.sizes.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GraphSet:
        """Reads the data that `to_json` returns.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type.
            ValueError: A value is not valid.
        """
        if data["precision"] not in ("fp32", "fp16"):
            raise ValueError(f"unknown precision {data['precision']!r}")
        return cls(
            geometry=Geometry.from_json(data["geometry"]),
            precision=cast(Precision, data["precision"]),
            dims=ModelDims.from_json(data["dims"]),
            steps=int(data["steps"]),
            correlation=str(data["correlation"]),
            model_digest=str(data["model_digest"]),
            exporter={str(k): str(v) for k, v in data["exporter"].items()},
            activation_bytes={str(k): int(v) for k, v in data["activation_bytes"].items()},
            sizes=SizeRange.from_json(data.get("sizes")),
        )

    def write(self, folder: Path) -> None:
        """Writes `graphs.json`."""
        text = json.dumps(self.to_json(), indent=2)
        (folder / GRAPHS_JSON).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> GraphSet:
        """Reads `graphs.json`."""
        return cls.from_json(read_json(folder / GRAPHS_JSON, MAX_JSON_BYTES))
