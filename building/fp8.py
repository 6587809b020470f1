"""Calibrates a model on clips and writes its quantised graphs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from ..engines.parity import QUANTISED, decibels, noise_to_signal, run_on_host
from ..errors import StreamDiffVSRError, option
from ..graphs.arrays import Image
from ..graphs.golden import example_frame
from ..graphs.spec import Geometry, GraphSet, GraphSpec, Size, golden_file, onnx_file
from ..reading import file_digest

CLIP = Path(__file__).resolve().parent.parent / "assets" / "demo" / "clip.mp4"
PHOTOGRAPHIC_FRAMES, MADE_FRAMES = 6, 3  # each costs four runs of the network, twice, on the CPU
PACE = 2  # pixels by which the synthetic clip moves per frame
SEED = 0
# Raise this when the same clips would give another graph, for example with other scales.
RECIPE = 1
MODULES = ("modelopt", "onnxslim", "lief", "onnxruntime")
PACKAGE = "nvidia-modelopt"


def require_quantiser() -> None:
    """Raises `StreamDiffVSRError` if packages for quantising are missing, and names them."""
    if missing := [name for name in MODULES if find_spec(name) is None]:
        runtime = ",cpu" if "onnxruntime" in missing else ""
        raise StreamDiffVSRError(
            "fp8 engines cannot be built here",
            f"not installed: {', '.join(missing)}",
            f"run pip install 'streamdiffvsr[fp8{runtime}]', or use {option('precision', 'fp16')}",
        )


def recipe_digest() -> str:
    """Returns a digest of all that decides a calibration besides the model and the size."""
    recipe = {
        "recipe": RECIPE,
        "clip": file_digest(CLIP),
        "frames": [PHOTOGRAPHIC_FRAMES, MADE_FRAMES],
        "pace": PACE,
        "seed": SEED,
        "quantiser": quantiser_version(),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def quantiser_version() -> str:
    """Returns the version of the installed nvidia-modelopt, or "unknown"."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def calibration_clips(size: Size) -> list[list[Image]]:
    """Returns the clips for a size, as (h, w, 3) uint8 RGB frames in order of time."""
    from ..runtime.media.reader import FileSource

    with FileSource(CLIP) as source:
        photographic = [fitted(f.image, size) for f in islice(source, PHOTOGRAPHIC_FRAMES)]
    made = [example_frame(*size, PACE * index) for index in range(MADE_FRAMES)]
    return [photographic, made]


def fitted(image: Image, size: Size) -> Image:
    """Returns the middle of an image (h, w, 3) at a size; a smaller one is padded by mirroring."""
    short = [max(0, side - have) for side, have in zip(size, image.shape, strict=False)]
    around = [(n // 2, n - n // 2) for n in short]
    wide = np.pad(image, [*around, (0, 0)], mode="symmetric")
    top, left = ((have - side) // 2 for have, side in zip(wide.shape, size, strict=False))
    return np.ascontiguousarray(wide[top : top + size[0], left : left + size[1]])


if TYPE_CHECKING:
    from ..export.model import Model
    from ..export.quantisation import SampleInputs

Progress = Callable[[str], None]
GRAPH = "denoise"
# Noise may be a tenth of the signal, 20 dB. Rounding to e4m3 alone is an error of 2.6 % in every
# operand, about 29 dB in a product, and the errors of layers add up. Without any output of the
# denoiser, the ratio is 8 dB (the second step keeps 0.91 of the latent and adds 0.41 of the
# output). The limit is far from both.
WORST_NOISE = 0.1


def calibration_inputs(
    model: Model, geometry: Geometry, steps: int, correlation: str, progress: Progress
) -> Sequence[SampleInputs]:
    """Records the inputs of `denoise` while the model upscales the calibration clips."""
    from ..export.quantisation import denoise_inputs

    progress(f"calibrate {GRAPH}")
    return denoise_inputs(
        model,
        geometry,
        calibration_clips(geometry.denoised),
        steps=steps,
        correlation=correlation,
        seed=SEED,
        progress=lambda fraction: progress(f"calibrate {GRAPH} {fraction:.0%}"),
    )


def quantise_graphs(folder: Path, inputs: Sequence[SampleInputs], progress: Progress) -> None:
    """Quantises the graphs of an fp16 graph folder in place.

    Raises:
        StreamDiffVSRError: Quantising fails, or the result is too far from the reference.
    """
    from ..export.quantisation import quantise

    progress(f"quantise {GRAPH}")
    graphs = GraphSet.read(folder)
    path = folder / onnx_file(GRAPH)
    try:
        quantise(path, inputs, lambda fraction: progress(f"quantise {GRAPH} {fraction:.0%}"))
    except (MemoryError, OSError):
        raise
    except Exception as error:  # three libraries raise exceptions of their own
        raise StreamDiffVSRError(
            f"{PACKAGE} {quantiser_version()} cannot quantise {GRAPH}",
            f"{type(error).__name__}: {error}",
            f"use {option('precision', 'fp16')}, and report this",
        ) from error
    noise = _judge(folder, graphs.specs()[GRAPH])
    progress(f"quantised {GRAPH}: a signal-to-noise ratio of {decibels(noise)}")
    exporter = {**graphs.exporter, PACKAGE: quantiser_version()}
    replace(graphs, exporter=exporter).write(folder)


def _judge(folder: Path, spec: GraphSpec) -> float:
    """Returns the quantised graph's noise-to-signal ratio, and adds its outputs to the record."""
    from ..engines.onnxruntime_backend import OrtEngine

    recorded = folder / golden_file(spec.name)
    golden = load_file(str(recorded))
    outputs: dict[str, npt.NDArray[Any]] = {
        t.name: np.empty(t.shape, t.dtype) for t in spec.outputs
    }
    engine = OrtEngine(folder / onnx_file(spec.name), spec)
    run_on_host(engine, {t.name: golden[f"in.{t.name}"] for t in spec.inputs}, outputs)
    worst = max(noise_to_signal(x, golden[f"out.{name}"]) for name, x in outputs.items())
    if not worst <= WORST_NOISE:
        raise StreamDiffVSRError(
            f"this model's {spec.name} is not fit for fp8",
            f"quantised it has a signal-to-noise ratio of {decibels(worst)}, "
            f"and needs {decibels(WORST_NOISE)}",
            f"use {option('precision', 'fp16')}",
        )
    save_file(golden | {f"{QUANTISED}{name}": x for name, x in outputs.items()}, str(recorded))
    return worst
