"""The table of the kinds of sinks; parses and checks places for output before they are opened.

It looks at names, folders and existing files only. An address is shown without its credentials.
Each of its secrets is known by itself, so that it can be removed from any text.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from ...durable import beside
from ...engines.plugins import plugins
from ...errors import StreamDiffVSRError, UsageError
from ..media.encoders import H264_CONTAINERS as CONTAINERS
from ..media.preflight import already_there, check_folder, check_output
from ..media.redact import ESCAPES, hide, redact_address, secrets_in
from .addresses import asks_to_listen
from .frame import NullSink, OutputFrame, Sink
from .relays import WHIP_SCHEMES, Relay, parse_srt, parse_whip

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
_IMAGE_NAME = "%06d.png"
_DATAGRAM_BYTES = 1316  # seven packets of a transport stream
GROUP = "streamdiffvsr_sinks"


@dataclass(frozen=True, slots=True)
class Target:
    """The place to which one sink writes.

    Attributes:
        kind: The name of its `SinkKind`: "file", "hls", "images", "network", "null" or another.
        where: The address, or the absolute path; of images with the place of the number.
        format: libav's name of the muxer, or of the encoder of images.
        shown: The address without credentials, for showing.
        secrets: The parts of the address that must not be shown.
        transports: The transports of RTSP to try, in this order; of no meaning for others.
        relay: What ffmpeg needs to send to it; None if libav sends.
    """

    kind: str
    where: str = dataclasses.field(repr=False)
    format: str
    shown: str
    overwrite: bool = False
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    transports: tuple[str, ...] = ("tcp", "udp")
    relay: Relay | None = None

    @property
    def traits(self) -> SinkKind:
        """The row of its kind."""
        return SINKS[self.kind]

    @property
    def failure(self) -> str:
        """The beginning of an error message about it."""
        return f"could not {'send to' if self.traits.remote else 'write'} {self.shown!r}"

    @property
    def listens(self) -> bool:
        """Returns whether it waits for a receiver instead of calling one."""
        if self.relay:
            return self.relay.listens
        return self.traits.remote and asks_to_listen(self.where)

    def clean(self, text: str) -> str:
        """Returns the text in one line, without the secrets of the address."""
        return hide(" ".join(text.split()), self.secrets)

    def next_file(self) -> Path:
        """Returns the first of NAME-2, NAME-3, ... that does not exist yet."""
        path, number = Path(self.where), 2
        while (later := beside(path.with_suffix(""), after=f"-{number}{path.suffix}")).exists():
            number += 1
        return later


class FrameWriter(Protocol):
    """The writer that a registered kind of sink opens; called from one thread of this process."""

    def write(self, frame: OutputFrame) -> None:
        """Writes one frame; any error closes it, and the target is opened again after a pause."""

    def close(self) -> None:
        """Finishes what was written."""


@dataclass(frozen=True, slots=True)
class SinkKind:
    """One kind of place for output.

    Attributes:
        name: The `kind` of its targets.
        parse: (text, whether to overwrite) -> the target, or None if the text is of another kind.
            Raises an error if it is of this kind and cannot be written.
        accepts: What its targets look like, for messages.
        help: The same for the help of `--to`; may be shorter.
        crf: The quality of x264: a lower number is better.
        remote: Whether it is a receiver on a network, which may fail and come back.
        one_file: Whether each opening writes a file of its own, whose time begins at 0.
        numbered: Whether each frame is a file of its own.
        codecs: The codecs that its receivers take, by libav's names; empty for all that its
            container holds.
        open: Opens a target for frames in this process; None if a child process encodes them.
        sink: Makes the whole sink, without a thread or reopening; None for the usual one.
    """

    name: str
    parse: Callable[[str, bool], Target | None]
    accepts: str
    help: str = ""
    crf: int = 0
    remote: bool = False
    one_file: bool = False
    numbered: bool = False
    codecs: tuple[str, ...] = ()
    open: Callable[[Target], FrameWriter] | None = None
    sink: Callable[[Target], Sink] | None = None


SINKS: dict[str, SinkKind] = {}


def register(kind: SinkKind) -> None:
    """Adds a kind of sink, or replaces the one of that name; the last one is asked first.

    It is known in this process. For the command line, name it in the entry-point group
    `streamdiffvsr_sinks` of an installed package.
    """
    SINKS.pop(kind.name, None)
    SINKS[kind.name] = kind


def accepted(*, short: bool = False) -> str:
    """Returns what all kinds accept, in one line; short as in the help of `--to`."""
    *first, last = [kind.help if short and kind.help else kind.accepts for kind in SINKS.values()]
    return f"{', '.join(first)}, or {last}"


def parse_target(text: str, *, overwrite: bool = False) -> Target:
    """Parses a target and checks that it can be written.

    Raises:
        UsageError: It is no known kind of output.
        StreamDiffVSRError: Its folder is missing or not writable, or it exists and may not be
            overwritten.
    """
    for kind in reversed(SINKS.values()):
        if (target := kind.parse(text, overwrite)) is not None:
            return target
    if not text.strip():
        raise UsageError("an empty name is no output", remedy=f"use {accepted()}")
    scheme = _SCHEME.match(text)
    why = f"nothing is sent to {scheme[1].lower()}://" if scheme else "its ending is unknown"
    raise UsageError(f"{redact_address(text)!r} is no output", why, f"use {accepted()}")


def _path(text: str) -> Path | None:
    """Returns the path that a text is, or None if it is an address or empty."""
    return None if _SCHEME.match(text) or not text.strip() else Path(text)


def _file(text: str, overwrite: bool) -> Target | None:
    path = _path(text)
    if path is None or path.suffix.lower() not in CONTAINERS:
        return None
    check_output(path, overwrite=overwrite)
    muxer = CONTAINERS[path.suffix.lower()]
    return Target("file", str(path.absolute()), muxer, text, overwrite)


def _hls(text: str, overwrite: bool) -> Target | None:
    path = _path(text)
    if path is None or path.suffix.lower() != ".m3u8":
        return None
    failure = f"could not write {redact_address(text)!r}"
    check_folder(path.absolute().parent, failure)
    if not overwrite and path.exists():
        raise already_there(failure)
    return Target("hls", str(path.absolute()), "hls", text, overwrite)


def _network(text: str, overwrite: bool) -> Target | None:
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else ""
    shown = redact_address(text)
    wrong = f"{shown!r} is no output"
    if scheme not in _NETWORK:
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(wrong, "its host or port has no meaning", ESCAPES) from error
    if not host and scheme != "tcp":
        raise UsageError(wrong, "it names no host")
    if port is None and scheme in ("udp", "tcp"):
        raise UsageError(wrong, "it names no port", f"write {scheme}://HOST:PORT")
    where = text
    if scheme == "udp" and "pkt_size=" not in parts.query:
        where += f"{'&' if parts.query else '?'}pkt_size={_DATAGRAM_BYTES}"
    return Target("network", where, _NETWORK[scheme], shown, secrets=secrets_in(text))


def _srt(text: str, overwrite: bool) -> Target | None:
    found = _SCHEME.match(text)
    if not found or found[1].lower() != "srt":
        return None
    relay = parse_srt(text, f"could not send to {redact_address(text)!r}", sends=True)
    return _relayed("srt", text, relay)


def _whip(text: str, overwrite: bool) -> Target | None:
    found = _SCHEME.match(text)
    if not found or found[1].lower() not in WHIP_SCHEMES:
        return None
    return _relayed("whip", text, parse_whip(text, f"could not send to {redact_address(text)!r}"))


def _relayed(kind: str, text: str, relay: Relay) -> Target:
    shown, secrets = redact_address(text), secrets_in(text)
    return Target(kind, text, "nut", shown, secrets=secrets, relay=relay)


def _camera(text: str, overwrite: bool) -> Target | None:
    scheme, _, device = text.partition(":")
    if scheme != "v4l2":
        return None
    failure = f"could not write {text!r}"
    if sys.platform != "linux":
        raise StreamDiffVSRError(failure, "virtual cameras are of Linux only")
    if not os.path.isabs(device):
        raise UsageError(failure, "it names no device", "write v4l2:/dev/video9")
    return Target("camera", device, "rawvideo", text)


def _images(text: str, overwrite: bool) -> Target | None:
    path = _path(text)
    if path is None:
        return None
    if text.endswith(("/", os.sep)) or path.is_dir():
        path /= _IMAGE_NAME
    name, ending = path.name, path.suffix.lower()
    if ending not in _IMAGES:
        return None
    failure, places = f"could not write {redact_address(text)!r}", _NUMBER.findall(name)
    if len(places) != 1 or "%" in _NUMBER.sub("", name):
        why = "the name of the images needs one place for their number"
        raise UsageError(
            f"{redact_address(text)!r} is no output", why, f"use {path.stem}-%06d{path.suffix}"
        )
    folder = path.absolute().parent
    check_folder(folder if folder.exists() else folder.parent, failure)
    before, after = (re.escape(part) for part in _NUMBER.split(name)[::2])
    matches = re.compile(rf"{before}\d+{after}").fullmatch
    if not overwrite and folder.is_dir() and any_match(folder, matches):
        raise already_there(failure)
    return Target("images", str(folder / name), _IMAGES[ending], text, overwrite)


def unused_name(text: str) -> str:
    """Returns a target, under the first free name of NAME-2, NAME-3, ... if it exists.

    That is for recordings: video files, and folders of images that are not empty. Anything else is
    returned as it is.
    """
    path = _path(text)
    if path is None:
        return text
    if path.suffix.lower() in CONTAINERS:
        return str(_unused(path, path.exists))
    folder = path.parent if path.suffix.lower() in _IMAGES else path
    if path.suffix.lower() not in _IMAGES and not text.endswith(("/", os.sep)):
        return text
    free = _unused(folder, lambda: folder.is_dir() and any_match(folder, bool))
    return f"{free}{os.sep}{path.name if folder is not path else ''}"


def place_of(text: str) -> str:
    """Returns what is equal for two targets that would write to one place.

    For files and folders that is the path without links.
    """
    path = _path(text)
    if path is None or text == "null":
        return text
    real = os.path.realpath(text.removeprefix("v4l2:"))
    folder = text.endswith(("/", os.sep)) or os.path.isdir(real)
    return os.path.join(real, _IMAGE_NAME) if folder else real


def _unused(path: Path, taken: Callable[[], bool]) -> Path:
    number, free = 1, path
    while taken() if free is path else free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def any_match(folder: Path, matches: Callable[[str], object]) -> bool:
    """Returns whether a name in the folder matches."""
    with os.scandir(folder) as entries:
        return any(matches(entry.name) for entry in entries)


def _null(text: str, overwrite: bool) -> Target | None:
    return Target("null", "", "null", "null") if text == "null" else None


for _kind in (
    SinkKind(
        "file", _file, f"a file ({', '.join(CONTAINERS)})", "a video file", crf=20, one_file=True
    ),
    SinkKind("hls", _hls, "FILE.m3u8", "NAME.m3u8", crf=22),
    SinkKind("images", _images, "FOLDER/, FOLDER/%06d.png or .jpg", "a FOLDER/", numbered=True),
    SinkKind(
        "network",
        _network,
        ", ".join(f"{scheme}://" for scheme in _NETWORK),
        "rtsp://, rtmp://, udp://, tcp://",
        crf=23,
        remote=True,
    ),
    SinkKind("srt", _srt, "srt://", crf=23, remote=True),
    SinkKind(
        "whip", _whip, "whip://, whips://", "whip://", crf=23, remote=True, codecs=("h264", "opus")
    ),
    SinkKind("camera", _camera, "v4l2:/dev/video9", "v4l2:DEVICE"),
    SinkKind("null", _null, "null", sink=lambda target: NullSink()),
    *plugins(GROUP),
):
    register(_kind)


class InProcess:
    """One opening of a target; it has the methods of a `SinkProcess`, and no deadlines.

    Args:
        target: The place to write to; its kind has `open`.
        size: The size (H, W) of the frames.
    """

    def __init__(self, target: Target, size: tuple[int, int]) -> None:
        self.size, self.path, self.transport = size, Path(target.where), ""
        self._target = target
        self._writer: FrameWriter | None = None
        self._busy = threading.Lock()

    def open(self) -> str:
        """Opens the target; returns an empty string, as no encoder is in use.

        Raises:
            StreamDiffVSRError: It could not be opened.
        """
        opener: Callable[[Target], FrameWriter] | None = self._target.traits.open
        assert opener is not None
        with self._reporting():
            self._writer = opener(self._target)
        return ""

    def write(self, frame: OutputFrame, ticks: int) -> None:
        """Writes one frame.

        Raises:
            StreamDiffVSRError: It was not written.
        """
        with self._reporting():
            if self._writer is None:
                raise StreamDiffVSRError(self._target.failure, "it is closed")
            self._writer.write(frame)

    def finish(self) -> None:
        """Closes the target.

        Raises:
            StreamDiffVSRError: The output is not finished.
        """
        with self._reporting():
            self._close()

    def kill(self) -> None:
        """Closes the target, unless a call is under way, which nothing can end; never raises."""
        if self._busy.acquire(blocking=False):
            try:
                self._close()
            except Exception:  # the failure that led here is reported already
                self._writer = None
            finally:
                self._busy.release()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Holds the lock, and turns any failure into an error of the target."""
        with self._busy:
            try:
                yield
            except StreamDiffVSRError:
                raise
            except Exception as error:  # it is another package's code
                why = f"{type(error).__name__}: {error}"
                raise StreamDiffVSRError(self._target.failure, why) from error
