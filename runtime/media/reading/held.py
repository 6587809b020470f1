"""How long a last picture is held, where a file tells that otherwise than by its packets.

Runs in the child. AVI has chunks without bytes for it, MP4 and Matroska the length of a track. A
header's word is believed as far as it is likely.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.container import InputContainer

_LIKELY_S = Fraction(60)
_ROUNDED_S = Fraction(2, 1000)
_MOST_CHUNKS = 100_000
CHUNK_HEAD = 8  # of an AVI: four letters, and how many bytes follow


def told_end(container: InputContainer, stream: Any, end: Fraction) -> Fraction | None:
    """When a track ends, by its own header; None where that says nothing, or is not likely.

    Args:
        stream: The picture.
        end: When its last packet ends, in seconds of the file's own times.
    """
    first = (stream.start_time or 0) * stream.time_base
    told: list[Fraction] = []
    if container.format.name.startswith("mov") and stream.duration:
        told = [first + stream.duration * stream.time_base]
    elif container.format.name.startswith("matroska"):
        length = _clock(stream.metadata.get("DURATION", ""))
        told = [] if length is None else [length, first + length]  # writers mean either
    others = (
        other.duration * other.time_base
        for other in container.streams
        if other.index != stream.index and other.duration and other.time_base
    )
    longest = max((_LIKELY_S, end - first, *others))
    nearest = min((one for one in told if one >= end - _ROUNDED_S), default=end)
    return nearest if end < nearest <= end + longest else None


def extra_seconds(path: Path, place: int, stream: Any) -> Fraction:
    """How long an AVI shows its last frame beyond its own time.

    Args:
        place: Where the bytes of that frame begin, behind the head of their chunk.
        stream: The picture, whose ticks are frames.
    """
    count = 0
    if place < CHUNK_HEAD:  # the demuxer has not told where
        return Fraction(0)
    with path.open("rb") as file:
        file.seek(place - CHUNK_HEAD)
        own = file.read(2)  # the number of the stream
        file.seek(place - CHUNK_HEAD)
        for _ in range(_MOST_CHUNKS):
            head = file.read(CHUNK_HEAD)
            if len(head) < CHUNK_HEAD or head[:4] == b"idx1":
                break
            length = int.from_bytes(head[4:], "little")
            count += head[:2] == own and head[2:4] in (b"dc", b"db") and length == 0
            file.seek(4 if head[:4] in (b"RIFF", b"LIST") else length + length % 2, 1)
    return Fraction(count * stream.time_base)


def _clock(text: str) -> Fraction | None:
    """Seconds of h:mm:ss.fff."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    if found is None:
        return None
    return 3600 * int(found[1]) + 60 * int(found[2]) + Fraction(found[3])
