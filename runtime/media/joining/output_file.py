"""An output opened for muxing, with times as fine as what goes into it.

Runs in the child. It knows nothing of encoders or segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer

_MAX_TIMESCALE = (1 << 31) - 1
_MOST_HELD_US = "500000"  # of time in the muxer's queue; lossless 4K has gigabytes a second


def open_output(part: Path, container: str, time_bases: Sequence[Fraction]) -> OutputContainer:
    """Open a file for that muxer; the first time base is the picture's, the others the sound's."""
    # Packets come in order, but of a subtitle or a cover there is seldom one to wait for.
    options = {"max_interleave_delta": _MOST_HELD_US}
    if container in ("mp4", "mov"):
        # The start of each track is stored in this unit; the default of 1/1000 s would move it.
        scale = math.lcm(*(base.denominator for base in time_bases))
        if scale > _MAX_TIMESCALE:
            scale = time_bases[0].denominator
        options["movie_timescale"] = str(scale)
    return av.open(f"file:{part}", "w", format=container, container_options=options)


def coarse_enough(container: str, base: Fraction, longest: int) -> Fraction:
    """The time base of a picture's stream; MP4 counts the time between frames in 31 bits.

    Args:
        container: libav's name of the muxer.
        base: Seconds per tick of the picture.
        longest: The longest time between packets, in ticks.
    """
    while container in ("mp4", "mov") and longest > _MAX_TIMESCALE:
        base, longest = 2 * base, longest // 2
    return base


def length_left(container: str, shown: int, decoded: int, own: int) -> int:
    """The duration of the packet that is last in decoding order, in ticks.

    MP4 adds up durations in decoding order: the last one makes the sum the true length.

    Args:
        container: libav's name of the muxer.
        shown: From the first frame's start to the last one's end.
        decoded: From the first packet's decoding time to the last one's.
        own: How long its frame is shown.
    """
    return max(1, shown - decoded) if container in ("mp4", "mov") else own
