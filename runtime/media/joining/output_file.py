"""An output opened for muxing, with times as fine as what goes into it.

Runs in the child. It knows nothing of encoders or segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import OutputContainer

_MAX_TIMESCALE = (1 << 31) - 1
_MOST_HELD_US = "500000"  # of time in the muxer's queue; lossless 4K has gigabytes a second


def open_output(
    part: Path | BinaryIO,
    container: str,
    time_bases: Sequence[Fraction],
    *,
    any_tags: bool = False,
) -> OutputContainer:
    """Open a file for that muxer.

    Args:
        time_bases: The picture's, then those of sound.
        any_tags: Whether tags by other names than the container's own are to be kept.
    """
    # Packets come in order, but of a subtitle or a cover there is seldom one to wait for.
    options = {"max_interleave_delta": _MOST_HELD_US}
    if container in ("mp4", "mov"):
        # The start of each track is stored in this unit; the default of 1/1000 s would move it.
        scale = math.lcm(*(base.denominator for base in time_bases))
        if scale > _MAX_TIMESCALE:
            scale = time_bases[0].denominator
        options["movie_timescale"] = str(scale)
        if any_tags:
            options["movflags"] = "use_metadata_tags"
    target = f"file:{part}" if isinstance(part, Path) else part
    return av.open(target, "w", format=container, container_options=options)


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


def end_exactly(container: str, last: Any, *, first: int, first_dts: int, end: int) -> None:
    """Make the packet that is last in decoding order end a picture's track when the picture ends.

    MP4 adds up durations in decoding order for the length of a track, and shows a movie until the
    latest packet's time and duration: both are made the picture's true end.

    Args:
        container: libav's name of the muxer.
        last: The packet, with its times; in ticks, as all below.
        first: When the first frame is shown.
        first_dts: When the first packet is decoded.
        end: When the last frame is no longer shown.
    """
    if container not in ("mp4", "mov"):
        return
    left = (end - first) - (last.dts - first_dts)
    over = max(0, last.pts + left - end)  # it would outlast the picture: it is decoded later
    last.dts = min(last.pts, last.dts + over)
    last.duration = max(1, left - over)
