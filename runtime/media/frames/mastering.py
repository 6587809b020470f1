"""What HDR tells of the display it was mastered on, as SMPTE ST 2086 and CTA-861.3 have it.

The values are carried, never used: nothing here maps tones. Of every frame they are the same, so
the first one's are taken.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

# libav's numbers of side data; their structs: ten fractions and two flags, and two counts.
_DISPLAY, _LIGHT = 11, 14
_DISPLAY_LAYOUT, _LIGHT_LAYOUT = struct.Struct("=20i2i"), struct.Struct("=2I")


@dataclass(frozen=True, slots=True)
class Mastering:
    """The metadata of HDR10 that does not change.

    Attributes:
        display: Chromaticities x, y of red, green, blue and white, then the least and the greatest
            luminance in cd/m2; None if it is not told, or not all of it.
        light: The greatest light of a pixel and of a frame on average (MaxCLL, MaxFALL), in cd/m2;
            None if it is not told.
    """

    display: tuple[float, ...] | None
    light: tuple[int, int] | None


def mastering_of(frame: Any) -> Mastering | None:
    """What a libav frame carries; None if that is nothing."""
    from .side_data import SideData  # only the child has libav

    found = SideData((_DISPLAY, _LIGHT)).read(frame)
    display = _display(found.get(_DISPLAY, b""))
    light = found.get(_LIGHT, b"")
    most, average = _LIGHT_LAYOUT.unpack_from(light) if len(light) >= _LIGHT_LAYOUT.size else (0, 0)
    if display is None and not most:
        return None
    return Mastering(display, (most, average) if most else None)


def _display(data: bytes) -> tuple[float, ...] | None:
    if len(data) < _DISPLAY_LAYOUT.size:
        return None
    *parts, has_primaries, has_luminance = _DISPLAY_LAYOUT.unpack_from(data)
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    if not (has_primaries and has_luminance) or not all(below for _, below in pairs):
        return None
    return tuple(above / below for above, below in pairs)
