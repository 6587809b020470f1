"""What a join will leave out, or refuse, found before the first frame is made.

The streams of the source are added to an output in memory, by the code that will do it in earnest,
so both say the same. No packet is copied. `serve` is the child's side; the parent loads no libav.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from io import RawIOBase
from os import PathLike
from pathlib import Path
from typing import Any

from ...processes.child import DEADLINE_S, Child


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
    source: str | PathLike[str], output: Path, container: str, *, deadline_s: float = DEADLINE_S
) -> Rehearsed:
    """Try what an output takes over from its source.

    Args:
        output: Its ending is named in what is told; it is not opened.
        container: libav's name of the muxer.

    Raises:
        StreamDiffVSRError: The container cannot hold the sound, or the source cannot be read.
    """
    child = Child(
        "runtime.media.joining.rehearsal",
        {
            "source": str(Path(source).absolute()),
            "container": container,
            "suffix": output.suffix,
        },
        failure=f"could not read {str(source)!r}",
        deadline_s=deadline_s,
    )
    try:
        told, _ = child.receive()
        return Rehearsed(told["copied"], tuple(told["notes"]))
    finally:
        child.close()


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send ``done`` with what was copied and left out."""
    import av

    from ...processes import wire
    from .. import libav
    from .origin import Origin

    libav.quiet()
    origin = Origin(Path(arguments["source"]), copy_sound=True, copy_rest=True)
    output = av.open(io.BytesIO(), "w", format=arguments["container"])
    picture = output.add_stream("libsvtav1" if arguments["container"] == "webm" else "libx264")
    origin.join(output, picture, arguments["suffix"])
    wire.send(
        outbox,
        {"kind": "done", "copied": dict(origin.copied), "notes": list(origin.notes)},
    )
