"""What a join will leave out, or refuse, found before the first frame is made.

The beginning of the source is joined to an output in memory, by the code that will do it in
earnest, header, packets and end: so both say the same, and what a muxer refuses only at the first
packet is known before the work. `serve` is the child's side; the parent loads no libav.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from fractions import Fraction
from io import RawIOBase
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from ...processes.child import DEADLINE_S, Child
from ..formats.kinds import VideoFormat

_MOST_PACKETS = 2000
_MOST_BYTES = 32 << 20  # of the source: its streams may lie far apart


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
        "runtime.media.joining.rehearsal",
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


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send ``done`` with what was copied and left out."""
    from ....errors import StreamDiffVSRError
    from ...processes import wire
    from .. import libav

    libav.quiet()
    try:
        told = _joined(arguments)
    except StreamDiffVSRError:
        raise
    except Exception as error:
        raise StreamDiffVSRError(
            f"could not join all that the input holds to a {arguments['suffix']} file",
            libav.describe(error),
            _what_works(arguments),
        ) from error
    wire.send(outbox, {"kind": "done", **told})


def _joined(arguments: dict[str, Any]) -> dict[str, Any]:
    """Join the beginning of the source; what was copied and left out."""
    from .origin import Origin
    from .output_file import open_output

    container = arguments["container"]
    origin = Origin(
        Path(arguments["source"]),
        container=container,
        suffix=arguments["suffix"],
        codec=arguments["codec"],
        sound=arguments["audio"],
        copy_rest=True,
        most_bytes=_MOST_BYTES,
    )
    bases = [Fraction(1, 90000), *origin.time_bases]
    output = open_output(io.BytesIO(), container, bases, any_tags=origin.own_tags)
    picture = output.add_stream("libsvtav1" if container == "webm" else "libx264")
    origin.join(output, picture)
    output.start_encoding()
    origin.begin(output)
    for _ in islice(origin.copy_until(output, None), _MOST_PACKETS):
        pass
    output.close()
    return {"copied": dict(origin.copied), "notes": list(origin.notes)}


def _what_works(arguments: dict[str, Any]) -> str:
    """The first way round a failure that does not fail itself; "" if there is none."""
    ways = {
        "give the output a name that ends in .mkv": {"container": "matroska", "suffix": ".mkv"},
        "use --audio transcode": {"audio": "transcode"},
        "leave the sound out with --audio none": {"audio": "none"},
    }
    for way, changed in ways.items():
        if changed.items() <= arguments.items():
            continue
        with contextlib.suppress(Exception):
            _joined(arguments | changed)
            return way
    return ""
