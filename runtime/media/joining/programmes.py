"""Which streams of a broadcast belong together.

Runs in the child. PyAV tells of programmes only in libav's description of a file for people.
"""

from __future__ import annotations

import re
from typing import Any

import av

from .. import libav


def of_other_programmes(source: Any) -> set[int]:
    """The streams that belong to programmes, but to none of the picture's."""
    picture = libav.moving_picture(source)
    if picture is None or source.format.name != "mpegts":
        return set()
    programmes = _programmes(source)
    ours = [streams for streams in programmes if picture.index in streams]
    if not ours:
        return set()
    return set().union(*programmes) - set().union(*ours)


def _programmes(source: Any) -> list[set[int]]:
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        described = source.dumps_format()
    finally:
        av.logging.set_level(level)
    found: list[set[int]] = []
    for line in described.splitlines():
        if re.match(r"  Program \d+", line):
            found.append(set())
        elif re.match(r"  No Program", line):
            break
        elif found and (stream := re.match(r"  Stream #\d+:(\d+)", line)):
            found[-1].add(int(stream[1]))
    return found
