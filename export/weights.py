"""Reads weight files, and loads them into the modules.

Only safetensors and weights-only pickles are opened: a model folder can run no code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..durable import write_atomically
from ..errors import StreamDiffVSRError

MAX_HEADER_BYTES = 10_000_000
MAX_TENSORS = 100_000
HEADER_LENGTH_BYTES = 8  # the file starts with the header's length, little-endian
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

SINGLE = "{stem}.safetensors"
SHARDED = "{stem}.safetensors.index.json"
# In the order of preference: full precision, then half, then pickles of tensors.
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
        """Every file that has a say in the weights."""
        return self.files if self.index is None else (self.index, *self.files)


def find_weights(folder: Path, *stems: str) -> WeightFiles:
    """The weights of one part, e.g. `unet/`: safetensors first, then half precision, then .bin.

    Args:
        folder: Where to look.
        stems: File names up to the first dot, in the order of preference; diffusers' by default.

    Raises:
        StreamDiffVSRError: None of the names is there, or an index names a shard that is not.
    """
    for stem in stems or (DIFFUSERS_STEM,):
        for pattern in CANDIDATES:
            path = folder / pattern.format(stem=stem)
            if path.is_file():
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
        if index.stat().st_size > MAX_HEADER_BYTES:
            raise StreamDiffVSRError(what, f"an index has at most {MAX_HEADER_BYTES} bytes")
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StreamDiffVSRError(what, "it is no index of shards", "fetch it again") from None
    for name in names:
        plain = isinstance(name, str) and name.endswith(".safetensors")
        if not plain or "/" in name or "\\" in name:
            raise StreamDiffVSRError(what, f"{name!r} is no plain safetensors file name")
        if not (index.parent / name).is_file():
            raise StreamDiffVSRError(what, f"shard {name} is missing", "fetch the rest")
    if not names:
        raise StreamDiffVSRError(what, "it names no shard", "fetch it again")
    return WeightFiles(tuple(index.parent / name for name in sorted(names)), index)


def check_header(path: Path) -> list[str]:
    """Refuse a safetensors file whose header lies, before anything is allocated for it.

    Returns:
        The names of the tensors.

    Raises:
        StreamDiffVSRError: Header over 10 MB or not JSON, a dtype that is not supported, a shape
            that does not fit its bytes, or bytes outside the file.
    """
    what = f"cannot read {path}"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(HEADER_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            _check_start(what, start, length, size)
            header = json.loads(file.read(length))
    except OSError as error:
        raise StreamDiffVSRError(what, error.strerror or str(error)) from None
    except (ValueError, RecursionError):
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
    """One tensor's claim against the bytes that there are."""
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


State = dict[str, Tensor]
NAMES_SHOWN = 3
MAX_PICKLE_BYTES = 16 * 2**30
BATCH_COUNTER = ".num_batches_tracked"  # counts training batches; inference never reads it
PICKLE_SLACK = 1.02  # tensors shared inside a pickle are counted twice


def read_weights(weights: WeightFiles) -> State:
    """The state dict of one part, floats as float32, in memory of its own.

    Raises:
        StreamDiffVSRError: A file cannot be read, lies about its size, or holds NaN or infinity.
    """
    state: State = {}
    for path in weights.files:
        part = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
        doubled = sorted(state.keys() & part.keys())
        if doubled:
            raise StreamDiffVSRError(f"cannot read {path}", f"{doubled[0]} is in another shard too")
        state |= part
    return state


def read_safetensors(path: Path) -> State:
    """One safetensors file as float32 tensors (integers as they are)."""
    names = check_header(path)
    state: State = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in names:
                # The copy is deliberate: a mapped file that is cut later would kill the process.
                state[name] = _as_float32(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise StreamDiffVSRError(f"cannot read {path}", str(error), "fetch it again") from None
    _check_finite(path, state)
    return state


def read_pickle(path: Path) -> State:
    """A `.pth` or `.bin` file that holds nothing but tensors (torch's weights-only unpickler)."""
    what = f"cannot read {path}"
    if not path.is_file():
        raise StreamDiffVSRError(what, "no such file")
    size = path.stat().st_size
    if size > MAX_PICKLE_BYTES:
        raise StreamDiffVSRError(what, f"{size} bytes are more than any model here has")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on a broken file
        why = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        if "weights_only" in str(error) or "Weights only" in str(error):
            why = "it holds more than tensors, and loading that could run code"
        raise StreamDiffVSRError(what, why, "convert it to safetensors where it is from") from None
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not loaded:
        raise StreamDiffVSRError(what, "it holds no state dict")
    claimed = 0
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise StreamDiffVSRError(what, f"{name!s:.80} is no tensor")
        claimed += value.numel() * value.element_size()
    if claimed > size * PICKLE_SLACK:  # an expanded view: a few bytes that claim to be many
        raise StreamDiffVSRError(what, f"its tensors claim {claimed:.6g} bytes, it has {size}")
    state = {name: _as_float32(value) for name, value in loaded.items()}
    _check_finite(path, state)
    return state


def load_into(module: nn.Module, state: Mapping[str, Tensor], origin: Path | str) -> None:
    """Put a state dict into a module that may be on the meta device; every name must fit.

    Args:
        module: Receives the tensors themselves, not copies.
        state: float32 tensors. A `module.` before every name (DataParallel) is taken off.
        origin: What the message names when something does not fit.

    Raises:
        StreamDiffVSRError: Names are missing or unexpected, or shapes differ.
    """
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    expected = module.state_dict()
    counters = {n for n in expected.keys() - state.keys() if n.endswith(BATCH_COUNTER)}
    state = {**state, **{name: torch.tensor(0) for name in counters}}  # old files lack them
    problems = [
        _listed("missing", expected.keys() - state.keys()),
        _listed("unexpected", state.keys() - expected.keys()),
        _listed(
            "of another shape",
            (
                f"{name} {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
                for name in expected.keys() & state.keys()
                if state[name].shape != expected[name].shape
            ),
        ),
    ]
    if any(problems):
        raise StreamDiffVSRError(
            f"{origin} does not fit the {type(module).__name__} its config describes",
            "; ".join(problem for problem in problems if problem),
            "use weights and config of one model",
        )
    module.load_state_dict(state, strict=True, assign=True)


def save_whole(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file under another name first: a reader sees all of it or nothing.

    Raises:
        OSError: The folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as part:
        save_file({key: value.contiguous() for key, value in tensors.items()}, part)


def _listed(problem: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    if not ordered:
        return ""
    more = f" and {len(ordered) - NAMES_SHOWN} more" if len(ordered) > NAMES_SHOWN else ""
    return f"{len(ordered)} {problem}: {', '.join(ordered[:NAMES_SHOWN])}{more}"


def _as_float32(value: Tensor) -> Tensor:
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to(dtype, copy=True).contiguous()


def _check_finite(path: Path, state: State) -> None:
    for name, value in state.items():
        if value.is_floating_point() and value.numel():
            low, high = value.aminmax()  # one pass, no temporary; NaN comes through
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise StreamDiffVSRError(
                    f"{path} is damaged", f"{name} holds NaN or infinity", "fetch the file again"
                )
