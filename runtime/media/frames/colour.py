"""Which colours the numbers of a frame stand for, as the codes of ITU-T H.273.

The rule, in one place: a tag is believed; a matrix that is not tagged is BT.709 from 720 lines and
BT.601 below; a range that is not tagged is limited. What is written is always tagged, and the
pixels are converted with the very matrix and range of the tag. It knows nothing of libav, and it
neither maps gamuts nor tones: RGB goes through with the primaries and transfer it came with.
"""

from __future__ import annotations

from dataclasses import dataclass

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
