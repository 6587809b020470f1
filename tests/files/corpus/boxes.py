"""Changes to finished MP4 files that no muxer makes: matrices, and lists of what is shown."""

from __future__ import annotations

import struct
from pathlib import Path

from .pictures import Matrix
from .times import Timing


def set_matrix(path: Path, matrix: Matrix) -> None:
    """Say of the first track how its pictures must be turned."""
    data = bytearray(path.read_bytes())
    box = _box(data, b"tkhd", 0)
    place = box + (56 if data[box + 4] else 44)
    width, height = struct.unpack_from(">II", data, place + 36)
    a, b, c, d = matrix
    # What is turned to the left of, or above, the origin is moved back.
    x = (width if a < 0 else 0) + (height if c < 0 else 0)
    y = (width if b < 0 else 0) + (height if d < 0 else 0)
    one = 1 << 16
    values = (a * one, b * one, 0, c * one, d * one, 0, x, y, 1 << 30)
    struct.pack_into(">9i", data, place, *values)
    path.write_bytes(data)


def set_media_time(path: Path, track: int, ticks: int) -> None:
    """Let a track begin that many of its ticks behind its first packet."""
    data = bytearray(path.read_bytes())
    entry, wide = _last_edit(data, track)
    struct.pack_into(">q" if wide else ">i", data, entry + (8 if wide else 4), ticks)
    path.write_bytes(data)


def skip_frames(path: Path, timing: Timing, count: int) -> None:
    """Cut the first pictures off by the edit list of the first track."""
    data = bytearray(path.read_bytes())
    entry, wide = _last_edit(data, 0)
    clock = _box(data, b"mdhd", 0)
    (ticks_a_second,) = struct.unpack_from(">I", data, clock + (24 if data[clock + 4] else 16))
    film = _box(data, b"mvhd", 0)
    (film_ticks,) = struct.unpack_from(">I", data, film + (24 if data[film + 4] else 16))
    seconds = timing.seconds[count] - timing.seconds[0]
    duration, media_time = struct.unpack_from(">qq" if wide else ">Ii", data, entry)
    media_time += round(seconds * ticks_a_second)
    duration -= round(seconds * film_ticks)
    struct.pack_into(">qq" if wide else ">Ii", data, entry, duration, media_time)
    path.write_bytes(data)


def _box(data: bytearray, name: bytes, number: int) -> int:
    """Where the name of that box stands, of the n-th of its kind."""
    place = data.rindex(b"moov")  # behind it there is no picture
    for _ in range(number + 1):
        place = data.index(name, place + 4)
    return place


def _last_edit(data: bytearray, track: int) -> tuple[int, bool]:
    """Where the last entry of a track's edit list begins, and whether its numbers are wide."""
    box = _box(data, b"elst", track)
    wide = bool(data[box + 4])
    (count,) = struct.unpack_from(">I", data, box + 8)
    return box + 12 + (count - 1) * (20 if wide else 12), wide
