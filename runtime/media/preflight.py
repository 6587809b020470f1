"""What is asked of an output before any work is done for it.

Looks at names, folders and sizes only; it opens and creates nothing.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from ...errors import StreamDiffVSRError

# What H.264 and most sound goes into, by the ending of the output's name.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".ts": "mpegts"}
MAX_SIDE = 16384  # of libx264


def check_output(
    output: str | PathLike[str], *, source: str | PathLike[str] | None = None, overwrite: bool
) -> None:
    """Say at once what would stop the output from being written, before any work is done.

    Raises:
        StreamDiffVSRError: Its folder is missing or not writable, its ending is unknown, it exists
            and ``overwrite`` is off, it is no plain file, or it is the source itself.
    """
    path = Path(output)
    failure = f"could not write {str(output)!r}"
    if path.suffix.lower() not in CONTAINERS:
        why = f"no H.264 file is written with the ending {path.suffix!r}"
        raise StreamDiffVSRError(failure, why, f"use one of {', '.join(CONTAINERS)}")
    folder = path.absolute().parent
    if not folder.exists():
        raise StreamDiffVSRError(failure, f"there is no folder {str(folder)!r}", "create it first")
    if not folder.is_dir():
        raise StreamDiffVSRError(failure, f"{str(folder)!r} is not a folder")
    if not os.access(folder, os.W_OK):
        raise StreamDiffVSRError(failure, f"no permission to write in {str(folder)!r}")
    if not path.exists():
        return
    if not path.is_file():
        raise StreamDiffVSRError(failure, "it exists and is not a plain file")
    if source is not None and Path(source).exists() and path.samefile(source):
        raise StreamDiffVSRError(failure, "it is the input file itself", "choose another name")
    if not overwrite:
        raise StreamDiffVSRError(
            failure, "it already exists", "choose another name, or --overwrite"
        )


def check_size(size: tuple[int, int], failure: str) -> None:
    """Refuse HR frames that H.264 cannot be made of; ``failure`` begins the message.

    Raises:
        StreamDiffVSRError: (H, W) is too large, or odd.
    """
    height, width = size
    if max(size) > MAX_SIDE:
        raise StreamDiffVSRError(
            failure,
            f"its frames would be {width}x{height}, and H.264 is encoded up to {MAX_SIDE} a side",
            "scale the input down first",
        )
    if height <= 0 or width <= 0 or height % 2 or width % 2:
        raise StreamDiffVSRError(
            failure, f"frames of {width}x{height} cannot be H.264 4:2:0: both must be even"
        )
