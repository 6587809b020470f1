"""Encodes and muxes one live output in the child process of its sink."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import math
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any

import av

from ...durable import write_atomically
from ..media import libav
from ..media.colour import FULL, Colour
from ..media.encoder_trial_child import why_not
from ..media.encoders import SOFTWARE, baseline, live_options, live_pixel_format
from ..media.formats import live_candidate
from ..media.video_encoder_child import EncoderSettings, FrameEncoder, RgbFrame
from ..processes import messages
from .camera_child import VirtualCamera
from .ending_child import Ended
from .relay_child import RelayOutput
from .sound_mux_child import NoSound, Soundtrack

_FRAGMENT_US = 500_000
_CLUSTER_MS = 500
SEGMENT_S = 2
_SEGMENTS_LISTED = 6
_AT_ONCE = {"flush_packets": "1"}
_FRAGMENTED = {
    "movflags": "+empty_moov+default_base_moof",
    "frag_duration": str(_FRAGMENT_US),
    "video_track_timescale": "90000",
}
_BY_FORMAT = {
    "mp4": _AT_ONCE | _FRAGMENTED,
    "mov": _AT_ONCE | _FRAGMENTED,
    "matroska": _AT_ONCE | {"cluster_time_limit": str(_CLUSTER_MS)},
    "mpegts": _AT_ONCE,
    "flv": _AT_ONCE | {"flvflags": "+no_duration_filesize"},
    "nut": _AT_ONCE | {"max_interleave_delta": "1"},  # to ffmpeg, without waiting for sound
}
_REFUSED = re.compile(r"method SETUP failed: (?!40[134])")


def muxer_options(arguments: dict[str, Any], transport: str = "tcp") -> dict[str, str]:
    """Returns the muxer's options for the arguments of a child, and a transport of RTSP."""
    if arguments["kind"] == "hls":
        return _hls(Path(arguments["path"]), resumed=arguments["resumed"])
    if arguments["format"] == "rtsp":
        return {"rtsp_transport": transport}
    options = _BY_FORMAT[arguments["format"]]
    if arguments["format"] == "mpegts" and arguments["remote"]:
        # A receiver of datagrams cannot see that the sender was restarted.
        options = options | {"mpegts_flags": "+initial_discontinuity"}
    return options


def _with_sound(options: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Returns the options of a muxer with those for sound, which may begin later."""
    if more and "movflags" in options:
        options = options | {"movflags": f"{options['movflags']}+frag_discont"}
    return options | more


def remove_old_playlist(playlist: Path) -> None:
    """Removes a playlist that will be replaced, and those segments that this program wrote."""
    with contextlib.suppress(OSError):
        ours = re.compile(re.escape(playlist.stem) + r"-\d{5,}\.ts")
        for line in playlist.read_text(encoding="utf-8", errors="replace").splitlines():
            if ours.fullmatch(line):
                playlist.with_name(line).unlink(missing_ok=True)
        playlist.unlink()


def _hls(playlist: Path, *, resumed: bool) -> dict[str, str]:
    flags = "delete_segments+temp_file+independent_segments"
    return {
        "hls_time": str(SEGMENT_S),
        "hls_list_size": str(_SEGMENTS_LISTED),
        # Each segment describes itself, so the size of the picture may change between them.
        "hls_segment_type": "mpegts",
        "hls_segment_filename": str(playlist.with_name(f"{playlist.stem}-%05d.ts")),
        "hls_flags": f"{flags}+append_list" if resumed else flags,
    }


_SWS_BT601 = 5  # swscale's number for the matrix
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "png": ("rgb24", {"compression_level": "1", "pred": "up"}),
    "mjpeg": ("yuvj420p", {"qmin": "2", "qmax": "2"}),
}


class ImageSeries(NoSound):
    """Writes FOLDER / (NAME % number) for numbers from ``first``."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._height, self._width = arguments["size"]
        self._rgb = RgbFrame((self._height, self._width))
        self.encoder: str = arguments["format"]
        self.transport = ""
        self._folder, self._name = Path(arguments["path"]).parent, Path(arguments["path"]).name
        self._number: int = arguments["first"]
        self._overwrite: bool = arguments["overwrite"]
        self._folder.mkdir(exist_ok=True)
        self._pixel_format, self._options = _ENCODERS[self.encoder]
        self._encode(0)  # fails now if the codec refuses the size

    def memory(self, count: int) -> memoryview:
        """Returns the memory for the next frame's pixels."""
        return self._rgb.memory(count)

    def write(self, pixels: memoryview, ticks: int) -> None:
        """Writes the frame in that memory as the next image."""
        self._rgb.take(pixels)
        path = self._folder / (self._name % self._number)
        if not self._overwrite and path.exists():
            raise FileExistsError(errno.EEXIST, "it already exists")
        with write_atomically(path) as part:
            part.write_bytes(self._encode(ticks))
        self._number += 1

    def close(self) -> None:
        """Does nothing: every image is complete."""

    def _encode(self, ticks: int) -> bytes:
        context: Any = av.CodecContext.create(self.encoder, "w")  # a new one for each image
        context.width, context.height = self._width, self._height
        context.pix_fmt, context.time_base = self._pixel_format, Fraction(1, 90000)
        context.options = self._options
        frame = self._rgb.video_frame
        if self._pixel_format != "rgb24":
            frame = self._rgb.converted(self._pixel_format, _SWS_BT601, FULL)
        frame.pts = ticks
        return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])


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


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends ``ready``; answers each ``frame`` by ``written`` and ``end`` by ``done``.

    A ``sound`` gets no answer: the next one says what became of it.
    Any error is reported by ``failed``; its ``cause`` is "lasting" if trying again is of no use,
    and "refused" if the other side has refused.
    """
    libav.quiet()
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # a service manager sends it to all; the parent ends this
    try:
        with _limit(arguments["open_s"]):
            output = _open(arguments)
        ready = {"encoder": output.encoder, "transport": output.transport, "sound": output.about}
        _say(outbox, {"kind": "ready", **ready})
        while True:
            header, payload = _next(inbox, output)
            if header["kind"] == "end":
                break
            with _limit(arguments["frame_s"]):
                if header["kind"] == "sound":
                    output.hear(header["packets"], payload)
                    continue
                output.write(payload, header["ticks"])
            _say(outbox, {"kind": "written", "sound": output.heard()})
        with _limit(arguments["close_s"]):
            output.close()
        _say(outbox, {"kind": "done", "sound": output.heard()})
    except Exception as error:  # a broken pipe here is libav's: `_say` catches ours
        _say(outbox, _failure(error, local=not arguments["remote"]))


class Stream:
    """Writes H.264 in a container to a file, a playlist or a network address.

    Attributes:
        encoder: The encoder in use.
        transport: That of RTSP, "tcp" or "udp"; else "".
    """

    def __init__(self, arguments: dict[str, Any], transport: str = "") -> None:
        self.transport = transport
        size = tuple(arguments["size"])
        self._frame_bytes = 3 * size[0] * size[1]
        self._rgb = RgbFrame(size)
        self.encoder: str = arguments["encoder"]
        software = SOFTWARE["h264"]
        if self.encoder != software and why_not(live_candidate(self.encoder, size), size):
            self.encoder = software  # a chip encodes only a few streams at once
        self._sound = Soundtrack(arguments)
        options = muxer_options(arguments, transport)
        relay = arguments["relay"]
        self._relay = relay and RelayOutput(relay, arguments["open_s"], arguments["close_s"])
        self._container = av.open(
            self._relay or arguments["where"],
            "w",
            format=arguments["format"],
            container_options=_with_sound(options, self._sound.options),
            io_open=_open_part if arguments["kind"] == "hls" else None,
        )
        self._encoder = FrameEncoder(self._settings(arguments, size), self._rgb, self._container)
        self._sound.join(self._container)
        self._container.start_encoding()
        if self._relay:
            self._relay.connect(self._container, self._encoder.stream)
        # Two frames within one tick of the container would have the same time.
        self._step = max(1, math.ceil((self._encoder.stream.time_base or 0) * TICKS))
        self._last: int | None = None
        self._last_key: int | None = None

    @property
    def about(self) -> list[dict[str, Any]]:
        """What each stream of sound is (see `Soundtrack`)."""
        return self._sound.about

    def memory(self, count: int) -> memoryview:
        """Returns the memory for the next frame's pixels, or for sound."""
        if count != self._frame_bytes:
            return memoryview(bytearray(count))
        return self._rgb.memory(count)

    def hear(self, packets: list[list[Any]], payload: memoryview) -> None:
        """Writes sound (see `Soundtrack`)."""
        self._sound.write(self._container, packets, payload)

    def heard(self) -> dict[str, Any]:
        """Returns what became of the sound since the last call."""
        return self._sound.report()

    def write(self, pixels: memoryview, ticks: int) -> None:
        """Writes the frame in that memory; a time not later than the last is moved after it."""
        self._rgb.take(pixels)
        duration = TICKS // 30
        if self._last is not None:
            ticks = max(ticks, self._last + self._step)
            duration = ticks - self._last
        key = self._last_key is None or ticks - self._last_key >= KEY_FRAME_S * TICKS
        self._last, self._last_key = ticks, ticks if key else self._last_key
        self._mux(self._encoder.encode(ticks, key=key), duration)

    def close(self) -> None:
        """Writes what is still buffered, and finishes."""
        self._mux(self._encoder.flush(), 0)
        self._sound.close(self._container)
        self._container.close()
        if self._relay:
            self._relay.finish()

    def _mux(self, packets: Iterable[Any], duration: int) -> None:
        for packet in packets:
            packet.duration = duration  # that of the frame before, as the next time is unknown
            self._container.mux(packet)

    def _settings(self, arguments: dict[str, Any], size: tuple[int, int]) -> EncoderSettings:
        rate = messages.unpack(arguments["rate"]) or Fraction(30)
        options = live_options(self.encoder, size, rate, arguments["crf"])
        if arguments["codecs"]:  # a browser's decoders are behind it
            options |= baseline(self.encoder)
        return EncoderSettings(
            encoder=self.encoder,
            size=size,
            pixel_format=live_pixel_format(self.encoder),
            colour=Colour().resolved(size[0]),
            time_base=Fraction(1, TICKS),
            rate=rate,
            options=options,
        )


def _open(arguments: dict[str, Any]) -> ImageSeries | Stream | VirtualCamera:
    if arguments["kind"] == "images":
        return ImageSeries(arguments)
    if arguments["kind"] == "camera":
        return VirtualCamera(arguments)
    if arguments["format"] == "rtsp":
        return _over_any(arguments)
    _claim(arguments)
    try:
        return Stream(arguments)
    except BaseException:
        if arguments["kind"] == "file":
            path = Path(arguments["path"])
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:  # an empty file is not worth keeping
                    path.unlink()
        raise


def _over_any(arguments: dict[str, Any]) -> Stream:
    """Returns an RTSP output over the first of the transports that its server takes."""
    *others, last = arguments["transports"]
    for transport in others:
        try:
            return Stream(arguments, transport)
        except av.error.FFmpegError as error:
            if not _REFUSED.search(libav.describe(error)):
                raise
    return Stream(arguments, last)


def _open_part(url: str, flags: int, options: dict[str, str]) -> Any:
    """Opens a playlist or segment: libav's own files ignore that a disk is full."""
    return open(url.removeprefix("file:"), "wb" if flags & _WRITE else "rb")


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Ends this process, from a thread that needs no lock, if the block takes much longer."""
    faulthandler.dump_traceback_later(seconds + _GRACE_S, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _next(
    inbox: RawIOBase, output: ImageSeries | Stream | VirtualCamera
) -> tuple[messages.Header, memoryview]:
    try:
        return messages.receive(inbox, output.memory)
    except (EOFError, OSError):  # the parent is gone: finish the output
        return {"kind": "end"}, memoryview(b"")


def _say(outbox: RawIOBase, header: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        messages.send(outbox, header)


def _claim(arguments: dict[str, Any]) -> None:
    """Creates the file, or removes the old playlist, unless that overwrites a file unasked."""
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
    if isinstance(error, Ended):
        cause = {"hopeless": "lasting", "refused": "refused"}.get(error.cause, "")
        return {"kind": "failed", "why": error.why, "cause": cause}
    number = getattr(error, "errno", None)
    why = "it already exists" if number == errno.EEXIST else libav.describe(error)
    cause = "refused" if isinstance(error, av.error.HTTPClientError) else ""
    if (local and number in _LASTING) or isinstance(error, _UNKNOWN):
        cause = "lasting"
    return {"kind": "failed", "why": why, "cause": cause}
