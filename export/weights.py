"""Loads weights from files into modules: safetensors, or a pickle restricted to tensors.

Nothing that a file claims is trusted: sizes are checked before allocation, values for NaN and
infinity after it, and names and shapes against the module. Every failure is one line that names the
file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..durable import write_atomically
from ..errors import StreamDiffVSRError
from .weight_files import WeightFiles, check_header

State = dict[str, Tensor]
NAMES_SHOWN = 3
MAX_PICKLE_BYTES = 16 * 2**30
BATCH_COUNTER = ".num_batches_tracked"  # counts training batches; inference never reads it
PICKLE_SLACK = 1.02  # tensors shared inside a pickle are counted twice


def read_weights(weights: WeightFiles) -> State:
    """Returns the state dict of one part, floats as float32, in memory of its own.

    Raises:
        StreamDiffVSRError: A file cannot be read, is false about its size, or has NaN or infinity.
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
    """Returns one safetensors file as float32 tensors (integers unchanged)."""
    names = check_header(path)
    state: State = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in names:
                # Copied on purpose: truncating a mapped file later would kill the process.
                state[name] = _as_float32(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise StreamDiffVSRError(f"cannot read {path}", str(error), "fetch it again") from None
    _check_finite(path, state)
    return state


def read_pickle(path: Path) -> State:
    """Reads a `.pth` or `.bin` file of only tensors, with torch's weights-only unpickler."""
    what = f"cannot read {path}"
    if not path.is_file():
        raise StreamDiffVSRError(what, "no such file")
    size = path.stat().st_size
    if size > MAX_PICKLE_BYTES:
        raise StreamDiffVSRError(what, f"{size} bytes are more than any model here has")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises almost anything for a broken file
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
            raise StreamDiffVSRError(what, f"{name!s:.80} is not a tensor")
        claimed += value.numel() * value.element_size()
    if claimed > size * PICKLE_SLACK:  # an expanded view: a few bytes that claim to be many
        raise StreamDiffVSRError(what, f"its tensors claim {claimed:.6g} bytes, it has {size}")
    state = {name: _as_float32(value) for name, value in loaded.items()}
    _check_finite(path, state)
    return state


def load_into(module: nn.Module, state: Mapping[str, Tensor], origin: Path | str) -> None:
    """Loads a state dict into a module that may be on the meta device; every name must fit.

    Args:
        module: Receives the tensors themselves, not copies.
        state: float32 tensors. A `module.` prefix of every name (DataParallel) is removed.
        origin: Named in the error when something does not fit.

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
    """Writes a safetensors file under another name first: readers see all of it or nothing.

    Raises:
        OSError: The folder cannot be written; nothing is left there.
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
            low, high = value.aminmax()  # one pass, no temporary; it propagates NaN
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise StreamDiffVSRError(
                    f"{path} is damaged", f"{name} holds NaN or infinity", "fetch the file again"
                )
