"""Opens a live address with libav, and takes the reason of a failure from libav's log."""

from __future__ import annotations

import logging
import re
import socket
import sys
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer

from ..media import libav
from ..media.redact import redact
from .http_guard_child import Denied, use_gate

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
    """

    def __init__(self) -> None:
        super().__init__()
        self.damage = 0
        self.denied = False
        self.last_error = ""
        logger = logging.getLogger("libav")
        logger.addHandler(self)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Counts one line; called by ``logging``, on any of libav's threads."""
        text = record.getMessage().strip()
        self.denied = self.denied or bool(_DENIED.search(text))
        error = record.levelno >= logging.ERROR
        if error and text:
            self.last_error = text
        if (error and record.name not in _TRANSPORTS) or _DAMAGE.search(text):
            self.damage += 1


# What an end means for the next attempt: "lost" may come back at any time, "refused" not soon,
# "hopeless" never by itself.
Cause = Literal["ended", "lost", "refused", "hopeless"]


class Ended(Exception):
    """Raised when a source has no more frames; says why."""

    def __init__(self, cause: Cause, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.cause, self.why, self.remedy = cause, redact(why), remedy


def open_live(arguments: dict[str, Any], log: LiveLog) -> tuple[InputContainer, Any]:
    """Opens a source and returns it with its video stream.

    Raises:
        Ended: It cannot be opened, or has no video.
        StreamDiffVSRError: A file is not a video.
    """
    if arguments["kind"] == "file":
        failure = f"could not read {arguments['shown']!r}"
        container = libav.open_video(Path(arguments["url"]), failure)
    else:
        gate, options = None, dict(arguments["options"])
        if arguments["kind"] in ("http", "hls"):
            gate = use_gate(arguments["url"], options)
        if gate and arguments["kind"] == "hls":
            options.setdefault("http_persistent", "0")  # so that each request is checked
        try:
            container = av.open(
                _device(arguments) if arguments["kind"] == "webcam" else arguments["url"],
                format=arguments["format"],
                container_options=options,
                metadata_errors="replace",
            )
        except Exception as error:
            behind = gate.failure if gate else None  # which libav reports as an error of a proxy
            raise _not_opened(behind or error, arguments, log) from error
    stream = libav.moving_picture(container)
    if stream is None:
        held = ", only sound" if container.streams.audio else ""
        raise Ended("refused", f"it has no video stream{held}")
    if stream.codec_context is None:
        raise Ended("refused", "its video codec is unknown here")
    stream.thread_type = "SLICE"  # threads by frames would delay by one frame each
    stream.codec_context.thread_count = arguments["decoder_threads"]
    return container, stream


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
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return Ended("refused", "it wants another user name or password (401 or 403)")
    if isinstance(error, av.error.HTTPNotFoundError):
        return Ended("refused", "there is no such stream on that server (404)")
    if isinstance(error, socket.gaierror) or "resolve hostname" in _words(error, log):
        return Ended("lost", "there is no host of that name: check the address and the network")
    if isinstance(error, ConnectionRefusedError):
        return Ended("lost", "the connection was refused: is the server running?")
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
