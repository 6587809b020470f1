"""Measures the throughput of a whole file job, with decoding and encoding."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from ..graphs.spec import SCALE, Size
from ..runtime.files.upscale import FileOptions, upscale_file, write_video
from ..runtime.media.encoders import h264_format
from ..runtime.media.reader import FileSource
from ..runtime.upscaler import Image, Upscaler
from .observed import Recorder, Span
from .statistics import endless, median, quantiles
from .subject import numbered, watched

FRAMES = 12
SHOWN = 3
FPS = Fraction(24)
Busy = Sequence[tuple[float, float]]


def run_file(upscaler: Upscaler) -> dict[str, Any]:
    """Returns `media` and `timeline` of a result's subject.

    Raises:
        StreamDiffVSRError: The size cannot be encoded, or an engine failed.
    """
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, upscaler.size, FRAMES)
        decoded, encoded = _upscale(clip, upscaler, recorder)
    spans = numbered(recorder.take(), upscaler.manifest.key.steps)
    return {
        "media": {
            "decode": quantiles([1e3 * (b - a) for a, b in decoded]),
            "encode": quantiles([1e3 * (b - a) for a, b in encoded]),
            "codec": "h264 (libx264, crf 17, medium) in and out, in .mp4",
        },
        "timeline": _timeline(spans, decoded, encoded),
    }


def write_clip(path: Path, size: Size, frames: int, crf: int = 17) -> None:
    """Writes frames (h, w) of the clip that benchmarks run on, at 24 a second."""
    form = h264_format(path, crf=crf)
    with write_video(path, size=size, format=form, time_base=1 / FPS) as writer:
        for index, frame in enumerate(islice(endless(size), frames)):
            writer.write(frame, index)


def _upscale(clip: Path, upscaler: Upscaler, recorder: Recorder) -> tuple[Busy, Busy]:
    """Returns when each frame was decoded and encoded, in seconds; the recorder has the rest."""
    decoded: list[tuple[float, float]] = []
    size = SCALE * upscaler.size[0], SCALE * upscaler.size[1]
    whole = upscaler.manifest.graphs.geometry.tile is None
    with FileSource(clip) as source:

        def images() -> Iterator[Image]:
            for frame in source:
                decoded.append(frame.busy)
                recorder.frame = frame.index
                yield frame.image

        output = clip.with_name("clip_4x.mp4")
        form = h264_format(output)
        with write_video(output, size=size, format=form, like=source.info, timed=True) as writer:
            stream = watched(upscaler, recorder).stream(images(), overlap=whole)
            for index, out in enumerate(stream):
                writer.write(out, index, 1 / FPS)
            stream.close()
    return decoded, writer.busy


def _timeline(spans: Sequence[Span], decoded: Busy, encoded: Busy) -> list[dict[str, Any]]:
    """Returns the rows of a few frames from the middle of the run, with what was decoded then."""
    first = min(FRAMES // 2, FRAMES - SHOWN)
    rows = [
        (s.track, "engine", s.name, s.frame, s.start_ms, s.end_ms)
        for s in spans
        if first <= s.frame < first + SHOWN
    ]
    rows += _process("encode", encoded)[first : first + SHOWN]
    begin, end = min(row[4] for row in rows), max(row[5] for row in rows)
    # Decoding is ahead by the frames in the pipe.
    rows += [row for row in _process("decode", decoded) if begin <= row[4] and row[5] <= end]
    names = ("track", "process", "name", "frame", "start_ms", "end_ms")
    return [
        dict(zip(names, (*row[:4], *(round(at - begin, 4) for at in row[4:])), strict=True))
        for row in rows
    ]


def _process(name: str, busy: Busy) -> list[tuple[str, str, str, int, float, float]]:
    return [
        ("process", name, name, frame, 1e3 * started, 1e3 * ended)
        for frame, (started, ended) in enumerate(busy)
    ]


ROUNDS = 3
FEWEST = 12  # frames: with more of them, the fixed costs of a job matter less


def measure_file_rate(upscaler: Upscaler, frames: int) -> dict[str, Any]:
    """Returns `file_rate` of a result's subject.

    Args:
        frames: The number of frames of each run; at least `FEWEST` are made.

    Raises:
        StreamDiffVSRError: The size cannot be encoded, or an engine failed.
    """
    frames = max(FEWEST, frames)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, upscaler.size, frames)
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
