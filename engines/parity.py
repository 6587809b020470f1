"""The parity gate: an engine is accepted only if it reproduces what the reference computed.

Each engine runs on recorded inputs, and every output is compared with the float32 reference's: the
symbolic graphs', which were compared with torch at their export, or torch's own. Black or NaN
frames, a mis-tuned kernel or a wrong cast are found here, before a user sees them.
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

# Prefix in the golden file of ONNX Runtime's outputs of the quantised graph (`building.fp8`).
QUANTISED = "quantised."
# An fp8 engine's tolerance is its own graph's distance from the reference, not a fixed number: that
# distance is the quantisation's, known before any GPU has run. It is doubled for what an engine may
# compute in another order: a sum that rounds to eight bits the other way. Where the quantisation
# costs next to nothing, 1 % (40 dB) is what fp16 sums and tensor cores may differ by.
FP8_FACTOR, FP8_FLOOR = 2.0, 1e-2
# Relative to max(1, largest value of the output). float32's is from NUMERICS.md; half precision
# keeps 11 bits, and RAFT's recurrence and the denoiser's depth each lose a few of them.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-2}
Run = Callable[[Engine, Mapping[str, Array], Mapping[str, Array]], None]


def run_on_host(engine: Engine, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Runs an engine whose buffers are host arrays once."""
    engine.bind({**inputs, **outputs}).enqueue()


def check_parity(
    engine: Engine, folder: Path, precision: Precision, run: Run = run_on_host
) -> ParityEntry:
    """Runs `engine` on the tensors recorded in `folder` and compares its outputs.

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
            failure = f"differs from the reference by {error}, tolerance {limit}"
        else:
            entry = _fp8_parity(output, expected, quantised)
            error, limit = decibels(entry.error), decibels(entry.tolerance)
            failure = f"has a signal-to-noise ratio of {error}, and needs {limit}"
        if not entry.error <= entry.tolerance:  # also catches NaN
            raise StreamDiffVSRError(
                f"the {spec.name} engine is not accepted",
                f"its {name} {failure}",
                "report this with the manifest of another backend's build; no frame was produced",
            )
        entries.append(entry)
    return max(entries, key=lambda entry: entry.error)


def _fp8_parity(output: Array, expected: Array, quantised: Array) -> ParityEntry:
    tolerance = max(FP8_FLOOR, FP8_FACTOR * noise_to_signal(quantised, expected))
    return ParityEntry(noise_to_signal(output, expected), tolerance)


def relative_error(output: Array, expected: Array) -> float:
    """Returns max |output - expected| / max(1, max |expected|); NaN if anything is not finite.

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
    """Returns RMS(output - expected) / RMS(expected); NaN if anything is not finite.

    For a quantised graph, whose error is noise everywhere: the largest error depends on chance and
    on the size, while the mean square is what the next step and the next frame receive.
    """
    wide = output.astype(np.float64)
    if not np.isfinite(wide).all():
        return float("nan")
    signal = float(np.sqrt(np.square(expected.astype(np.float64)).mean()))
    return float(np.sqrt(np.square(wide - expected).mean())) / max(signal, 1e-6)


def decibels(ratio: float) -> str:
    """Returns a noise-to-signal ratio as a signal-to-noise ratio in dB, as users read it."""
    if not np.isfinite(ratio):
        return "not finite"
    return f"{-20 * np.log10(max(ratio, 1e-9)):.1f} dB"
