"""Shows frames on a virtual camera of Linux, which other programs open as a webcam."""

from __future__ import annotations

import errno
import sys
from fractions import Fraction
from typing import Any

import av

from ..media.colour import LIMITED
from ..media.video_encoder_child import RgbFrame
from .ending_child import Ended
from .sound_mux_child import NoSound

_TICKS = 90000  # per second
_SWS_BT601 = 5  # swscale's number for the matrix that webcams use
_PIXELS = "yuv420p"
_LOAD = "load it with: modprobe v4l2loopback video_nr=9 exclusive_caps=1"
_BUSY = "it is in use with another size; close the programs that show it"


class VirtualCamera(NoSound):
    """Writes raw pictures to a device of v4l2loopback, 4:2:0 in BT.601 and limited range.

    Args:
        arguments: The arguments of the child; ``path`` is the device and ``size`` that of frames.

    Attributes:
        encoder: "rawvideo".
        transport: "".

    Raises:
        Ended: It is no such device.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        size = tuple(arguments["size"])
        self._rgb = RgbFrame(size)
        self.encoder, self.transport = "rawvideo", ""
        device = arguments["path"]
        if sys.platform != "linux":
            raise Ended("hopeless", "virtual cameras are of Linux only")
        try:
            self._container = av.open(device, "w", format="v4l2")
            stream: Any = self._container.add_stream("rawvideo", rate=30)
            stream.height, stream.width = size
            stream.pix_fmt, stream.time_base = _PIXELS, Fraction(1, _TICKS)
            stream.codec_context.time_base = Fraction(1, _TICKS)
            self._stream = stream
            self._container.start_encoding()
        except OSError as error:  # those of libav are among them
            raise _not_opened(error, device) from error
        self._last = -1

    def memory(self, count: int) -> memoryview:
        """Returns the memory for the next frame's pixels."""
        return self._rgb.memory(count)

    def write(self, pixels: memoryview, ticks: int) -> None:
        """Shows the frame in that memory at once."""
        self._rgb.take(pixels)
        frame = self._rgb.converted(_PIXELS, _SWS_BT601, LIMITED)
        self._last = max(ticks, self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Lets the device go."""
        self._container.close()


def _not_opened(error: OSError, device: str) -> Ended:
    if error.errno == errno.ENOENT:
        return Ended("hopeless", f"there is no such device; {_LOAD}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Ended("hopeless", "no permission to write to it; add the user to the group video")
    if error.errno == errno.EBUSY:
        return Ended("lost", _BUSY)
    if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EISDIR):
        return Ended("hopeless", f"{device} is no output of v4l2loopback; {_LOAD}")
    return Ended("lost", error.strerror or str(error))
