"""Opens an RTSP address: over the transport that its server takes, and where it redirects to.

libav tells what servers answer only in its log: `RtspTalk` listens to it while a source is opened.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from ..media.redact import redact
from .ending_child import Ended
from .gate_child import Bounds, Denied

_MEDIA, _PICTURE, _BOTH = "allowed_media_types", "video", "video+audio"
_MAX_REDIRECTS = 5
_PORTS = {"rtsp": 554, "rtsps": 322}
_KEPT = 1000  # libav cuts log lines at 1023 bytes

_SETUP = re.compile(r"method SETUP failed: (\d+)")
_NOT_ABOUT_TRANSPORT = ("401", "403", "404")
_REDIRECTED = re.compile(r"Protocol 'rtsps?' not on whitelist")
_LOCATION = re.compile(r"line='location:\s*(\S+)'", re.IGNORECASE)
_CODEC = re.compile(r"^m=video .*?^a=rtpmap:\d+ ([\w.+-]+)/", re.MULTILINE | re.DOTALL)


class RtspTalk(logging.Handler):
    """A listener to what libav logs about its talk with an RTSP server; a context manager.

    Args:
        answered: Called for each description of a stream that comes.

    Attributes:
        refused: The status with which the server refused the transport, or "".
        set_up_failed: Whether the server refused one of the streams that it had described.
        redirected: Whether the server answered with another address, which libav may not open.
        location: That address, if the log was asked for it.
        sound_refused: Whether the server sends the picture only, though it has described sound.
    """

    def __init__(self, answered: Callable[[], None]) -> None:
        super().__init__()
        self._answered, self._description = answered, ""
        self._logger = logging.getLogger("libav.rtsp")
        self.sound_refused = False
        self.begin()

    def begin(self) -> None:
        """Forgets what was said in an earlier attempt."""
        self.refused = self.location = ""
        self.redirected = self.set_up_failed = False

    def __enter__(self) -> RtspTalk:
        self._logger.addHandler(self)
        self._logger.setLevel(1)
        self.listen_closely(False)
        return self

    def __exit__(self, *unused: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(logging.NOTSET)
        av.logging.set_level(av.logging.WARNING)

    def listen_closely(self, closely: bool) -> None:
        """Asks libav for every line of an answer, or for descriptions only."""
        av.logging.set_level(av.logging.TRACE if closely else av.logging.VERBOSE)

    def emit(self, record: logging.LogRecord) -> None:
        """Notes one line; called by ``logging``."""
        text = record.getMessage()
        if text.startswith("SDP:"):
            self._description = text.replace("\r", "")
            self._answered()
        elif found := _SETUP.search(text):
            self.set_up_failed = found[1] not in _NOT_ABOUT_TRANSPORT[:2]
            self.refused = "" if found[1] in _NOT_ABOUT_TRANSPORT else found[1]
        elif found := _LOCATION.search(text):
            self.location = found[1]
        elif _REDIRECTED.search(text):
            self.redirected = True

    @property
    def only_sound(self) -> bool:
        """Returns whether the server has described a stream without video."""
        whole = len(self._description) < _KEPT
        return whole and "\nm=audio" in self._description and "\nm=video" not in self._description

    @property
    def with_sound(self) -> bool:
        """Returns whether the server may have described a stream with sound."""
        return "\nm=audio" in self._description or len(self._description) >= _KEPT

    @property
    def codec(self) -> str:
        """The name of the video's codec in the description, or ""."""
        found = _CODEC.search(self._description)
        return found[1] if found else ""


def open_rtsp(arguments: dict[str, Any], talk: RtspTalk) -> tuple[InputContainer, str]:
    """Opens a source by the first of the transports that its server takes, wherever that is.

    Redirects are followed by new connections to an address that was checked, never by libav.

    Returns:
        The source and its transport.

    Raises:
        Ended: It redirects to what it may not, or without an end; or no transport is taken.
        av.error.FFmpegError: Any other failure.
    """
    url, bounds = arguments["url"], Bounds(arguments["url"])
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            return _over_any(url, arguments, talk)
        except av.error.HTTPUnauthorizedError as error:
            raise unauthorized(url) from error
        except av.error.FFmpegError:
            if not talk.redirected:
                raise
        url = _led_to(url, arguments, talk, bounds)
    raise Ended("refused", "it redirects again and again", "name the address of the stream itself")


def unauthorized(url: str) -> Ended:
    """Returns why a server that answers 401 gives no video, and what to do about it."""
    if urlsplit(url).username:
        why = "it does not accept this user name and password (401)"
        return Ended("refused", why, "check them; write %XX for special characters, @ as %40")
    why = "it wants a user name and password (401)"
    return Ended("refused", why, "write them into the address, as in //USER:PASSWORD@HOST")


def _over_any(url: str, arguments: dict[str, Any], talk: RtspTalk) -> tuple[InputContainer, str]:
    if not arguments["sound"]:
        return _over_any_with(_PICTURE, url, arguments, talk)
    try:
        return _over_any_with(_BOTH, url, arguments, talk)
    except (av.error.FFmpegError, Ended):
        if not talk.set_up_failed or not talk.with_sound:
            raise
    opened = _over_any_with(_PICTURE, url, arguments, talk)
    talk.sound_refused = True
    return opened


def _over_any_with(
    media: str, url: str, arguments: dict[str, Any], talk: RtspTalk
) -> tuple[InputContainer, str]:
    transports, options = arguments["transports"], {_MEDIA: media, **arguments["options"]}
    for transport in transports:
        talk.begin()
        try:
            return _open(url, options, transport), transport
        except av.error.FFmpegError:
            if not talk.refused:
                raise
    names = " or ".join(name.upper() for name in transports)
    remedy = "" if len(transports) > 1 else "leave the transport to be found (auto)"
    raise Ended("refused", f"its server does not send over {names} ({talk.refused})", remedy)


def _open(url: str, options: dict[str, str], transport: str) -> InputContainer:
    return av.open(
        url,
        format="rtsp",
        container_options={**options, "rtsp_transport": transport},
        metadata_errors="replace",
    )


def _led_to(url: str, arguments: dict[str, Any], talk: RtspTalk, bounds: Bounds) -> str:
    """Returns the address to which a server redirects, its host as an address that was checked.

    It is asked once more, as libav names the new address only in the log of the whole answer.
    """
    talk.begin()
    talk.listen_closely(True)
    try:
        options = {_MEDIA: _PICTURE, **arguments["options"]}
        _open(url, options, arguments["transports"][0]).close()
    except av.error.FFmpegError:
        pass
    finally:
        talk.listen_closely(False)
    if not talk.location:
        return url  # this time it did not redirect
    try:
        parts = urlsplit(talk.location)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme.lower()]
        found = bounds.resolve(host, port)
    except (KeyError, ValueError, Denied) as error:
        raise Ended(
            "hopeless",
            f"it redirects to {redact(talk.location)}, which a source may not lead to by itself",
            "name that address as the source if you trust it",
        ) from error
    if bounds.names(host):
        given = urlsplit(arguments["url"]).netloc.rpartition("@")
        there = f"{given[0]}{given[1]}{parts.netloc.rpartition('@')[2]}"
    else:  # a password is for the host that it was given for
        address = str(found[0][4][0])
        shown = f"[{address}]" if ":" in address else address
        there = "".join((*parts.netloc.rpartition("@")[:2], f"{shown}:{port}"))
    return parts._replace(netloc=there).geturl()
