"""Colour tags of video: how missing ones are resolved, HDR mastering metadata and its encoders."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNSPECIFIED = 2  # H.273's code in matrix, primaries and transfer
LIMITED, FULL = 1, 2  # libav's codes; 0 is unspecified
HD_LINES = 720

RGB, BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 4, 5, 6, 7, 9
_BT2020_CONSTANT = 10
PQ, HLG = 16, 18  # the transfers of HDR

# The matrices swscale converts, by H.273 code, as its own numbers (SWS_CS_*). Constant-luminance
# BT.2020 is converted like the usual kind, as swscale has no exact conversion.
_SWS = {BT709: 1, FCC: 4, BT470BG: 5, SMPTE170M: 5, SMPTE240M: 7, BT2020: 9, _BT2020_CONSTANT: 9}

# Matrices whose colours come out wrong when they are converted by one of the above.
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
        """Returns fully specified tags for the YUV pixels of a picture of that many lines."""
        matrix = self.matrix
        if matrix not in _SWS:  # untagged, RGB, or one that swscale cannot do
            matrix = BT709 if lines >= HD_LINES else SMPTE170M
        primaries, transfer = _COMPANIONS[matrix]
        return Colour(
            matrix=matrix,
            # RGB always has full range, which does not apply to the YUV made of it.
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
    """The static metadata of HDR10.

    Attributes:
        display: Chromaticities x, y of red, green, blue and white, then the least and the greatest
            luminance in cd/m2; None if any of it is missing.
        light: The greatest light of a pixel and of a frame on average (MaxCLL, MaxFALL), in cd/m2;
            None if missing.
    """

    display: tuple[float, ...] | None
    light: tuple[int, int] | None


def mastering_of(frame: Any) -> Mastering | None:
    """Returns the metadata of a libav frame; None if it has none."""
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
    """Returns whether the encoder can write mastering metadata."""
    return encoder in _PARAMETERS


def with_mastering(
    encoder: str, options: Mapping[str, str], mastering: Mastering | None
) -> dict[str, str]:
    """Returns the encoder's options, with the metadata added if the encoder can write it."""
    if mastering is None or not writes_mastering(encoder):
        return dict(options)
    added = _of_x265(mastering) if encoder == "libx265" else _of_svtav1(mastering)
    name = _PARAMETERS[encoder]
    return {**options, name: ":".join([*filter(None, [options.get(name)]), *added])}


def _of_x265(mastering: Mastering) -> list[str]:
    parameters = []
    if mastering.display:
        # In steps of 0.00002, and of 0.0001 cd/m2.
        steps = [round(50_000 * value) for value in mastering.display[:8]]
        least, greatest = (round(10_000 * value) for value in mastering.display[8:])
        parameters.append("master-display=" + _written(steps, greatest, least))
    if mastering.light:
        parameters.append("max-cll={},{}".format(*mastering.light))
    return parameters


def _of_svtav1(mastering: Mastering) -> list[str]:
    parameters = []
    if mastering.display:
        exact = [f"{value:.6f}" for value in mastering.display]
        parameters.append("mastering-display=" + _written(exact[:8], exact[9], exact[8]))
    if mastering.light:
        parameters.append("content-light={},{}".format(*mastering.light))
    return parameters


def _written(chromaticities: list[int] | list[str], greatest: object, least: object) -> str:
    rx, ry, gx, gy, bx, by, wx, wy = chromaticities
    return f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({greatest},{least})"
