"""How much of the engines' own frame rate is left when a whole file is upscaled.

The job of `streamdiffvsr upscale` with all it does around the engines, from opening the input to
the finished output, beside the engines alone on the same frames: in turn, in one run, so that what
else the machine does falls on both.
"""

from __future__ import annotations

import tempfile
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from ...runtime.files.upscale import FileOptions, upscale_file
from ...runtime.media.sink import FileSink
from ...runtime.upscaler import Upscaler
from .frames import endless
from .quantiles import median

ROUNDS = 3
FEWEST = 12  # frames: what a job does once weighs less, the more there are
FPS = Fraction(24)


def measure_file_rate(upscaler: Upscaler, frames: int) -> dict[str, Any]:
    """`file_rate` of a result's subject.

    Args:
        frames: Of each run; a few at least are made.

    Raises:
        StreamDiffVSRError: The size cannot be encoded, or an engine failed.
    """
    frames = max(FEWEST, frames)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        with FileSink(clip, size=upscaler.size, time_base=1 / FPS) as sink:
            for index, frame in enumerate(islice(endless(upscaler.size), frames)):
                sink.write(frame, index)
        pairs = [(_job(upscaler, clip), _alone(upscaler, frames)) for _ in range(ROUNDS)]
    shares = [alone / job for job, alone in pairs]
    return {
        "frames": frames,
        "fps": round(frames / median([job for job, _ in pairs]), 6),
        "engine_fps": round(frames / median([alone for _, alone in pairs]), 6),
        "share": round(median(shares), 4),
        "shares": [round(share, 4) for share in shares],
    }


def _job(upscaler: Upscaler, clip: Path) -> float:
    started = time.perf_counter()
    upscale_file(clip, clip.with_name("out.mp4"), upscaler, FileOptions(overwrite=True))
    return time.perf_counter() - started


def _alone(upscaler: Upscaler, frames: int) -> float:
    started = time.perf_counter()
    for _ in upscaler.stream(islice(endless(upscaler.size), frames)):
        pass
    return time.perf_counter() - started
