"""The record that a job keeps of each segment, from which segments are joined."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from ..processes.messages import pack, unpack

LONGEST_TICKS = 1 << 28  # between frames in a segment's file: MP4 stores this in 32 bits


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames that are completely on the disk.

    Attributes:
        name: The name given to ``begin``.
        files: Paths in the folder, with forward slashes: one for video, one per frame for images.
        frames: Number of frames.
        bytes: Size of all files.
        first_pts: When the first frame is shown, in ticks.
        end_pts: When the last frame is no longer shown, in ticks.
        time_base: Seconds per tick.
        reorder: Number of frames a decoder must hold back to show them in order; 0 for images.
        shortest: The shortest time that any frame is shown, in ticks.
        retimed: Number of frames that were moved after the previous one.
        gaps: Spans too long for the file, which leaves them out: pairs of the first tick of the
            file that is affected, and the ticks to add from there on.
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
        """Returns the segment as JSON types."""
        lists = {"files": list(self.files), "gaps": [list(gap) for gap in self.gaps]}
        return {**asdict(self), **lists, "time_base": pack(self.time_base)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Segment:
        """Returns the segment that :meth:`to_json` described.

        Raises:
            ValueError, TypeError: The fields are not those of a segment.
        """
        base = unpack(fields["time_base"])
        gaps = tuple((at, ticks) for at, ticks in fields.get("gaps", ()))
        return cls(**{**fields, "files": tuple(fields["files"]), "time_base": base, "gaps": gaps})
