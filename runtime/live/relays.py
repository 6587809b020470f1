"""Parses the addresses that an ffmpeg process serves: SRT and WHIP, which libav here lacks."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ...errors import UsageError
from ..media.redact import ESCAPES, redact_address
from .ffmpeg import SRT, WHIP, ffmpeg_with

WHIP_SCHEMES = {"whip": "http", "whips": "https", "whip+http": "http", "whip+https": "https"}
_MODES = ("caller", "listener", "rendezvous")
_NUMBERS = (
    *("latency", "rcvlatency", "peerlatency", "connect_timeout"),
    *("pbkeylen", "maxbw", "inputbw", "oheadbw"),
    *("mss", "ffs", "ipttl", "iptos"),
    *("sndbuf", "rcvbuf", "lossmaxttl", "tlpktdrop"),
    *("nakreport", "kmrefreshrate", "kmpreannounce", "pkt_size"),
)
_LATENCIES = ("latency", "rcvlatency", "peerlatency")
# ffmpeg has another option of its own that is named streamid.
_SECRETS = {"passphrase": "passphrase", "streamid": "srt_streamid"}
_PASSPHRASE = range(10, 80)
_STREAM_ID = range(1, 513)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Relay:
    """An address for ffmpeg, not yet opened.

    Attributes:
        program: The path of ffmpeg.
        part: ``SRT`` or ``WHIP``.
        url: The address without credentials: srt://HOST:PORT, or that of a WHIP server.
        options: The options of SRT that are no secrets, by their names in ffmpeg.
        secrets: Those that are.
        authorization: The header of that name for a WHIP server, or "".
    """

    program: str
    part: str
    url: str = field(repr=False)
    options: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    authorization: str = field(default="", repr=False)

    @property
    def listens(self) -> bool:
        """Returns whether it waits for its peer, so that opening may never end."""
        return self.options.get("mode") == "listener"

    def arguments(self) -> dict[str, Any]:
        """Returns it in a form for a child process."""
        return asdict(self)


def parse_srt(text: str, failure: str, *, sends: bool) -> Relay:
    """Parses srt://HOST:PORT?mode=...&latency=...&passphrase=...&streamid=... .

    Args:
        text: The address. Times are in microseconds, as in ffmpeg and OBS.
        failure: The beginning of an error message.
        sends: Whether it is an output.

    Raises:
        UsageError: The address has no meaning.
        StreamDiffVSRError: No ffmpeg that is installed can serve it.
    """
    parts, port = _split(text, failure)
    if parts.username or parts.password:
        why = "SRT has no user names"
        raise UsageError(failure, why, "write ?passphrase= and, if the server wants it, &streamid=")
    if port is None:
        raise UsageError(failure, "it names no port", "write srt://HOST:PORT")
    options, secrets = _srt_options(parts.query, failure)
    if not parts.hostname and options.get("mode") != "listener":
        raise UsageError(failure, "it names no host", "write srt://:PORT?mode=listener to listen")
    program = ffmpeg_with(SRT, failure, preset=sends and bool(secrets))
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return Relay(program, SRT, f"srt://{host}:{port}", options, secrets)


def parse_whip(text: str, failure: str) -> Relay:
    """Parses whip://, whips://, whip+http:// or whip+https://TOKEN@HOST/PATH.

    TOKEN is sent as a bearer token, and USER:PASSWORD in its place as HTTP's basic authentication.

    Raises:
        UsageError: The address has no meaning.
        StreamDiffVSRError: No ffmpeg that is installed has WHIP.
    """
    parts, _ = _split(text, failure)
    if not parts.hostname:
        raise UsageError(failure, "it names no host")
    scheme = WHIP_SCHEMES[parts.scheme.lower()]
    user, _, where = parts.netloc.rpartition("@")
    url = parts._replace(scheme=scheme, netloc=where, path=parts.path or "/", fragment="").geturl()
    return Relay(ffmpeg_with(WHIP, failure), WHIP, url, authorization=_authorization(user))


def _split(text: str, failure: str) -> tuple[SplitResult, int | None]:
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in text):
        raise UsageError(failure, "there is a space in it", "write it as %20")
    try:
        parts = urlsplit(text)
        return parts, parts.port
    except ValueError as error:
        raise UsageError(failure, "its host or port has no meaning", ESCAPES) from error


def _authorization(user: str) -> str:
    if not user:
        return ""
    decoded = unquote(user)
    if _CONTROL.search(decoded):
        return ""
    if ":" not in user:
        return f"Bearer {decoded}"
    return f"Basic {base64.b64encode(decoded.encode()).decode()}"


def _srt_options(query: str, failure: str) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the options of an address, and its secrets, by their names in ffmpeg."""
    options: dict[str, str] = {}
    secrets: dict[str, str] = {}
    # A plus sign in a passphrase is a plus sign: this is no form of a web page.
    for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if name in _SECRETS:
            _check_secret(name, value, failure)
            secrets[_SECRETS[name]] = value
        elif name == "mode" and value in _MODES:
            options[name] = value
        elif name in _NUMBERS and re.fullmatch(r"-?\d{1,12}", value):
            _check_latency(name, int(value), failure)
            options[name] = value
        else:
            _refuse(name, value, failure)
    return options, secrets


def _check_secret(name: str, value: str, failure: str) -> None:
    allowed = _PASSPHRASE if name == "passphrase" else _STREAM_ID
    if len(value.encode()) not in allowed or _CONTROL.search(value):
        why = f"{name} has {allowed[0]} to {allowed[-1]} characters in SRT"
        raise UsageError(failure, why, ESCAPES)


def _check_latency(name: str, value: int, failure: str) -> None:
    if name in _LATENCIES and 0 < value < 1000:
        why = f"{name}={value} would be {value} microseconds"
        raise UsageError(failure, why, f"write {name}={value}000 for {value} ms")


def _refuse(name: str, value: str, failure: str) -> None:
    if name == "mode":
        raise UsageError(
            failure, f"there is no mode {redact_address(value)!r:.40}", _either(_MODES)
        )
    if name in _NUMBERS:
        raise UsageError(failure, f"{name} is a number")
    known: Mapping[str, object] = dict.fromkeys(("mode", *_SECRETS, *_NUMBERS))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    raise UsageError(failure, f"SRT has no option {name!r:.40}", hint)


def _either(names: tuple[str, ...]) -> str:
    return f"use {', '.join(names[:-1])} or {names[-1]}"
