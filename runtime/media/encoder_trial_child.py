"""Tries encoders one by one, in the child process of a trial."""

from __future__ import annotations

import faulthandler
from fractions import Fraction
from io import RawIOBase
from typing import Any

import av
from av.video.frame import VideoFrame

from ..processes import messages
from . import libav


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends ``tried`` for each candidate, up to the first that works."""
    libav.quiet()
    candidates, size = arguments["candidates"], tuple(arguments["size"])
    # A hanging driver keeps the interpreter's lock, and the parent may be gone.
    faulthandler.dump_traceback_later(len(candidates) * arguments["attempt_s"], exit=True, file=2)
    for candidate in candidates:
        why = why_not(candidate, size)
        messages.send(outbox, {"kind": "tried", "why": why})
        if not why:
            return


def why_not(candidate: dict[str, Any], size: tuple[int, int]) -> str:
    """Encodes one grey frame of (H, W), in this process.

    Args:
        candidate: The ``encoder``, the ``pixel_format`` and the ``options`` to open it with.

    Returns:
        "" if that worked, else why it did not.
    """
    try:
        context: Any = av.CodecContext.create(candidate["encoder"], "w")
    except Exception:
        return "not in this build of libav"
    height, width = size
    context.height, context.width, context.pix_fmt = height, width, candidate["pixel_format"]
    context.time_base, context.framerate = Fraction(1, 90000), Fraction(30)
    context.options = dict(candidate["options"])
    frame = VideoFrame(width, height, candidate["pixel_format"])
    for plane in frame.planes:
        plane.update(b"\x80" * plane.buffer_size)
    frame.pts = 0
    try:
        packets = [*context.encode(frame), *context.encode(None)]
    except Exception as error:
        _, last = av.logging.get_last_error()
        return (last[2].strip() if last else "") or libav.describe(error)
    return "" if packets else "it encoded nothing"
