"""Inputs whose parts do not fit: another size, codec or clock behind a join, times that repeat.

Each is entered into the list of ``odd_inputs``. Nothing here uses the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av

from streamdiffvsr.tests.files.odd_inputs import FFV1, PLAIN, PTS, X265, odd
from streamdiffvsr.tests.media.clips import Clip


@odd("error")
def size_changes(folder: Path) -> Path:
    later = [pts + 24024 for pts in PTS]
    return joined(folder, PLAIN, replace(PLAIN, size=(32, 96), pts=later))


@odd("either")
def depth_changes(folder: Path) -> Path:
    later = [pts + 24024 for pts in PTS]
    return joined(folder, PLAIN, replace(PLAIN, pix_fmt="yuv420p10le", pts=later))


@odd("either")
def codec_changes(folder: Path) -> Path:
    later = [pts + 24024 for pts in PTS]
    return joined(folder, PLAIN, replace(X265, pts=later))


@odd("file")
def times_jump_back(folder: Path) -> Path:
    return joined(folder, replace(PLAIN, pts=[pts + 90000 for pts in PTS]), PLAIN)


@odd("file")
def times_jump_ahead(folder: Path) -> Path:
    return joined(folder, PLAIN, replace(PLAIN, pts=[pts + 30000 * 7200 for pts in PTS]))


@odd("file")
def clock_wraps(folder: Path) -> Path:
    start = ((1 << 33) - 60000) // 3  # ticks of 1/90000 s have 33 bits
    return replace(PLAIN, pts=[start + pts for pts in PTS]).write(folder / "wrap.ts")


@odd("file")
def times_repeat(folder: Path) -> Path:
    return retimed(folder, lambda number: [0, 1, 2, 2, 2, 3, 4, 5][number % 8] + 8 * (number // 8))


@odd("file")
def times_go_backwards(folder: Path) -> Path:
    return retimed(folder, lambda number: number if number < 12 else number - 9)


def retimed(folder: Path, tick: Callable[[int], int]) -> Path:
    """Motion JPEG in MKV, whose packets may have any time."""
    path = folder / "retimed.mkv"
    source = replace(FFV1, codec="mjpeg", pix_fmt="yuvj420p").write(folder / "plain.mkv")
    with av.open(str(source)) as original, av.open(str(path), "w") as output:
        copy = output.add_stream_from_template(original.streams.video[0])
        for number, packet in enumerate(original.demux(video=0)):
            if packet.size:
                packet.pts, packet.dts = 40 * tick(number), number - 100
                packet.stream = copy
                output.mux(packet)
    return path


def joined(folder: Path, first: Clip, second: Clip) -> Path:
    """Two transport streams, one behind the other."""
    parts = [part.write(folder / f"{n}.ts") for n, part in enumerate((first, second))]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path
