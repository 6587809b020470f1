"""What a video file or a folder of images holds, known before the first frame is upscaled.

It is opened and its first frame decoded in a child process, so a hang, a crash or a bomb in it
costs a deadline and one clear line. It is not read to its end: ``frames`` and ``duration_seconds``
are what the container claims.
"""

from __future__ import annotations

import time
from fractions import Fraction
from os import PathLike
from pathlib import Path

from ...errors import StreamDiffVSRError
from ..processes.child import DEADLINE_S, Child
from ..processes.wire import pack
from .info import VideoInfo

__all__ = ["VideoInfo", "probe", "receive_info", "start_reader"]

READER_MEMORY_BYTES = 8 << 30  # 8K H.264 with all its references needs about two of them


def probe(
    path: str | PathLike[str], *, deadline_s: float = DEADLINE_S, fps: Fraction | None = None
) -> VideoInfo:
    """Describe a video file, an image file or a folder of images.

    Args:
        path: As of ``FileSource``.
        deadline_s: The longest it may take.
        fps: Frames per second of images.

    Raises:
        StreamDiffVSRError: It is missing, a folder without images, empty, unreadable, cut off, not
            a video, sound only, absurdly large, or gave no answer within ``deadline_s`` seconds.
    """
    child = start_reader(path, deadline_s=deadline_s, frames=False, fps=fps)
    try:
        return receive_info(child, path, deadline_s)
    finally:
        child.close()


def start_reader(
    path: str | PathLike[str],
    *,
    deadline_s: float,
    frames: bool,
    depth: int = 8,
    begin: float | None = None,
    deinterlace: str = "auto",
    fps: Fraction | None = None,
) -> Child:
    """A child that describes the file and then, if asked, sends its frames."""
    return Child(
        "runtime.media.reading.decoding",
        {
            "path": str(Path(path).absolute()),
            "shown": str(path),
            "frames": frames,
            "depth": depth,
            "begin": begin,
            "deinterlace": deinterlace,
            "fps": pack(fps),
        },
        failure=f"could not read {str(path)!r}",
        deadline_s=deadline_s,
        memory_bytes=READER_MEMORY_BYTES,
    )


def receive_info(child: Child, path: str | PathLike[str], deadline_s: float) -> VideoInfo:
    """The description, which is a reader's first message behind its signs of life.

    Raises:
        StreamDiffVSRError: As :func:`probe`; the child is closed then.
    """
    due = time.monotonic() + deadline_s
    left = deadline_s
    try:
        while left > 0:
            header, _ = child.receive(left)
            if header["kind"] != "beat":
                return VideoInfo.from_wire(header["info"])
            left = due - time.monotonic()
    except BaseException:
        child.close()
        raise
    child.close()
    raise StreamDiffVSRError(
        f"could not read {str(path)!r}", f"no frame of it was found within {deadline_s:g} s"
    )
