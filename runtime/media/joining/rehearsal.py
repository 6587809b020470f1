"""What a join will leave out, or refuse, found before the first frame is made.

The trial itself runs in a child process; this side loads no libav.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ...processes.child import DEADLINE_S, Child
from ..formats.kinds import VideoFormat


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a join will do.

    Attributes:
        copied: How many streams of each kind, such as {"audio": 1}.
        notes: What will be left out and why; a line each.
    """

    copied: dict[str, int]
    notes: tuple[str, ...]


def rehearse(
    source: str | PathLike[str],
    output: Path,
    form: VideoFormat,
    audio: str = "copy",
    *,
    deadline_s: float = DEADLINE_S,
) -> Rehearsed:
    """Try what an output takes over from its source.

    Args:
        output: Its ending is named in what is told; it is not opened.
        form: Of the output.
        audio: What becomes of the sound: "copy", "transcode" or "none".

    Raises:
        StreamDiffVSRError: The container cannot hold the sound, or the source cannot be read.
    """
    child = Child(
        "runtime.media.joining.rehearsing",
        {
            "source": str(Path(source).absolute()),
            "container": form.container,
            "codec": form.codec,
            "suffix": output.suffix,
            "audio": audio,
        },
        failure=f"could not read {str(source)!r}",
        deadline_s=deadline_s,
    )
    try:
        told, _ = child.receive()
        return Rehearsed(told["copied"], tuple(told["notes"]))
    finally:
        child.close()
