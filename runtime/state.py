"""The state that one frame leaves for the next, and its file format.

A state is immutable: stepping from it twice gives the same frame twice. It does not depend on the
backend or the precision that made it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..durable import CAUSES, why, write_atomically
from ..errors import StreamDiffVSRError
from ..graphs.arrays import Array
from ..reading import parse_json

FORMAT = "streamdiffvsr-state-1"
MAX_INDEX = 2**63


@dataclass(frozen=True, slots=True)
class PreviousFeatures:
    """RAFT's features of the previous frame, kept in the state by the Upscaler that made them.

    Another Upscaler, or one that goes on from a file, computes the same numbers again from
    `previous_lr`.
    """

    owner: object
    fmap: Array


@dataclass(frozen=True, slots=True)
class StreamState:
    """The memory of a stream.

    Attributes:
        seed: The seed of the noise.
        frame_index: The index of the next frame; seed and index determine its noise.
        previous_hr: The previous raw output (1, 3, 4h, 4w), unclamped, nominally in [-1, 1], or
            None at the start of an epoch.
        previous_lr: The previous input frame (h, w, 3) uint8 RGB, or None.
    """

    seed: int = 0
    frame_index: int = 0
    previous_hr: Array | None = None
    previous_lr: Array | None = None
    features: PreviousFeatures | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("seed", self.seed), ("frame_index", self.frame_index)):
            if not 0 <= value < MAX_INDEX:
                raise ValueError(f"{name} must be 0 to 2^63 - 1, got {value}")
        if (self.previous_hr is None) != (self.previous_lr is None):
            raise ValueError("previous_hr and previous_lr go together")
        if self.previous_hr is not None and self.previous_lr is not None:
            _check_frames(self.previous_hr, self.previous_lr)

    @property
    def has_previous(self) -> bool:
        """Returns whether a previous frame guides the next one."""
        return self.previous_lr is not None

    @property
    def size(self) -> tuple[int, int] | None:
        """The LR size (h, w) of the previous frame, or None if there is none."""
        if self.previous_lr is None:
            return None
        height, width = self.previous_lr.shape[:2]
        return height, width

    def reset(self) -> StreamState:
        """Begins a new epoch: forgets the previous frame, keeps the seed and the frame index."""
        return replace(self, previous_hr=None, previous_lr=None, features=None)

    def on_host(self) -> StreamState:
        """Returns the same state in host memory, free of its Upscaler's: for keeping it long."""
        return replace(self, features=None)

    def save(self, path: str | Path) -> None:
        """Writes the state as safetensors, whole or not at all.

        Raises:
            StreamDiffVSRError: The file cannot be written.
        """
        tensors: dict[str, Array] = {}
        if self.previous_hr is not None and self.previous_lr is not None:
            tensors["previous_hr"] = np.ascontiguousarray(self.previous_hr, dtype=np.float32)
            tensors["previous_lr"] = np.ascontiguousarray(self.previous_lr)
        counts = json.dumps({"seed": self.seed, "frame_index": self.frame_index})
        write_tensors(Path(path), tensors, {"format": FORMAT, "state": counts})

    @classmethod
    def load(cls, path: str | Path) -> StreamState:
        """Reads a state that `save` wrote.

        Raises:
            StreamDiffVSRError: The file is missing, damaged, or not a state.
        """
        with read_tensors(Path(path), FORMAT) as (tensors, metadata):
            counts = parse_json(metadata["state"])
            return cls(
                seed=int(counts["seed"]),
                frame_index=int(counts["frame_index"]),
                previous_hr=tensors.get("previous_hr"),
                previous_lr=tensors.get("previous_lr"),
            )


class HeldOutput:
    """A raw output that stays in a device's memory until it is read.

    Attributes:
        lock: Held while the output is read.

    Args:
        source: The output as a host array (1, 3, 4h, 4w), or a function that returns it and is
            called once.
    """

    def __init__(self, source: Callable[[], Array] | Array) -> None:
        self._source = source
        self.lock = threading.Lock()  # a state is a value, for any thread

    def read(self) -> Array:
        """Returns the output in host memory; from then on the device is not needed."""
        with self.lock:
            if callable(self._source):
                self._source = self._source()
            return self._source


class HeldState(StreamState):
    """A state whose raw output is still on a device, where its Upscaler goes on from it."""

    __slots__ = ("held",)
    held: HeldOutput | None

    def __init__(
        self,
        seed: int,
        frame_index: int,
        previous_hr: HeldOutput | Array | None,
        previous_lr: Array | None,
        features: PreviousFeatures | None = None,
    ) -> None:
        """Takes what a `StreamState` takes; `replace` passes the array that it has read."""
        held = previous_hr
        if previous_hr is not None and not isinstance(previous_hr, HeldOutput):
            held = HeldOutput(previous_hr)
        # Not the base's own `__init__`: it would set the field that is a property here.
        put = partial(object.__setattr__, self)
        put("seed", seed)
        put("frame_index", frame_index)
        put("previous_lr", previous_lr)
        put("features", features)
        put("held", held)

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes copies and pickles complete states in host memory."""
        state = self.seed, self.frame_index, self.previous_hr, self.previous_lr
        return StreamState, state

    @property
    def previous_hr(self) -> Array | None:
        """See `StreamState`; read from the device on first use."""
        return None if self.held is None else self.held.read()

    def reset(self) -> StreamState:
        """See `StreamState`; does not read the output."""
        return StreamState(self.seed, self.frame_index)

    def on_host(self) -> StreamState:
        """See `StreamState`."""
        return StreamState(self.seed, self.frame_index, self.previous_hr, self.previous_lr)


def _check_frames(hr: Array, lr: Array) -> None:
    if lr.ndim != 3 or lr.shape[2] != 3 or lr.dtype != np.uint8:
        raise ValueError(f"previous_lr must be (h, w, 3) uint8, got {lr.dtype} {lr.shape}")
    expected = (1, 3, 4 * lr.shape[0], 4 * lr.shape[1])
    if hr.shape != expected or hr.dtype.kind != "f":
        raise ValueError(f"previous_hr must be float {expected}, got {hr.dtype} {hr.shape}")


def write_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole: a killed process leaves the old file or the new one.

    Raises:
        StreamDiffVSRError: The file cannot be written.
    """
    try:
        with write_atomically(path, sync=True) as part:
            save_file(dict(tensors), str(part), metadata)
    except (OSError, SafetensorError) as error:
        what = f"cannot write the state to {path}"
        raise StreamDiffVSRError(
            what, _why(error), "choose a writable folder with free space"
        ) from error


@contextmanager
def read_tensors(path: Path, format: str) -> Iterator[tuple[dict[str, Array], dict[str, str]]]:
    """Reads what `write_tensors` wrote; yields the tensors and the metadata.

    Raises:
        StreamDiffVSRError: The file is missing, damaged, or not of this format, or the block finds
            that it does not contain what it should.
    """
    if not path.is_file():
        raise StreamDiffVSRError(
            f"no state file {path}", "there is no such file", "check its name and folder"
        )
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != format:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {format!r}")
        yield tensors, metadata
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StreamDiffVSRError(
            f"could not read the state {path}",
            f"it is damaged, or is no state ({error})",
            "start from a fresh state",
        ) from error


def _why(error: Exception) -> str:
    """Returns the cause in words; safetensors has the system's error number in its text."""
    number = re.search(r"os error (\d+)", str(error))
    if isinstance(error, OSError):
        return why(error)
    return CAUSES.get(int(number[1])) or str(error) if number else str(error)
