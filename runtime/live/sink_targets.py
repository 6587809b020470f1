"""Parses and checks the places for output before anything is opened.

It looks at names, folders and existing files only. An address is shown without its credentials.
Each of its secrets is known by itself, so that it can be removed from any text.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ...durable import beside
from ...errors import StreamDiffVSRError, UsageError, option
from ..media.encoders import H264_CONTAINERS as CONTAINERS
from ..media.preflight import check_output
from ..media.redact import HIDDEN, redact

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NUMBER = re.compile(r"%0?(\d*)d")
_NETWORK = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "rtmp": "flv",
    "rtmps": "flv",
    "udp": "mpegts",
    "tcp": "mpegts",
}
_IMAGES = {".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}
_DATAGRAM_BYTES = 1316  # seven packets of a transport stream
_SHORTEST_SECRET = 4  # a shorter one would be found in ordinary words
ACCEPTED = (
    f"a file ({', '.join(CONTAINERS)}), FILE.m3u8, FOLDER/, FOLDER/%06d.png or .jpg, "
    f"{', '.join(f'{scheme}://' for scheme in _NETWORK)}, or null"
)


@dataclass(frozen=True, slots=True)
class Target:
    """The place to which one sink writes.

    Attributes:
        kind: "file", "hls", "images", "network" or "null".
        where: The address, or the absolute path; of images with the place of the number.
        format: libav's name of the muxer, or of the encoder of images.
        shown: The address without credentials, for showing.
        secrets: The parts of the address that must not be shown.
    """

    kind: str
    where: str = dataclasses.field(repr=False)
    format: str
    shown: str
    overwrite: bool = False
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def failure(self) -> str:
        """The beginning of an error message about it."""
        return f"could not {'send to' if self.kind == 'network' else 'write'} {self.shown!r}"

    @property
    def listens(self) -> bool:
        """Whether it waits for a receiver instead of calling one."""
        query = parse_qsl(urlsplit(self.where).query) if self.kind == "network" else []
        return any(key == "listen" and value != "0" for key, value in query)

    def clean(self, text: str) -> str:
        """Returns the text in one line, without the secrets of the address."""
        text = redact(" ".join(text.split()))
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def next_file(self) -> Path:
        """Returns the first of NAME-2, NAME-3, ... that does not exist yet."""
        path, number = Path(self.where), 2
        while (later := beside(path.with_suffix(""), after=f"-{number}{path.suffix}")).exists():
            number += 1
        return later


def parse_target(text: str, *, overwrite: bool = False) -> Target:
    """Parses a target and checks that it can be written.

    Raises:
        UsageError: It is no known kind of output.
        StreamDiffVSRError: Its folder is missing or not writable, or it exists and may not be
            overwritten.
    """
    if text == "null":
        return Target("null", "", "null", "null")
    scheme = _SCHEME.match(text)
    if scheme:
        return _network(text, scheme[1].lower())
    if not text.strip():
        raise UsageError("an empty name is no output", remedy=f"use {ACCEPTED}")
    path = Path(text)
    if text.endswith(("/", os.sep)) or path.is_dir():
        return _images(path / "%06d.png", text, overwrite)
    ending = path.suffix.lower()
    if ending in _IMAGES:
        return _images(path, text, overwrite)
    if ending == ".m3u8":
        _check_playlist(path, text, overwrite)
        return Target("hls", str(path.absolute()), "hls", text, overwrite)
    if ending not in CONTAINERS:
        raise UsageError(
            f"{redact(text)!r} is no output", "its ending is unknown", f"use {ACCEPTED}"
        )
    check_output(path, overwrite=overwrite)
    return Target("file", str(path.absolute()), CONTAINERS[ending], text, overwrite)


def _network(text: str, scheme: str) -> Target:
    shown = redact(text)
    wrong = f"{shown!r} is no output"
    if scheme == "srt":
        remedy = "send to udp://127.0.0.1:PORT, and let a program with SRT pass that on"
        raise UsageError(wrong, "libav is built without SRT here", remedy)
    if scheme not in _NETWORK:
        raise UsageError(wrong, f"nothing is sent to {scheme}://", f"use {ACCEPTED}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(wrong, "its host or port has no meaning") from error
    if not host and scheme != "tcp":
        raise UsageError(wrong, "it names no host")
    if port is None and scheme in ("udp", "tcp"):
        raise UsageError(wrong, "it names no port", f"write {scheme}://HOST:PORT")
    where = text
    if scheme == "udp" and "pkt_size=" not in parts.query:
        where += f"{'&' if parts.query else '?'}pkt_size={_DATAGRAM_BYTES}"
    return Target("network", where, _NETWORK[scheme], shown, secrets=_secrets(parts))


def _secrets(parts: SplitResult) -> tuple[str, ...]:
    """Returns each part of an address that ``redact`` hides, as written and decoded."""
    found = [parts.password or ""]
    if parts.scheme.lower().startswith("rtmp"):
        found.append(parts.path.rpartition("/")[2])
        found.append(f"{found[-1]}?{parts.query}" if parts.query else "")
    shown = dict(parse_qsl(urlsplit(redact(parts.geturl())).query))
    found += [value for key, value in parse_qsl(parts.query) if shown.get(key) != value]
    found += [unquote(secret) for secret in found]
    long_enough = {secret for secret in found if len(secret) >= _SHORTEST_SECRET}
    return tuple(sorted(long_enough, key=len, reverse=True))


def _images(path: Path, text: str, overwrite: bool) -> Target:
    failure = f"could not write {text!r}"
    name, ending = path.name, path.suffix.lower()
    places = _NUMBER.findall(name)
    if ending not in _IMAGES:
        raise UsageError(
            f"{redact(text)!r} is no output", "its ending is unknown", f"use {ACCEPTED}"
        )
    if len(places) != 1 or "%" in _NUMBER.sub("", name):
        why = "the name of the images needs one place for their number"
        raise UsageError(
            f"{redact(text)!r} is no output", why, f"use {path.stem}-%06d{path.suffix}"
        )
    folder = path.absolute().parent
    if folder.exists() and not folder.is_dir():
        raise StreamDiffVSRError(failure, f"{str(folder)!r} is not a folder")
    _check_folder(folder if folder.exists() else folder.parent, failure)
    before, after = (re.escape(part) for part in _NUMBER.split(name)[::2])
    matches = re.compile(rf"{before}\d+{after}").fullmatch
    _check_free(failure, overwrite, lambda: folder.is_dir() and any_match(folder, matches))
    return Target("images", str(folder / name), _IMAGES[ending], text, overwrite)


def any_match(folder: Path, matches: Callable[[str], object]) -> bool:
    """Returns whether a name in the folder matches."""
    with os.scandir(folder) as entries:
        return any(matches(entry.name) for entry in entries)


def _check_playlist(path: Path, text: str, overwrite: bool) -> None:
    failure = f"could not write {text!r}"
    _check_folder(path.absolute().parent, failure)
    _check_free(failure, overwrite, path.exists)


def _check_folder(folder: Path, failure: str) -> None:
    if not folder.is_dir():
        raise StreamDiffVSRError(failure, f"there is no folder {str(folder)!r}", "create it first")
    if not os.access(folder, os.W_OK):
        raise StreamDiffVSRError(failure, f"no permission to write in {str(folder)!r}")


def _check_free(failure: str, overwrite: bool, taken: Callable[[], bool]) -> None:
    if not overwrite and taken():
        raise StreamDiffVSRError(
            failure, "it already exists", f"choose another name, or {option('overwrite', True)}"
        )
