"""Between two frames: all that the next one depends on, and its form on disk."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError
from ..cuts import Thumbnail
from ..state import StreamState
from .times import Times

STATE, CUTS = POINT_SUFFIXES = (".state", ".cuts")
MAX_CHECKPOINTS = 3  # the last, the one before it if that is damaged, one of an unfinished segment


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run leaves behind a frame.

    Attributes:
        frames: How many came before it, in the part.
        state: Of the stream.
        cuts: The memory of the cut detector.
        pts: The file's own time of the last frame, in ticks.
        times: Where the last frame was put.
        found_cuts: Scene cuts so far, in the part.
        damaged: Damaged packets so far.
    """

    frames: int
    state: StreamState
    cuts: Thumbnail | None
    pts: int | None
    times: Times
    found_cuts: int = 0
    damaged: int = 0

    def to_json(self) -> dict[str, Any]:
        """All but the pictures, which `save` writes."""
        return {
            "frames": self.frames,
            "state": {"seed": self.state.seed, "frame_index": self.state.frame_index},
            "guided": self.state.has_previous,
            "seen": self.cuts is not None,
            "pts": self.pts,
            "times": asdict(self.times),
            "found_cuts": self.found_cuts,
            "damaged": self.damaged,
        }

    def save(self, folder: Path) -> None:
        """Write the pictures, and return when they are on the disk.

        Raises:
            OSError, StreamDiffVSRError: The disk is full.
        """
        if self.state.has_previous:
            self.state.save(_path(folder, self.frames, STATE))
        if self.cuts is not None:
            content = io.BytesIO()  # numpy's own writing hides why a disk takes no more
            np.save(content, self.cuts)
            with _path(folder, self.frames, CUTS).open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())

    @classmethod
    def load(cls, folder: Path, fields: Mapping[str, Any]) -> Checkpoint | None:
        """What `to_json` and `save` wrote; None if the pictures are gone or damaged."""
        state, cuts, frames = StreamState(**fields["state"]), None, fields["frames"]
        try:
            if fields["guided"]:
                state = StreamState.load(_path(folder, frames, STATE))
            if fields["seen"]:
                cuts = np.load(_path(folder, frames, CUTS), allow_pickle=False)
        except (StreamDiffVSRError, OSError, ValueError):
            return None
        return cls(
            frames=frames,
            state=state,
            cuts=cuts,
            pts=fields["pts"],
            times=Times(**fields["times"]),
            found_cuts=fields["found_cuts"],
            damaged=fields["damaged"],
        )


def forget_old_points(folder: Path) -> None:
    """Remove the pictures of all but the last points."""
    for suffix in POINT_SUFFIXES:
        for path in sorted(folder.glob(f"*{suffix}"))[:-MAX_CHECKPOINTS]:
            path.unlink(missing_ok=True)


def _path(folder: Path, frames: int, suffix: str) -> Path:
    return folder / f"{frames:09d}{suffix}"
