"""Opens a live address with libav, and says why one cannot be opened or read any more.

The last lines of libav's log are kept as the reason of a failure.
"""

from __future__ import annotations

import logging
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from ..media import libav
from .ending_child import Ended
from .gate_child import Denied, use_gate
from .relay_child import SrtInput
from .rtsp_child import RtspTalk, open_rtsp, unauthorized

# Warnings that mean missing pixels. Errors of a demuxer or decoder always mean that.
_DAMAGE = re.compile(
    r"RTP: missed|corrupt|EOI missing|error while decoding|concealing|size mismatch|truncated",
    re.IGNORECASE,
)
# Lines about something that a playlist may not open, by our bounds or by hls's own.
_DENIED = re.compile(r"not on whitelist|loading first segment '(?!https?://)")
# Errors of these are about the connection, not about pictures.
_TRANSPORTS = frozenset(
    f"libav.{name}" for name in ("tcp", "udp", "tls", "http", "https", "httpproxy", "hls", "rtmp")
)


class LiveLog(logging.Handler):
    """Receives libav's log lines from now on.

    Attributes:
        damage: The number of lines that mean damage.
        denied: Whether the source tried to open something that is not allowed.
        last_error: The last line of an error, or "".
        sound_refused: Whether an RTSP server sends the picture only, though it has sound.
    """

    def __init__(self) -> None:
        super().__init__()
        self.damage = 0
        self.denied = self.sound_refused = False
        self.last_error = ""
        logger = logging.getLogger("libav")
        logger.addHandler(self)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)

    def note_damage(self) -> None:
        """Counts damage that another program has reported."""
        self.damage += 1

    def emit(self, record: logging.LogRecord) -> None:
        """Counts one line; called by ``logging``, on any of libav's threads."""
        text = record.getMessage().strip()
        if record.name != "libav.rtsp":  # whose redirects are followed within the same bounds
            self.denied = self.denied or bool(_DENIED.search(text))
        error = record.levelno >= logging.ERROR
        if error and text:
            self.last_error = text
        if (error and record.name not in _TRANSPORTS) or _DAMAGE.search(text):
            self.damage += 1


def open_live(
    arguments: dict[str, Any], log: LiveLog, answered: Callable[[], None] = lambda: None
) -> tuple[InputContainer, Any, str]:
    """Opens a source and returns it with its video stream and the transport of RTSP.

    Args:
        answered: Called once an RTSP server has described the stream, before any of it comes.

    Returns:
        The transport is "tcp" or "udp", and "" for any other source.

    Raises:
        Ended: It cannot be opened, or has no video.
        StreamDiffVSRError: A file is not a video.
    """
    if arguments["kind"] == "file":
        failure = f"could not read {arguments['shown']!r}"
        return _with_video(libav.open_video(Path(arguments["url"]), failure), arguments, "")
    if arguments["kind"] == "rtsp":
        return _open_rtsp(arguments, log, answered)
    gate, options = None, dict(arguments["options"])
    if arguments["kind"] in ("http", "hls"):
        gate = use_gate(arguments["url"], options)
    if gate and arguments["kind"] == "hls":
        options.setdefault("http_persistent", "0")  # so that each request is checked
    try:
        container = av.open(
            _place(arguments, log),
            format=arguments["format"],
            container_options=options,
            metadata_errors="replace",
        )
    except Exception as error:
        behind = gate.failure if gate else None  # which libav reports as an error of a proxy
        raise _not_opened(behind or error, arguments, log) from error
    return _with_video(container, arguments, "")


def _place(arguments: dict[str, Any], log: LiveLog) -> Any:
    """Returns what libav opens: an address, a device, or a file object."""
    if arguments["relay"]:
        return SrtInput(arguments["relay"], log.note_damage)
    return _device(arguments) if arguments["kind"] == "webcam" else arguments["url"]


def _open_rtsp(
    arguments: dict[str, Any], log: LiveLog, answered: Callable[[], None]
) -> tuple[InputContainer, Any, str]:
    with RtspTalk(answered) as talk:
        try:
            container, transport = open_rtsp(arguments, talk)
        except Exception as error:
            if talk.only_sound:
                raise Ended("refused", *_ONLY_SOUND) from error
            raise _not_opened(error, arguments, log) from error
        log.sound_refused = talk.sound_refused
        return _with_video(container, arguments, transport, talk.codec)


def _with_video(
    container: InputContainer, arguments: dict[str, Any], transport: str, codec: str = ""
) -> tuple[InputContainer, Any, str]:
    stream = libav.moving_picture(container)
    if stream is None:
        if container.streams.audio:
            raise Ended("refused", *_ONLY_SOUND)
        raise Ended("refused", "it has no video stream", "choose another stream of it")
    if stream.codec_context is None:
        name = f", {codec}," if codec else ""
        why = f"its video codec{name} is unknown here"
        raise Ended("refused", why, "set the camera to H.264 or H.265")
    stream.thread_type = "SLICE"  # threads by frames would delay by one frame each
    stream.codec_context.thread_count = arguments["decoder_threads"]
    return container, stream, transport


_ONLY_SOUND = ("it has no video, only sound", "name the address of its video")


def read_failure(error: Exception, log: LiveLog) -> Ended:
    """Returns what an error between two packets means."""
    if log.denied:
        return _denied()
    if isinstance(error, av.error.FFmpegError | OSError):
        return Ended("lost", _words(error, log))
    return Ended("lost", f"{type(error).__name__}: {error}")


def _not_opened(error: Exception, arguments: dict[str, Any], log: LiveLog) -> Ended:
    if log.denied or isinstance(error, Denied):
        return _denied()
    if isinstance(error, Ended):
        return error
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return unauthorized(arguments["url"])
    if isinstance(error, av.error.HTTPForbiddenError):
        why = "its server forbids this (403)"
        return Ended("refused", why, "check what that user may see, and the address")
    if isinstance(error, av.error.HTTPNotFoundError):
        why = "there is no such stream on that server (404)"
        return Ended("refused", why, "check the path of the address")
    if isinstance(error, socket.gaierror) or "resolve hostname" in _words(error, log):
        why = "there is no host of that name"
        return Ended("lost", why, "check the address, and the network's name server")
    if isinstance(error, ConnectionRefusedError):
        return Ended(
            "lost", "the connection was refused", "check that its server runs, and its port"
        )
    if isinstance(error, av.error.ProtocolNotFoundError):
        return Ended("hopeless", "this build of libav does not have its protocol")
    if arguments["kind"] == "webcam":
        return _no_webcam(error, arguments)
    if isinstance(error, av.error.InvalidDataError):
        return Ended("lost", f"what came is no video known here ({_words(error, log)})")
    if arguments["kind"] == "screen":
        return Ended("hopeless", f"the screen cannot be read ({_words(error, log)})")
    return Ended("lost", _words(error, log))


def _words(error: Exception, log: LiveLog) -> str:
    """Describes an error with libav's log, as most of its network errors are just "I/O error"."""
    text = libav.describe(error)
    return f"{text}: {log.last_error}" if log.last_error and log.last_error not in text else text


def _denied() -> Ended:
    return Ended(
        "hopeless",
        "it points at something that a source of this kind may not open, such as a local file or "
        "an address of this machine or its cloud",
    )


def _no_webcam(error: Exception, arguments: dict[str, Any]) -> Ended:
    busy = isinstance(error, PermissionError | BlockingIOError) or "busy" in str(error).lower()
    if busy:
        return Ended("lost", f"the camera is in use, or may not be used ({libav.describe(error)})")
    return Ended("hopeless", f"there is no such camera; {_listed(_devices(arguments['format']))}")


def _device(arguments: dict[str, Any]) -> str:
    """Returns the name by which libav opens a webcam."""
    way, _, wanted = arguments["url"].partition(":")
    if way not in ("name", "number"):
        return str(arguments["url"])
    found = _devices(arguments["format"])
    if way == "number":
        chosen = found[int(wanted) : int(wanted) + 1]
    else:
        chosen = [pair for pair in found if wanted.lower() in " ".join(pair).lower()]
    if not chosen:
        raise Ended("hopeless", f"there is no such camera; {_listed(found)}")
    name = chosen[0][0]
    return {"dshow": f"video={name}", "avfoundation": f"{name}:none"}.get(arguments["format"], name)


def _devices(form: str) -> list[tuple[str, str]]:
    """Returns name and description of each camera; empty where libav cannot list them."""
    try:
        listed = av.enumerate_input_devices(form)
    except Exception:  # the format is missing, or the platform lists none
        return []
    kinds = [(device, getattr(device, "media_types", None)) for device in listed]
    return [
        (device.name, device.description)
        for device, media in kinds
        if not media or any("video" in str(medium).lower() for medium in media)
    ]


def _listed(found: list[tuple[str, str]]) -> str:
    if found:
        return "here are " + ", ".join(f"{name} ({described})" for name, described in found)
    hint = " (are /dev/video* passed into this container?)" if sys.platform == "linux" else ""
    return f"no camera was found here{hint}"
