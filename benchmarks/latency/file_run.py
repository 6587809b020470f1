"""A short file from disk to disk: what decoding and encoding take, and who works when.

The real path of `streamdiffvsr upscale`: a process that decodes, the engines on their streams, a
process that encodes. Their clocks are one, so their work can be drawn side by side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from ...runtime.media.sink import FileSink
from ...runtime.media.source import FileSource
from ...runtime.upscaler import Image, Upscaler
from ...spec import SCALE
from .frames import endless
from .lanes import watched
from .observed import Recorder, Span
from .quantiles import quantiles
from .stages import numbered

FRAMES = 12
SHOWN = 3
FPS = Fraction(24)
Busy = Sequence[tuple[float, float]]


def run_file(upscaler: Upscaler) -> dict[str, Any]:
    """`media` and `timeline` of a result's subject.

    Raises:
        StreamDiffVSRError: The size cannot be encoded, or an engine failed.
    """
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        _write_clip(clip, upscaler)
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


def _write_clip(path: Path, upscaler: Upscaler) -> None:
    with FileSink(path, size=upscaler.size, time_base=1 / FPS) as sink:
        for index, frame in enumerate(islice(endless(upscaler.size), FRAMES)):
            sink.write(frame, index)


def _upscale(clip: Path, upscaler: Upscaler, recorder: Recorder) -> tuple[Busy, Busy]:
    """When each frame was decoded and encoded, in seconds; the recorder has the rest."""
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
        with FileSink(output, size=size, like=source.info, timed=True) as sink:
            stream = watched(upscaler, recorder).stream(images(), overlap=whole)
            for index, out in enumerate(stream):
                sink.write(out, index, 1 / FPS)
            stream.close()
    return decoded, sink.busy


def _timeline(spans: Sequence[Span], decoded: Busy, encoded: Busy) -> list[dict[str, Any]]:
    """Some consecutive frames from the midst of the run, and what was decoded meanwhile."""
    first = min(FRAMES // 2, FRAMES - SHOWN)
    rows = [
        (s.track, "engine", s.name, s.frame, s.start_ms, s.end_ms)
        for s in spans
        if first <= s.frame < first + SHOWN
    ]
    rows += _process("encode", encoded)[first : first + SHOWN]
    begin, end = min(row[4] for row in rows), max(row[5] for row in rows)
    # Decoding is ahead by what the pipe between holds.
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
