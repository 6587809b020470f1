"""The way to a time inside a file without decoding all that comes before it.

Runs in the child. It moves a container to a key frame that is early enough for every frame from
that time on to come out as in a run from the start; it does not decode, and never lands too late:
where a container cannot be trusted to do that, it says so, and the file is read from its start.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from av.container import InputContainer

# Containers with an index of their key frames. Others guess by bytes, or have times that repeat.
_INDEXED = ("mov", "matroska")
_KEY_FRAMES_BACK = 2  # what is shown before the nearer one may need what came before it, too
_MAX_SEEKS = 12


def seek_before(container: InputContainer, stream: Any, begin: float) -> bool:
    """Move to the second key frame before that time; False if that is not possible.

    After False the container is anywhere, and has to be opened again.

    Args:
        container: Of which nothing but this stream is read.
        begin: In seconds of the file's own times.
    """
    if not container.format.name.startswith(_INDEXED):
        return False
    target = math.floor(Fraction(begin) / stream.time_base)
    seen: set[int] = set()
    for _ in range(_MAX_SEEKS):
        key = _key_frame_at(container, stream, target)
        if key is None:
            return False
        shown, decoded = key
        if shown * stream.time_base <= begin:
            seen.add(shown)
        if len(seen) == _KEY_FRAMES_BACK:
            container.seek(target, stream=stream)
            return True
        earlier = min(shown, decoded) - 1
        if earlier >= target:
            return False  # it landed behind where it was sent: the first key frame, or a bad index
        target = earlier
    return False


def _key_frame_at(container: InputContainer, stream: Any, target: int) -> tuple[int, int] | None:
    """pts and dts of the key frame that a seek to those ticks lands on."""
    try:
        container.seek(target, stream=stream)
        packet = next(iter(container.demux(stream)))
    except Exception:  # IndexError and FFmpegError both; the file is then read from its start
        return None
    if not packet.is_keyframe or packet.pts is None:
        return None
    return packet.pts, packet.pts if packet.dts is None else packet.dts
