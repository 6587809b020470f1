"""An exported fp16 set's `denoise` in fp8: calibrated, quantised, and judged before it is compiled.

What quantising costs needs no GPU to be known: ONNX Runtime computes the quantised graph as it is
written. Its result is recorded beside the reference's, for the parity gate to hold engines to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from ..engines.gate import QUANTISED, decibels, noise_to_signal, run_on_host
from ..errors import StreamDiffVSRError
from ..graph_set import GraphSet, golden_file, onnx_file
from ..spec import Geometry, GraphSpec
from .calibration import PACKAGE, SEED, calibration_clips, quantiser_version

if TYPE_CHECKING:
    from ..export.calibration import SampleInputs
    from ..export.model import Model

Progress = Callable[[str], None]
GRAPH = "denoise"
# A tenth of the signal, 20 dB. Rounding to e4m3 alone is an error of 2.6 % in every operand, some
# 29 dB in a product, and layers add up; a denoiser whose output is missing altogether is at 8 dB
# (the second step keeps 0.91 of the latent and adds 0.41 of the output). Between the two, and far
# from both.
WORST_NOISE = 0.1


def calibration_inputs(
    model: Model, geometry: Geometry, steps: int, correlation: str, progress: Progress
) -> Sequence[SampleInputs]:
    """What `denoise` is given while the model upscales the calibration's clips."""
    from ..export.calibration import denoise_inputs

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
    """Quantise an fp16 graph folder in place.

    Raises:
        StreamDiffVSRError: It cannot be, or the result is too far from the reference.
    """
    from ..export.quantisation import quantise

    progress(f"quantise {GRAPH}")
    graphs = GraphSet.read(folder)
    path = folder / onnx_file(GRAPH)
    try:
        quantise(path, inputs, lambda fraction: progress(f"quantise {GRAPH} {fraction:.0%}"))
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of three libraries, each with kinds of its own
        raise StreamDiffVSRError(
            f"{PACKAGE} {quantiser_version()} cannot quantise {GRAPH}",
            f"{type(error).__name__}: {error}",
            "use --precision fp16, and report this",
        ) from error
    noise = _judge(folder, graphs.specs()[GRAPH])
    progress(f"quantised {GRAPH}: a signal-to-noise ratio of {decibels(noise)}")
    exporter = {**graphs.exporter, PACKAGE: quantiser_version()}
    replace(graphs, exporter=exporter).write(folder)


def _judge(folder: Path, spec: GraphSpec) -> float:
    """Noise to signal of the quantised graph on the recorded inputs, which then has its result."""
    from ..engines.ort import OrtEngine

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
            "use --precision fp16",
        )
    save_file(golden | {f"{QUANTISED}{name}": x for name, x in outputs.items()}, str(recorded))
    return worst
