"""The writer's side of a live sink: RGB frames in, one file, folder or connection out.

Runs in the child. Every frame is answered, so whoever sends knows what is written, and where it
hangs. A file is complete to within half a second at any moment. When the parent is gone the output
is finished properly; a call of libav that never returns (it may hold the interpreter's lock, so no
thread could help) ends the process. It knows nothing of reconnecting.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

import av
from av.video.frame import PictureType

from ...processes import wire
from .. import libav
from ..frames.colour import Colour
from ..frames.rgb import RgbFrame
from . import encoders
from .images import ImageSeries
from .muxers import muxer_options, remove_old_playlist

TICKS = 90000  # per second
KEY_FRAME_S = 2.0
_GRACE_S = 5.0  # the parent's deadline comes first; this one is for when there is no parent
_STDERR = 2
_WRITE = 2  # AVIO_FLAG_WRITE
_LASTING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}
_UNKNOWN = (av.error.ProtocolNotFoundError, av.error.MuxerNotFoundError)


class Output(Protocol):
    """What frames are written to."""

    encoder: str

    def memory(self, count: int) -> memoryview:
        """Where the next frame's pixels are to be read to."""

    def write(self, pixels: memoryview, ticks: int) -> None:
        """Write what was read there, shown at that time."""

    def close(self) -> None:
        """Write what is held back, and finish."""


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send ``ready``; answer each ``frame`` by ``written`` and ``end`` by ``done``.

    Whatever fails is told by ``failed``; its ``cause`` is "lasting" where trying again is of no
    use, and "refused" where the other side said no.
    """
    libav.quiet()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager sends it to all: see above
    try:
        with _limit(arguments["open_s"]):
            output = _open(arguments)
        _say(outbox, {"kind": "ready", "encoder": output.encoder})
        while True:
            header, pixels = _next(inbox, output)
            if header["kind"] == "end":
                break
            with _limit(arguments["frame_s"]):
                output.write(pixels, header["ticks"])
            _say(outbox, {"kind": "written"})
        with _limit(arguments["close_s"]):
            output.close()
        _say(outbox, {"kind": "done"})
    except Exception as error:  # a broken pipe here is one of libav's: those of ours are caught
        _say(outbox, _failure(error, local=arguments["kind"] != "network"))


class Stream:
    """H.264 in a container, to a file, a playlist or a network address."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        size = tuple(arguments["size"])
        self._rgb = RgbFrame(size)
        self._colour = Colour().resolved(size[0])
        self.encoder: str = arguments["encoder"]
        if self.encoder != encoders.SOFTWARE and encoders.attempt(self.encoder, size):
            self.encoder = encoders.SOFTWARE  # a chip encodes so many streams and no more
        self._pixel_format = encoders.pixel_format(self.encoder)
        self._container = av.open(
            arguments["where"],
            "w",
            format=arguments["format"],
            container_options=muxer_options(arguments),
            io_open=_open_part if arguments["kind"] == "hls" else None,
        )
        self._stream = self._add_video(arguments, size)
        self._container.start_encoding()
        # Two frames of one tick of the container would be at one time.
        self._step = max(1, math.ceil((self._stream.time_base or 0) * TICKS))
        self._last: int | None = None
        self._last_key: int | None = None

    def memory(self, count: int) -> memoryview:
        """As :class:`Output`."""
        return self._rgb.memory(count)

    def write(self, pixels: memoryview, ticks: int) -> None:
        """As :class:`Output`; a time that is not later than the last is moved behind it."""
        self._rgb.take(pixels)
        frame = self._rgb.converted(
            self._pixel_format, self._colour.swscale_matrix, self._colour.range
        )
        duration = TICKS // 30
        if self._last is not None:
            ticks = max(ticks, self._last + self._step)
            duration = ticks - self._last
        key = self._last_key is None or ticks - self._last_key >= KEY_FRAME_S * TICKS
        frame.pict_type = PictureType.I if key else PictureType.NONE
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
        self._last, self._last_key = ticks, ticks if key else self._last_key
        self._mux(self._stream.encode(frame), duration)

    def close(self) -> None:
        """As :class:`Output`."""
        self._mux(self._stream.encode(None), 0)
        self._container.close()

    def _mux(self, packets: list[Any], duration: int) -> None:
        for packet in packets:
            packet.duration = duration  # of the frame before: the next one's time is not known
            self._container.mux(packet)

    def _add_video(self, arguments: dict[str, Any], size: tuple[int, int]) -> Any:
        rate = wire.unpack(arguments["rate"]) or Fraction(30)  # a hint: times rule
        stream: Any = self._container.add_stream(
            self.encoder,
            rate=rate,
            options=encoders.options(self.encoder, size, rate, arguments["crf"]),
            width=size[1],
            height=size[0],
            pix_fmt=self._pixel_format,
            time_base=Fraction(1, TICKS),
        )
        stream.time_base = Fraction(1, TICKS)
        context, colour = stream.codec_context, self._colour
        context.colorspace, context.color_range = colour.matrix, colour.range
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        return stream


def _open(arguments: dict[str, Any]) -> Output:
    if arguments["kind"] == "images":
        return ImageSeries(arguments)
    _claim(arguments)
    try:
        return Stream(arguments)
    except BaseException:
        if arguments["kind"] == "file":
            path = Path(arguments["path"])
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:  # nothing of it is worth a name
                    path.unlink()
        raise


def _open_part(url: str, flags: int, options: dict[str, str]) -> Any:
    """A playlist or segment: libav's own would lose what a full disk does not take, and go on."""
    return open(url.removeprefix("file:"), "wb" if flags & _WRITE else "rb")


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """End this process, from a thread that needs no lock, if the block takes much longer."""
    faulthandler.dump_traceback_later(seconds + _GRACE_S, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _next(inbox: RawIOBase, output: Output) -> tuple[wire.Header, memoryview]:
    try:
        return wire.receive(inbox, output.memory)
    except (EOFError, OSError):  # the parent is gone: finish what it had us write
        return {"kind": "end"}, memoryview(b"")


def _say(outbox: RawIOBase, header: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        wire.send(outbox, header)


def _claim(arguments: dict[str, Any]) -> None:
    """Take the name of a file or playlist, so that no other file is written over unasked."""
    if arguments["kind"] == "hls" and not arguments["resumed"]:
        playlist = Path(arguments["path"])
        if arguments["overwrite"]:
            remove_old_playlist(playlist)
        elif playlist.exists():
            raise FileExistsError(errno.EEXIST, "it already exists")
    if arguments["kind"] == "file":
        with Path(arguments["path"]).open("wb" if arguments["overwrite"] else "xb"):
            pass


def _failure(error: Exception, *, local: bool) -> dict[str, Any]:
    number = getattr(error, "errno", None)
    why = "it already exists" if number == errno.EEXIST else libav.describe(error)
    cause = "refused" if isinstance(error, av.error.HTTPClientError) else ""
    if (local and number in _LASTING) or isinstance(error, _UNKNOWN):
        cause = "lasting"
    return {"kind": "failed", "why": why, "cause": cause}
