"""Whether an encoder of files works on this machine: it is given a frame of the very size.

That a build of libav names an encoder says nothing about the driver or the chip, and a driver may
crash, so each is tried in a process of its own. It knows nothing of containers.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Sequence
from fractions import Fraction
from io import RawIOBase
from typing import TYPE_CHECKING, Any

from ...errors import StreamDiffVSRError, option
from ..processes import messages
from ..processes.child import Child

if TYPE_CHECKING:
    from .encoders import VideoFormat

_ATTEMPT_S = 15.0  # a driver that has slept may take seconds to wake up


def first_that_works(formats: Sequence[VideoFormat], size: tuple[int, int]) -> VideoFormat:
    """The first format whose encoder makes something of a frame of (H, W).

    Raises:
        StreamDiffVSRError: None does; with the reason of each.
    """
    refused: list[str] = []
    for format in formats:
        why = _why_not(format, size)
        if not why:
            return format
        refused.append(why if len(formats) == 1 else f"{format.encoder}: {why}")
    named = formats[0].encoder if len(formats) == 1 else "no encoder in hardware"
    what = f"{named} does not work here" if len(formats) == 1 else f"{named} works here"
    raise StreamDiffVSRError(what, "; ".join(refused), f"use {option('encoder', 'software')}")


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """In the child: try one encoder, and say why it does not work, or nothing."""
    from . import libav

    libav.quiet()
    # A driver that hangs holds the interpreter's lock, and the parent may be gone.
    faulthandler.dump_traceback_later(_ATTEMPT_S, exit=True, file=2)
    messages.send(outbox, {"kind": "tried", "why": _attempt(arguments)})


def _why_not(format: VideoFormat, size: tuple[int, int]) -> str:
    order = {
        "encoder": format.encoder,
        "pixel_format": format.pixel_format,
        "options": format.options,
        "size": list(size),
    }
    child: Child | None = None
    try:
        child = Child(
            "runtime.media.encoder_trial", order, failure="it failed", deadline_s=_ATTEMPT_S
        )
        told, _ = child.receive()
        return str(told["why"])
    except StreamDiffVSRError as error:  # it crashed or hung
        return error.why or error.what
    finally:
        if child:
            child.close()


def _attempt(order: dict[str, Any]) -> str:
    """Encode one grey frame, in this process: "" if that worked, else why it did not."""
    import av
    from av.video.frame import VideoFrame

    from . import libav

    try:
        context: Any = av.CodecContext.create(order["encoder"], "w")
    except Exception:
        return "not in this build of libav"
    height, width = order["size"]
    context.height, context.width, context.pix_fmt = height, width, order["pixel_format"]
    context.time_base, context.framerate = Fraction(1, 90000), Fraction(30)
    context.options = dict(order["options"])
    frame = VideoFrame(width, height, order["pixel_format"])
    for plane in frame.planes:
        plane.update(b"\x80" * plane.buffer_size)
    frame.pts = 0
    try:
        packets = [*context.encode(frame), *context.encode(None)]
    except Exception as error:
        _, last = av.logging.get_last_error()
        return last[2].strip() if last else libav.describe(error)
    return "" if packets else "it encoded nothing"
