"""The parity gate: an engine is accepted only if it reproduces what torch computed.

Each engine runs on the inputs that the export recorded, and every output is held against the
recorded one. Black or NaN frames, a mis-tuned kernel or a wrong cast end here, not before a user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ..errors import StreamDiffVSRError
from ..graphs.arrays import Array
from ..graphs.spec import Precision, golden_file
from .interface import Engine
from .manifest import ParityEntry

# Of the golden file: what ONNX Runtime makes of the quantised graph, see `building.quantised`.
QUANTISED = "quantised."
# An fp8 engine is held to its own graph's distance from the reference, and not to a fixed one: that
# distance is the quantisation's, known before any GPU has run. Twice of it is for what an engine
# may do in another order: a sum that ends on the other side of a rounding to eight bits. Where the
# quantisation costs next to nothing, 1 % (40 dB) is what fp16 sums and tensor cores may differ by.
FP8_FACTOR, FP8_FLOOR = 2.0, 1e-2
# Relative to max(1, largest value of the output). float32 is NUMERICS.md's; half precision keeps 11
# bits, and RAFT's recurrence and the denoiser's depth each lose a few of them.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-2}
Run = Callable[[Engine, Mapping[str, Array], Mapping[str, Array]], None]


def run_on_host(engine: Engine, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Run an engine whose buffers are host arrays once."""
    engine.bind({**inputs, **outputs}).enqueue()


def check_parity(
    engine: Engine, folder: Path, precision: Precision, run: Run = run_on_host
) -> ParityEntry:
    """Run `engine` on the tensors recorded in `folder` and compare.

    Args:
        run: Runs it once from host arrays to host arrays.

    Raises:
        StreamDiffVSRError: An output is not finite, or further off than the tolerance.
    """
    spec = engine.describe()
    golden = load_file(str(folder / golden_file(spec.name)))
    outputs = {t.name: np.empty(t.shape, t.dtype) for t in spec.outputs}
    run(engine, {t.name: golden[f"in.{t.name}"] for t in spec.inputs}, outputs)
    entries = []
    for name, output in outputs.items():
        expected, quantised = golden[f"out.{name}"], golden.get(f"{QUANTISED}{name}")
        if quantised is None:
            entry = ParityEntry(relative_error(output, expected), TOLERANCE[precision])
            error, limit = f"{entry.error:.2g}", f"{entry.tolerance:.2g}"
            told = f"differs from the reference by {error}, tolerance {limit}"
        else:
            entry = _fp8_parity(output, expected, quantised)
            error, limit = decibels(entry.error), decibels(entry.tolerance)
            told = f"has a signal-to-noise ratio of {error}, and needs {limit}"
        if not entry.error <= entry.tolerance:  # also catches NaN
            raise StreamDiffVSRError(
                f"the {spec.name} engine is not accepted",
                f"its {name} {told}",
                "report this with the manifest of another backend's build; no frame was produced",
            )
        entries.append(entry)
    return max(entries, key=lambda entry: entry.error)


def _fp8_parity(output: Array, expected: Array, quantised: Array) -> ParityEntry:
    tolerance = max(FP8_FLOOR, FP8_FACTOR * noise_to_signal(quantised, expected))
    return ParityEntry(noise_to_signal(output, expected), tolerance)


def relative_error(output: Array, expected: Array) -> float:
    """max |output - expected| / max(1, max |expected|); NaN if anything is not finite.

    uint8 frames are compared in the range [0, 1] and may differ by one level of rounding.
    """
    if output.dtype == np.uint8:
        levels = int(np.abs(output.astype(np.int16) - expected.astype(np.int16)).max())
        return max(0, levels - 1) / 255
    wide = output.astype(np.float64)
    if not np.isfinite(wide).all():
        return float("nan")
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(wide - expected).max()) / scale


def noise_to_signal(output: Array, expected: Array) -> float:
    """Root mean square of the error over that of what is expected; NaN if anything is not finite.

    Of a quantised graph, whose error is noise all over: its largest value is a matter of chance and
    of the size, its mean square is what the next step and the next frame are given.
    """
    wide = output.astype(np.float64)
    if not np.isfinite(wide).all():
        return float("nan")
    signal = float(np.sqrt(np.square(expected.astype(np.float64)).mean()))
    return float(np.sqrt(np.square(wide - expected).mean())) / max(signal, 1e-6)


def decibels(ratio: float) -> str:
    """A noise-to-signal ratio as its signal-to-noise ratio, the way a user reads it."""
    if not np.isfinite(ratio):
        return "not finite"
    return f"{-20 * np.log10(max(ratio, 1e-9)):.1f} dB"
