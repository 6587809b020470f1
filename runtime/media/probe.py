"""What a video file holds, known before the first frame is upscaled.

The file is opened and its first frame decoded in a child process, so a hang, a crash or a bomb in
it costs a deadline and one clear line. It does not read the file to its end: ``frames`` and
``duration_seconds`` are what the container claims.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from .child import DEADLINE_S, Child
from .info import VideoInfo

__all__ = ["VideoInfo", "probe", "start_reader"]

READER_MEMORY_BYTES = 8 << 30  # 8K H.264 with all its references needs about two of them


def probe(path: str | PathLike[str], *, deadline_s: float = DEADLINE_S) -> VideoInfo:
    """Describe a video file.

    Raises:
        StreamDiffVSRError: It is missing, a folder, empty, unreadable, cut off, not a video, sound
            only, absurdly large, or gave no answer within ``deadline_s`` seconds.
    """
    child = start_reader(path, deadline_s=deadline_s, frames=False)
    try:
        header, _ = child.receive()
        return VideoInfo.from_wire(header["info"])
    finally:
        child.close()


def start_reader(path: str | PathLike[str], *, deadline_s: float, frames: bool) -> Child:
    """A child that describes the file and then, if asked, sends its frames."""
    return Child(
        "decoding",
        {"path": str(Path(path).absolute()), "shown": str(path), "frames": frames},
        failure=f"could not read {str(path)!r}",
        deadline_s=deadline_s,
        memory_bytes=READER_MEMORY_BYTES,
    )
