"""Finds the weights files of a model's parts, and checks what a safetensors file claims to have.

Everything here is decided from names and headers, before a byte of a tensor is allocated. It needs
no torch, so that an engine's key can be computed without it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..reading import open_regular, parse_json, read_json

MAX_HEADER_BYTES = 10_000_000
MAX_TENSORS = 100_000
HEADER_LENGTH_BYTES = 8  # the file starts with the header's length, little-endian
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

SINGLE = "{stem}.safetensors"
SHARDED = "{stem}.safetensors.index.json"
# In order of preference: full precision, then half, then pickles of tensors.
CANDIDATES = (
    SINGLE,
    SHARDED,
    "{stem}.fp16.safetensors",
    "{stem}.safetensors.index.fp16.json",
    "{stem}.fp16.safetensors.index.json",
    "{stem}.bin",
    "{stem}.fp16.bin",
)
DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEMS = ("model", "pytorch_model")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one state dict: `files` in order; `index` maps names to shards, if sharded."""

    files: tuple[Path, ...]
    index: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """Returns every file that affects the weights."""
        return self.files if self.index is None else (self.index, *self.files)


def find_weights(folder: Path, *stems: str) -> WeightFiles:
    """Finds the weights of one part, e.g. `unet/`: safetensors, then half precision, then .bin.

    Args:
        folder: Where to look.
        stems: File names up to the first dot, in order of preference; diffusers' by default.

    Raises:
        StreamDiffVSRError: None of the names is there, or an index names a shard that is not.
    """
    for stem in stems or (DIFFUSERS_STEM,):
        for pattern in CANDIDATES:
            path = folder / pattern.format(stem=stem)
            if path.exists():
                return _shards(path) if path.suffix == ".json" else WeightFiles((path,))
    stem = (stems or (DIFFUSERS_STEM,))[0]
    raise StreamDiffVSRError(
        f"no weights in {folder}",
        f"looked for {stem}.safetensors, its .index.json, .fp16.safetensors and .bin",
        "the folder layout is in docs/models.md",
    )


def _shards(index: Path) -> WeightFiles:
    what = f"cannot use {index}"
    try:
        names = set(read_json(index, MAX_HEADER_BYTES)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise StreamDiffVSRError(what, "it is not an index of shards", "fetch it again") from None
    for name in names:
        plain = isinstance(name, str) and name.endswith(".safetensors")
        if not plain or "/" in name or "\\" in name:
            raise StreamDiffVSRError(what, f"{name!r} is not a plain safetensors file name")
        if not (index.parent / name).is_file():
            raise StreamDiffVSRError(what, f"shard {name} is missing", "fetch the rest")
    if not names:
        raise StreamDiffVSRError(what, "it names no shard", "fetch it again")
    return WeightFiles(tuple(index.parent / name for name in sorted(names)), index)


def check_header(path: Path) -> list[str]:
    """Refuses a safetensors file with a false header, before anything is allocated for it.

    Returns:
        The names of the tensors.

    Raises:
        StreamDiffVSRError: Header over 10 MB or not JSON, a dtype that is not supported, a shape
            that does not fit its bytes, or bytes outside the file.
    """
    what = f"cannot read {path}"
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(HEADER_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            _check_start(what, start, length, size)
            header = parse_json(file.read(length))
    except OSError as error:
        raise StreamDiffVSRError(what, error.strerror or str(error)) from None
    except ValueError:
        raise StreamDiffVSRError(what, "its header is not JSON", "fetch the file again") from None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise StreamDiffVSRError(what, "its header lists no tensors", "fetch the file again")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(what, name, entry, size - HEADER_LENGTH_BYTES - length)
    return list(header)


def _check_start(what: str, start: bytes, length: int, size: int) -> None:
    if start == b"version ":
        raise StreamDiffVSRError(
            what, "it is a Git LFS pointer, not the weights", "run `git lfs pull` where it is from"
        )
    if len(start) < HEADER_LENGTH_BYTES or length + HEADER_LENGTH_BYTES > size:
        why = f"it is cut off: {size} bytes, and a header of {length} announced"
        raise StreamDiffVSRError(what, why, "fetch the file again")
    if length > MAX_HEADER_BYTES:
        raise StreamDiffVSRError(what, f"its header has {length} bytes, above {MAX_HEADER_BYTES}")


def _check_entry(what: str, name: str, entry: Any, room: int) -> None:
    """Checks one tensor's claims against the bytes that there are."""
    shown = name if len(name) <= 80 else f"{name[:79]}…"
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise StreamDiffVSRError(what, f"tensor {shown} has no dtype, shape and offsets") from None
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if any(type(n) is not int or n < 0 for n in numbers) or len(numbers) > 10:
        raise StreamDiffVSRError(what, f"tensor {shown} has no valid shape and offsets")
    if dtype not in DTYPE_BYTES:
        supported = ", ".join(DTYPE_BYTES)
        raise StreamDiffVSRError(what, f"tensor {shown} is {dtype!s:.20}; supported: {supported}")
    claimed = math.prod(shape) * DTYPE_BYTES[dtype]
    if claimed != end - begin or end > room:
        why = f"tensor {shown} claims {claimed:.6g} bytes at {begin}-{end} of {room} in the file"
        raise StreamDiffVSRError(what, why, "fetch the file again")
