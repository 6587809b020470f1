"""Colour tags of video: how missing ones are resolved, HDR mastering metadata and its encoders."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNSPECIFIED = 2  # H.273's code for it in matrix, primaries and transfer
LIMITED, FULL = 1, 2  # libav's codes; 0 is unspecified
HD_LINES = 720

RGB, BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 4, 5, 6, 7, 9
_BT2020_CONSTANT = 10
PQ, HLG = 16, 18  # the transfers of HDR

# The matrices swscale converts, by H.273 code, as its own numbers (SWS_CS_*). Constant-luminance
# BT.2020 is converted as the usual kind: nothing here does the exact one.
_SWS = {BT709: 1, FCC: 4, BT470BG: 5, SMPTE170M: 5, SMPTE240M: 7, BT2020: 9, _BT2020_CONSTANT: 9}

# Matrices that turn into other colours when they are taken for one of those.
UNCONVERTED = {
    8: "YCgCo",
    11: "YDzDx",
    14: "ICtCp",
    15: "IPT-PQ-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}

# Matrix -> the primaries and transfer that belong to it, for what the source left untagged.
_COMPANIONS = {
    BT709: (1, 1),
    FCC: (4, 4),
    BT470BG: (5, 6),
    SMPTE170M: (6, 6),
    SMPTE240M: (7, 7),
    BT2020: (9, 14),
    _BT2020_CONSTANT: (9, 14),
}


@dataclass(frozen=True, slots=True)
class Colour:
    """The four colour tags of a stream, as H.273 codes (range as libav's: 1 limited, 2 full)."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def resolved(self, lines: int) -> Colour:
        """The same with nothing left open, for YUV pixels of a picture of that many lines."""
        matrix = self.matrix
        if matrix not in _SWS:  # untagged, RGB, or one that swscale cannot do
            matrix = BT709 if lines >= HD_LINES else SMPTE170M
        primaries, transfer = _COMPANIONS[matrix]
        return Colour(
            matrix=matrix,
            # RGB is full by nature, which says nothing about the YUV made of it.
            range=self.range if self.range and self.matrix != RGB else LIMITED,
            primaries=primaries if self.primaries in (0, UNSPECIFIED, 3) else self.primaries,
            transfer=transfer if self.transfer in (0, UNSPECIFIED, 3) else self.transfer,
        )

    @property
    def swscale_matrix(self) -> int:
        """swscale's number for the matrix of a resolved colour."""
        return _SWS[self.matrix]


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
    from .pixels import SideData  # only the child has libav

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


_PARAMETERS = {"libx265": "x265-params", "libsvtav1": "svtav1-params"}


def writes_mastering(encoder: str) -> bool:
    """Whether the encoder can be told of it."""
    return encoder in _PARAMETERS


def with_mastering(
    encoder: str, options: Mapping[str, str], mastering: Mastering | None
) -> dict[str, str]:
    """The encoder's options with the metadata among its parameters, where it has words for it."""
    if mastering is None or not writes_mastering(encoder):
        return dict(options)
    told = _of_x265(mastering) if encoder == "libx265" else _of_svtav1(mastering)
    name = _PARAMETERS[encoder]
    return {**options, name: ":".join([*filter(None, [options.get(name)]), *told])}


def _of_x265(mastering: Mastering) -> list[str]:
    told = []
    if mastering.display:
        # In steps of 0.00002, and of 0.0001 cd/m2.
        steps = [round(50_000 * value) for value in mastering.display[:8]]
        least, greatest = (round(10_000 * value) for value in mastering.display[8:])
        told.append("master-display=" + _written(steps, greatest, least))
    if mastering.light:
        told.append("max-cll={},{}".format(*mastering.light))
    return told


def _of_svtav1(mastering: Mastering) -> list[str]:
    told = []
    if mastering.display:
        exact = [f"{value:.6f}" for value in mastering.display]
        told.append("mastering-display=" + _written(exact[:8], exact[9], exact[8]))
    if mastering.light:
        told.append("content-light={},{}".format(*mastering.light))
    return told


def _written(chromaticities: list[int] | list[str], greatest: object, least: object) -> str:
    rx, ry, gx, gy, bx, by, wx, wy = chromaticities
    return f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({greatest},{least})"
