"""Frames of the built-in model on a CPU, which every GPU's frames are compared with.

They are recorded ahead in a small file, or made when needed: in float32, by the best CPU backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ... import build
from ...benchmarks.statistics import endless
from ...engines.manifest import read_manifest
from ...engines.registry import choose
from ...errors import StreamDiffVSRError
from ...graphs.spec import Precision, Size, format_size
from ...runtime.state import StreamState
from ...runtime.upscaler import Image, Upscaler, load

MODEL = "tiny"
SMALL: Size = (48, 64)
SEED = 1
FRAMES = 6
FILE = "reference.safetensors"
# (levels of 255 at one place, levels in the mean). In float32 a value may round the other way. In
# half precision a CPU's graphs are (1, 0.014) off, and unguided frames (9, 0.5).
TOLERANCE: dict[Precision, tuple[int, float]] = {"fp32": (1, 1e-3), "fp16": (4, 0.1)}


@dataclass(frozen=True, slots=True)
class Reference:
    """Frames in and out of the built-in model, each guided by the one before it.

    Attributes:
        model_digest: The digest of its weights; frames of other weights are not compared.
        made_by: The backend that made them.
    """

    frames: list[Image]
    expected: list[Image]
    model_digest: str
    made_by: str

    def differences(self, upscaler: Upscaler) -> tuple[int, float]:
        """Returns the largest and the mean difference of an upscaler's frames, in levels of 255."""
        got = stepped(upscaler, self.frames)
        levels = [np.abs(a.astype(np.int16) - b) for a, b in zip(got, self.expected, strict=True)]
        return max(int(x.max()) for x in levels), float(np.mean([x.mean() for x in levels]))


def stepped(upscaler: Upscaler, frames: list[Image]) -> list[Image]:
    """Returns the output frames, one call each, starting from the seed."""
    state, outputs = StreamState(seed=SEED), []
    for frame in frames:
        out, state = upscaler.step(frame, state)
        outputs.append(out)
    return outputs


def set_name(model: str, size: Size, backend: str, device: str) -> str:
    """Returns the folder name of an engine set, here and among those built ahead."""
    return f"{model}_{format_size(size)}_{backend}_{device}"


def make_reference(folder: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """Records the file, in a folder where the engines that make it are also kept.

    Raises:
        StreamDiffVSRError: No backend works on this CPU.
    """
    backend = choose(device="cpu").backend
    say(f"making the CPU's frames with {backend}")
    kept = folder / set_name(MODEL, SMALL, backend, "cpu")
    engines = build(MODEL, size=SMALL, backend=backend, out=kept)
    upscaler = load(engines)
    frames = list(islice(endless(SMALL), FRAMES))
    tensors: dict[str, npt.NDArray[Any]] = {}
    for index, (frame, out) in enumerate(zip(frames, stepped(upscaler, frames), strict=True)):
        tensors |= {f"in.{index}": np.ascontiguousarray(frame), f"out.{index}": out}
    path = folder / FILE
    metadata = {"model_digest": upscaler.manifest.key.model_digest, "made_by": backend}
    save_file(tensors, str(path), metadata)
    return path


def read_reference(path: Path) -> Reference:
    """Reads the frames of a file.

    Raises:
        StreamDiffVSRError: It is missing, damaged, or not such a file.
    """
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata()
            frames, expected = (
                [file.get_tensor(f"{which}.{index}") for index in range(FRAMES)]
                for which in ("in", "out")
            )
        return Reference(frames, expected, metadata["model_digest"], metadata["made_by"])
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise StreamDiffVSRError(
            f"{path} has no frames to compare with", str(error), "leave it out: they are made here"
        ) from error


def why_not_of(reference: Reference, engines: Path) -> str:
    """Returns why an engine set's frames cannot be compared with these, or an empty string."""
    key = read_manifest(engines).key
    if key.model_digest != reference.model_digest:
        return "the recorded frames are of other weights"
    return ""
