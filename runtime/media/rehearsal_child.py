"""Joins the beginning of a source to an output in memory, to find what the join will do.

It runs the code of the join itself, so that both report the same, and finds before any frame is
upscaled what a muxer refuses only at the first packet.
"""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from io import RawIOBase
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError, option
from ..processes import messages
from . import libav
from .encoders import HOLDS, SOFTWARE
from .join_child import open_output
from .stream_copy_child import StreamCopier

_MOST_PACKETS = 2000
_MOST_BYTES = 32 << 20  # of the source: its streams may lie far apart


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends ``done`` with what was copied and left out."""
    libav.quiet()
    try:
        done = _joined(arguments)
    except StreamDiffVSRError:
        raise
    except Exception as error:
        raise StreamDiffVSRError(
            f"could not join all that the input holds to a {arguments['suffix']} file",
            libav.describe(error),
            _what_works(arguments),
        ) from error
    messages.send(outbox, {"kind": "done", **done})


def _joined(arguments: dict[str, Any]) -> dict[str, Any]:
    """Joins the beginning of the source; returns what was copied and left out."""
    container = arguments["container"]
    origin = StreamCopier(
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
    picture = output.add_stream(SOFTWARE[HOLDS[container][0]])
    origin.join(output, picture)
    output.start_encoding()
    origin.begin(output)
    for _ in islice(origin.copy_until(output, None), _MOST_PACKETS):
        pass
    output.close()
    return {"copied": dict(origin.copied), "notes": list(origin.notes)}


def _what_works(arguments: dict[str, Any]) -> str:
    """Returns the first remedy that works when tried; "" if there is none."""
    ways = {
        "give the output a name that ends in .mkv": {"container": "matroska", "suffix": ".mkv"},
        f"use {option('audio', 'transcode')}": {"audio": "transcode"},
        f"leave the sound out with {option('audio', 'none')}": {"audio": "none"},
    }
    for way, changed in ways.items():
        if changed.items() <= arguments.items():
            continue
        with contextlib.suppress(Exception):
            _joined(arguments | changed)
            return way
    return ""
