"""Which H.264 encoder live video is made with: one in hardware if it works here, else x264.

"Works" means that it encoded a frame of that very size, in a process of its own: that a build of
libav names an encoder says nothing about the driver or the chip, and a driver may crash. The answer
is kept for as long as this process runs. It knows nothing of containers or sinks.
"""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import RawIOBase
from typing import Any

from ...errors import StreamDiffVSRError
from ..processes import messages
from ..processes.child import Child

SOFTWARE = "libx264"
HARDWARE = ("h264_nvenc", "h264_videotoolbox", "h264_qsv", "h264_amf")
_ATTEMPT_S = 15.0  # a driver that has slept may take seconds to wake up
_BITS_PER_PIXEL = 0.15
_FEWEST_BITS = 500_000
_FAST: dict[str, dict[str, str]] = {
    SOFTWARE: {"preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"},
    "h264_nvenc": {"preset": "p4", "tune": "ll", "zerolatency": "1", "delay": "0", "rc": "vbr"}
    | {"forced-idr": "1"},
    "h264_videotoolbox": {"realtime": "1"},
    "h264_qsv": {"preset": "veryfast", "async_depth": "1", "forced_idr": "1"},
    "h264_amf": {"usage": "lowlatency", "quality": "speed", "forced_idr": "1"},
}
_LONGEST_GOP = "600"  # key frames are asked for by time: this is only what holds without that

_answers: dict[tuple[int, int], Choice] = {}
_asking = threading.Lock()


@dataclass(frozen=True, slots=True)
class Choice:
    """The encoder to use, and in one line why no other one is."""

    name: str
    why: str


def choose(size: tuple[int, int]) -> Choice:
    """The encoder for frames of (H, W); the first answer for a size takes a second or so."""
    with _asking:
        if size not in _answers:
            _answers[size] = _ask(size)
        return _answers[size]


def options(name: str, size: tuple[int, int], rate: Fraction, crf: int) -> dict[str, str]:
    """What the encoder is opened with: low delay, no frames out of order, a bounded rate.

    Args:
        name: One of HARDWARE, or SOFTWARE.
        size: (H, W).
        rate: Frames per second, roughly.
        crf: Quality of x264; hardware encoders have only the rate.
    """
    bits = max(_FEWEST_BITS, round(_BITS_PER_PIXEL * size[0] * size[1] * float(rate)))
    asked = _FAST[name] | {"g": _LONGEST_GOP, "bf": "0"}
    if name == SOFTWARE:
        return asked | {"crf": str(crf), "maxrate": str(2 * bits), "bufsize": str(2 * bits)}
    return asked | {"b": str(bits), "maxrate": str(2 * bits), "bufsize": str(2 * bits)}


def pixel_format(name: str) -> str:
    """The 4:2:0 layout that the encoder takes as it is."""
    return "yuv420p" if name == SOFTWARE else "nv12"


def attempt(name: str, size: tuple[int, int]) -> str:
    """Encode one grey frame, in this process: "" if that worked, else why it did not."""
    import av
    from av.video.frame import VideoFrame

    from . import libav

    try:
        context: Any = av.CodecContext.create(name, "w")
    except Exception:
        return "not in this build of libav"
    context.height, context.width = size
    context.pix_fmt = pixel_format(name)
    context.time_base, context.framerate = Fraction(1, 90000), Fraction(30)
    context.options = options(name, size, Fraction(30), 23)
    frame = VideoFrame(size[1], size[0], context.pix_fmt)
    for plane in frame.planes:
        plane.update(b"\x80" * plane.buffer_size)
    frame.pts = 0
    try:
        packets = [*context.encode(frame), *context.encode(None)]
    except Exception as error:
        return _last_error_line() or libav.describe(error)
    return "" if packets else "it encoded nothing"


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """In the child: try the encoders one by one, up to the first that works."""
    from . import libav

    libav.quiet()
    # A driver that hangs holds the interpreter's lock, and the parent may be gone.
    faulthandler.dump_traceback_later(len(arguments["names"]) * _ATTEMPT_S, exit=True, file=2)
    for name in arguments["names"]:
        why = attempt(name, tuple(arguments["size"]))
        messages.send(outbox, {"kind": "tried", "name": name, "why": why})
        if not why:
            return


def _ask(size: tuple[int, int]) -> Choice:
    refused: dict[str, str] = {}
    while len(refused) < len(HARDWARE):
        left = [name for name in HARDWARE if name not in refused]
        works = _first_that_works(left, size, refused)
        if works:
            return Choice(works, _line(refused))
    return Choice(SOFTWARE, _line(refused))


def _first_that_works(
    names: Sequence[str], size: tuple[int, int], refused: dict[str, str]
) -> str | None:
    """Ask one process; each that does not work is entered with its reason."""
    arguments = {"names": list(names), "size": list(size)}
    child: Child | None = None
    try:
        child = Child(
            "runtime.media.live_encoders", arguments, failure="it failed", deadline_s=_ATTEMPT_S
        )
        for name in names:
            told, _ = child.receive()
            if not told["why"]:
                return name
            refused[name] = told["why"]
    except StreamDiffVSRError as error:  # it crashed or hung: the rest are asked of another process
        refused[next(name for name in names if name not in refused)] = error.why or error.what
    finally:
        if child:
            child.close()
    return None


def _line(refused: dict[str, str]) -> str:
    return "; ".join(f"{name}: {' '.join(why.split())}" for name, why in refused.items())


def _last_error_line() -> str:
    import av

    _, last = av.logging.get_last_error()
    return last[2].strip() if last else ""
