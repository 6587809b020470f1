"""The parity gate: an engine is accepted only if it reproduces what torch computed.

Each engine runs on the inputs that the export recorded, and every output is held against the
recorded one. Black or NaN frames, a mis-tuned kernel or a wrong cast end here, not before a user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from ..errors import StreamDiffVSRError
from ..graph_set import golden_file
from ..spec import Precision
from .manifest import ParityEntry
from .protocol import Engine

Array = npt.NDArray[Any]

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
    tolerance, worst = TOLERANCE[precision], 0.0
    for name, output in outputs.items():
        error = relative_error(output, golden[f"out.{name}"])
        if not error <= tolerance:  # also catches NaN
            raise StreamDiffVSRError(
                f"the {spec.name} engine is not accepted",
                f"its {name} differs from the reference by {error:.2g}, tolerance {tolerance:.2g}",
                "report this with the manifest of another backend's build; no frame was produced",
            )
        worst = max(worst, error)
    return ParityEntry(worst, tolerance)


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
