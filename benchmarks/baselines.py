"""The baselines of a benchmark: bicubic, the original's order of work, or a command."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from ..engines.manifest import Manifest
from ..errors import StreamDiffVSRError, UsageError
from ..graphs.spec import SCALE, Size, padded_size
from ..runtime.media.resize import Bicubic
from ..runtime.upscaler import frame_noise
from .files import write_clip
from .statistics import endless, median, quantiles, ratios

SHORT, LONG = 16, 48  # frames
REPEATS = 3
LIMIT_S = 600.0


def split_command(text: str) -> list[str]:
    """Splits a command line into arguments, which contain {input} and {output}.

    Raises:
        UsageError: One of the two is missing, or the quotes do not match.
    """
    try:
        parts = shlex.split(text, posix=os.name != "nt")
    except ValueError as error:
        raise UsageError(f"--baseline {text!r:.80} cannot be read", str(error)) from error
    for place in ("{input}", "{output}"):
        if not any(place in part for part in parts):
            raise UsageError(
                f"--baseline {text!r:.80} does not say where its {place} goes",
                remedy="such as: --baseline 'ffmpeg -i {input} -vf scale=iw*4:ih*4 {output}'",
            )
    return parts


def measure_command(command: list[str], size: Size, subject: str, p50: float) -> dict[str, Any]:
    """Measures a command, and returns it as a baseline of a result.

    Args:
        command: The arguments from `split_command`.
        size: LR size (h, w) of the frames.
        subject: The identifier of the subject that it is compared with.
        p50: The subject's median time per frame in ms.

    Raises:
        StreamDiffVSRError: The command does not start, fails, writes nothing, or takes ten minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        short, long = (Path(folder, f"{count}.mp4") for count in (SHORT, LONG))
        for path, count in ((short, SHORT), (long, LONG)):
            write_clip(path, size, count, crf=10)
        slopes, starts = [], []
        for _ in range(REPEATS):
            brief, whole = _run(command, short), _run(command, long)
            slopes.append(1e3 * (whole - brief) / (LONG - SHORT))
            starts.append(brief - SHORT * slopes[-1] / 1e3)
    frame = median(slopes)
    return {
        "id": "command",
        "describe": f"{' '.join(command)} ({LONG} frames against {SHORT}, {REPEATS} times)",
        "subject": subject,
        "frame_ms": quantiles(slopes),
        "start_up_s": round(median(starts), 3),
        "ratio": round(frame / p50, 4),
        "spread": [round(min(slopes) / p50, 4), round(max(slopes) / p50, 4)],
        "pairs": REPEATS,
    }


def _run(command: list[str], video: Path) -> float:
    output = video.with_name("out.mp4")
    output.unlink(missing_ok=True)
    places = str(video), str(output)
    arguments = [
        part.replace("{input}", places[0]).replace("{output}", places[1]) for part in command
    ]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StreamDiffVSRError(
            f"the baseline {arguments[0]!r} did not run", str(error)
        ) from error
    took = time.perf_counter() - started
    if done.returncode or not output.is_file() or not output.stat().st_size:
        printed = done.stderr.strip().splitlines()
        raise StreamDiffVSRError(
            f"the baseline {arguments[0]!r} failed with {done.returncode}",
            printed[-1][:200] if printed else "it wrote no output",
        )
    return took


class BicubicBaseline:
    """Bicubic by swscale on one thread, as `live` shows it if the model is too slow."""

    id, most = "bicubic", 1000  # the most frames of a round, fewer for slow baselines
    describe = "bicubic x4 by swscale on the CPU"

    def __init__(self, manifest: Manifest) -> None:
        self._frames = endless(manifest.graphs.geometry.size)
        self._enlarge = Bicubic(SCALE)

    def frame(self) -> None:
        """Upscales the next frame of the clip."""
        self._enlarge(next(self._frames))


class ReferenceBaseline:
    """The original's order of work in eager torch and float32.

    Raises:
        StreamDiffVSRError: The model of the engines cannot be found, or torch is missing.
    """

    id, most = "reference", 4

    def __init__(self, manifest: Manifest) -> None:
        from ..engines.host import TORCH_MODULES, require_export

        require_export(TORCH_MODULES)
        self._steps = self._run(manifest)
        device = manifest.key.device
        self.describe = f"eager torch on {device} in the original's order, fp32, the same weights"
        next(self._steps)  # the first frame has no guidance, and chooses kernels

    def frame(self) -> None:
        """Upscales the next frame of the clip, and waits until it is done."""
        next(self._steps)

    @staticmethod
    def _run(manifest: Manifest) -> Iterator[None]:
        from ..export.model import load_model
        from ..export.model_source import resolve_model
        from ..export.reference import Reference, ReferenceState

        key = manifest.key
        model = load_model(resolve_model(manifest.model_name, None), match_colour=key.match_colour)
        if model.digest != manifest.key.model_digest:
            raise StreamDiffVSRError(
                "the reference cannot be run",
                f"{manifest.model_name} is not the model of these engines any more",
                "build them again",
            )
        size = manifest.graphs.geometry.size
        reference = Reference(model, manifest.key.steps, manifest.key.device)
        shape = (model.configs.vae.latent_channels, *padded_size(size))
        state = ReferenceState()
        for index, frame in enumerate(endless(size)):
            _, _, state = reference.step(frame, state, frame_noise(0, index, shape))
            yield


Baseline: TypeAlias = BicubicBaseline | ReferenceBaseline


class Race:
    """Measures a baseline in rounds, in turn with a subject's plain loop."""

    def __init__(self, baseline: Baseline, subject: str) -> None:
        self.baseline, self.subject = baseline, subject
        self._ms: list[float] = []
        self._rounds: list[float] = []
        for _ in range(2):
            baseline.frame()

    def run(self, count: int) -> None:
        """Runs a round of the baseline."""
        times = []
        for _ in range(min(count, self.baseline.most)):
            started = time.perf_counter()
            self.baseline.frame()
            times.append(1e3 * (time.perf_counter() - started))
        self._ms += times
        self._rounds.append(median(times))

    def result(self, subject_rounds: list[float]) -> dict[str, Any]:
        """Returns the baseline for a result; its time is divided by the subject's, by rounds."""
        paired = min(len(self._rounds), len(subject_rounds))
        found = ratios(self._rounds[:paired], subject_rounds[:paired])
        return {
            "id": self.baseline.id,
            "describe": self.baseline.describe,
            "subject": self.subject,
            "frame_ms": quantiles(self._ms),
            "start_up_s": None,
            **(found or {"ratio": None, "spread": None, "pairs": 0}),
        }
