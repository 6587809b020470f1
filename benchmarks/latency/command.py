"""Any command as a baseline: its time a frame, from two videos of different lengths.

Whatever it is, it reads a video and writes one. What it takes for n frames and for more is a line:
its slope is the time of a frame, what is left is its start-up.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError, UsageError
from ...runtime.media.sink import FileSink
from ...spec import Size
from .frames import endless
from .quantiles import median, quantiles

SHORT, LONG = 16, 48  # frames
REPEATS = 3
LIMIT_S = 600.0
FPS = Fraction(24)


def split_command(text: str) -> list[str]:
    """A command line as its arguments, with {input} and {output} among them.

    Raises:
        UsageError: One of the two is missing, or quotes do not match.
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
    """A baseline as in a result.

    Args:
        command: As from `split_command`.
        size: LR (h, w) of the frames.
        subject: What it is compared with, and its frame's p50 in ms.

    Raises:
        StreamDiffVSRError: It cannot be started, fails, writes nothing, or takes ten minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        short, long = (_write(Path(folder), size, count) for count in (SHORT, LONG))
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


def _write(folder: Path, size: Size, count: int) -> Path:
    path = folder / f"{count}.mp4"
    with FileSink(path, size=size, time_base=1 / FPS, crf=10) as sink:
        for index, frame in enumerate(islice(endless(size), count)):
            sink.write(frame, index)
    return path


def _run(command: list[str], video: Path) -> float:
    output = video.with_name("out.mp4")
    output.unlink(missing_ok=True)
    places = {"{input}": str(video), "{output}": str(output)}
    arguments = []
    for part in command:
        for place, path in places.items():
            part = part.replace(place, path)
        arguments.append(part)
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
        told = done.stderr.strip().splitlines()
        raise StreamDiffVSRError(
            f"the baseline {arguments[0]!r} failed with {done.returncode}",
            told[-1][:200] if told else "it wrote no output",
        )
    return took
