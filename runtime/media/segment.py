"""What is known of one segment: the record a job keeps, from which segments are joined.

Only data; it opens nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from ..processes.messages import pack, unpack

LONGEST_TICKS = 1 << 28  # between frames in a segment's file: MP4 counts such times in 32 bits


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames that are whole on the disk.

    Attributes:
        name: As given to ``begin``.
        files: Paths inside the folder, with forward slashes; one for video, one a frame for images.
        frames: How many.
        bytes: Of all files.
        first_pts: When the first frame is shown, in ticks.
        end_pts: When the last one is no longer shown.
        time_base: Seconds per tick.
        reorder: How many frames a decoder must hold back to show them in order; 0 for images.
        shortest: The shortest time of any of its frames, in ticks.
        retimed: How many of its frames were moved behind the one before.
        gaps: Times that its file leaves out, because they are too long for it: each from which
            tick of the file on, and how many ticks more it really is from there.
    """

    name: str
    files: tuple[str, ...]
    frames: int
    bytes: int
    first_pts: int
    end_pts: int
    time_base: Fraction
    reorder: int = 0
    shortest: int = 1
    retimed: int = 0
    gaps: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it."""
        lists = {"files": list(self.files), "gaps": [list(gap) for gap in self.gaps]}
        return {**asdict(self), **lists, "time_base": pack(self.time_base)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Segment:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError, TypeError: It is nothing that it wrote.
        """
        base = unpack(fields["time_base"])
        gaps = tuple((at, ticks) for at, ticks in fields.get("gaps", ()))
        return cls(**{**fields, "files": tuple(fields["files"]), "time_base": base, "gaps": gaps})
