"""Parses source addresses, and sets libav's options for each kind of source."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import StreamDiffVSRError, UsageError, option
from ..media.redact import ESCAPES, redact_address, secrets_in
from .relays import Relay, parse_srt

# Options of this package, not of libav.
DECODER_THREADS, LOOP = "decoder_threads", "loop"
RTSP_TRANSPORT = "rtsp_transport"  # libav's

_DEMUXER = "fflags probesize analyzeduration max_delay fpsprobesize use_wallclock_as_timestamps"
_TLS = "tls_verify ca_file cert_file key_file verifyhost"
_HTTP = "user_agent referer headers cookies http_proxy auth_type seekable multiple_requests"
_GRAB = "framerate video_size draw_mouse"

_KNOWN = {
    "rtsp": f"{_DEMUXER} {_TLS} rtsp_transport rtsp_flags allowed_media_types min_port max_port "
    "reorder_queue_size buffer_size pkt_size user_agent",
    "http": f"{_DEMUXER} {_TLS} {_HTTP} strict_mime_boundary",
    "hls": f"{_DEMUXER} {_TLS} {_HTTP} live_start_index max_reload m3u8_hold_counters "
    "http_persistent http_multiple seg_max_retry",
    "rtmp": f"{_DEMUXER} {_TLS} rtmp_app rtmp_playpath rtmp_buffer rtmp_live rtmp_conn "
    "rtmp_flashver rtmp_pageurl rtmp_swfurl rtmp_swfverify rtmp_tcurl rtmp_subscribe tcp_nodelay",
    "udp": f"{_DEMUXER} buffer_size fifo_size overrun_nonfatal localaddr localport pkt_size reuse "
    "ttl sources block",
    "tcp": f"{_DEMUXER} recv_buffer_size tcp_nodelay local_addr local_port",
    "srt": _DEMUXER,
    "webcam": "framerate video_size pixel_format input_format standard channel rtbufsize",
    "screen": f"{_GRAB} grab_x grab_y offset_x offset_y follow_mouse show_region window_id "
    "capture_cursor capture_mouse_clicks",
    "test": "",
    "file": LOOP,
}

_WEB = "http,https,httpproxy,tcp,tls,crypto"
# Demuxers for network sources. Each has its media in itself, except hls, whose parts are limited
# to the same protocols and formats.
_FORMATS = (
    "mpegts,mpjpeg,mjpeg,jpeg_pipe,h264,hevc,vvc,av1,obu,ivf,flv,live_flv,mov,mp4,m4a,3gp,3g2,mj2,"
    "matroska,webm,nut,ogg,asf,mpeg,mpegvideo,m4v,aac,mp3,ac3,eac3,wav,webvtt,rtp,hls"
)
# Nothing waits for frames to find their rate, which libav does for 20 of them. `nobuffer` would
# lose what is read while a source is opened, often its first key frame.
_STREAM = {"fpsprobesize": "0", "probesize": "1000000", "analyzeduration": "500000"}

_DEFAULTS: dict[str, dict[str, str]] = {
    # The session description says what probing would look for: one packet is enough.
    "rtsp": {
        "fpsprobesize": "0",
        "probesize": "32",
        "analyzeduration": "0",
    },
    "http": _STREAM,
    "hls": {"live_start_index": "-1"},  # the newest segment, not the third last
    "rtmp": {**_STREAM, "rtmp_live": "live", "rtmp_buffer": "100"},
    "udp": {**_STREAM, "overrun_nonfatal": "1"},
    "tcp": _STREAM,
    "srt": _STREAM,
}

_BOUNDS: dict[str, dict[str, str]] = {
    "rtsp": {"protocol_whitelist": f"rtp,srtp,udp,{_WEB}"},
    "http": {"protocol_whitelist": _WEB, "format_whitelist": _FORMATS},
    "hls": {"protocol_whitelist": _WEB, "format_whitelist": _FORMATS},
    "rtmp": {
        "protocol_whitelist": f"rtmp,rtmps,rtmpt,rtmpts,rtmpe,rtmpte,ffrtmphttp,ffrtmpcrypt,{_WEB}",
        "format_whitelist": _FORMATS,
    },
    "udp": {"protocol_whitelist": "udp,rtp", "format_whitelist": _FORMATS},
    "tcp": {"protocol_whitelist": "tcp", "format_whitelist": _FORMATS},
    "srt": {"protocol_whitelist": "none", "format_whitelist": "mpegts"},
}


def complete(kind: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Returns the options for libav: the kind's defaults, then the chosen ones, then the bounds.

    Raises:
        UsageError: A name is unknown for this kind; names the nearest known ones.
    """
    known = {*_KNOWN[kind].split(), DECODER_THREADS}
    for name in chosen:
        if name not in known:
            _refuse(name, kind, known)
    own = (DECODER_THREADS, LOOP)
    for_libav = {name: str(value) for name, value in chosen.items() if name not in own}
    return {**_DEFAULTS.get(kind, {}), **for_libav, **_BOUNDS.get(kind, {})}


def _refuse(name: str, kind: str, known: set[str]) -> None:
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
    article = "an" if kind in ("rtsp", "rtmp", "hls") else "a"
    why = f"{article} {kind} source does not have it"
    raise UsageError(f"unknown source option {name!r}", why, hint)


ACCEPTED = (
    "rtsp://, rtsps://, http://, https://, rtmp://, rtmps://, udp://, rtp://, tcp://, srt://, "
    "/dev/video0, webcam:0, webcam:NAME, screen, screen:1, testsrc, testsrc=640x360@30, or a "
    "video file"
)

_KINDS = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "http": "http",
    "https": "http",
    "rtmp": "rtmp",
    "rtmps": "rtmp",
    "udp": "udp",
    "rtp": "udp",
    "tcp": "tcp",
    "srt": "srt",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: C: is a drive
_LISTEN = re.compile(r"[?&]listen(?:=([^&]*))?(?=&|$)")
_PATTERN = re.compile(r"testsrc(?:=(\d{1,5})x(\d{1,5})(?:@(\d{1,3}))?)?")
_MAX_PATTERN_SIDE = 4096
_MAX_THREADS = 64
_CAPTURE = {"linux": "v4l2", "win32": "dshow", "darwin": "avfoundation"}
_GRABBER = {"linux": "x11grab", "win32": "gdigrab", "darwin": "avfoundation"}


@dataclass(frozen=True, slots=True)
class Address:
    """A live source, not yet opened.

    Attributes:
        kind: "rtsp", "http", "rtmp", "udp", "tcp", "srt", "hls", "webcam", "screen", "test" or
            "file".
        url: The URL that libav opens. For a webcam ``name:TEXT`` or, where devices have no
            numbers of their own, ``number:N``; the device is looked up when it is opened.
        format: libav's name of the demuxer, or None if the content decides.
        options: The options for libav.
        shown: The source without credentials, for showing.
        secrets: The credentials in it, which no message may have.
        listens: Whether it waits for a sender instead of connecting, so opening may never end.
        loop: Whether to begin again at the end.
        decoder_threads: The number of decoder threads; 0 lets libav choose.
        transports: The transports of RTSP to try, in this order; empty for any other source.
        relay: What ffmpeg needs to receive it; None if libav receives it.
    """

    kind: str
    url: str = field(repr=False)
    format: str | None
    options: dict[str, str] = field(repr=False)
    shown: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    listens: bool = False
    loop: bool = False
    decoder_threads: int = 0
    transports: tuple[str, ...] = ()
    relay: Relay | None = None


AUTO = "auto"
_TRANSPORTS = {AUTO: ("tcp", "udp"), "tcp": ("tcp",), "udp": ("udp",)}


def rtsp_transports(asked: str) -> tuple[str, ...]:
    """Returns the transports of RTSP to try, in this order.

    Args:
        asked: "tcp" or "udp", or "auto" for TCP and, where a server refuses it, UDP.

    Raises:
        UsageError: It is none of them.
    """
    if asked not in _TRANSPORTS:
        remedy = f"use {option('rtsp_transport', *_TRANSPORTS)}"
        raise UsageError(f"unknown transport of RTSP {asked!r:.60}", remedy=remedy)
    return _TRANSPORTS[asked]


def parse_source(
    text: str, options: Mapping[str, str] | None = None, *, rtsp_transport: str = AUTO
) -> Address:
    """Parses the address of a live source.

    Args:
        text: The source, in one of the forms of ``ACCEPTED``.
        options: libav's options for it by name; also ``decoder_threads`` (a number), and for a
            file ``loop`` (0 or 1).
        rtsp_transport: See `rtsp_transports`; libav's option of that name comes first.

    Raises:
        UsageError: The text has none of these forms, or an option is unknown or invalid.
        StreamDiffVSRError: A file is missing, or this platform has no such device.
    """
    kind, url, form = _recognise(text)
    chosen = dict(options or {})
    transports = rtsp_transports(rtsp_transport)
    if kind == "rtsp" and RTSP_TRANSPORT in chosen:
        transports = (str(chosen[RTSP_TRANSPORT]),)
    completed = complete(kind, chosen)
    if kind == "webcam" and form == "avfoundation":
        completed.setdefault("framerate", "30")  # its own default is one that few cameras have
    relay = None
    if kind == "srt":
        relay = parse_srt(url, f"cannot read from {redact_address(text)!r}", sends=False)
    return Address(
        kind=kind,
        url=url,
        format=form,
        options=completed,
        shown=redact_address(text),
        secrets=secrets_in(text),
        listens=relay.listens
        if relay
        else kind == "udp" or (kind == "tcp" and asks_to_listen(url)),
        loop=bool(_whole(chosen, LOOP, 1)),
        decoder_threads=_whole(chosen, DECODER_THREADS, _MAX_THREADS),
        transports=transports if kind == "rtsp" else (),
        relay=relay,
    )


def _recognise(text: str) -> tuple[str, str, str | None]:
    """Returns the kind, the URL and the format."""
    if text == "testsrc" or text.startswith("testsrc="):
        return "test", _pattern(text), "lavfi"
    if text == "screen" or text.startswith("screen:"):
        return "screen", *_screen(text)
    if text.startswith("webcam:"):
        return "webcam", *_webcam(text)
    if re.fullmatch(r"/dev/video\d+", text):
        return "webcam", text, "v4l2"
    scheme = _SCHEME.match(text)
    if scheme and ("://" in text or not _exists(text)):
        return _network(text, scheme[1].lower())
    return "file", _file(text), None


def _network(text: str, scheme: str) -> tuple[str, str, str | None]:
    shown = redact_address(text)
    if scheme not in _KINDS or "://" not in text:
        raise UsageError(f"cannot read from {shown!r}", f"accepted are {ACCEPTED}")
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in text):
        raise UsageError(f"cannot read from {shown!r}", "there is a space in it", "write it as %20")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(
            f"cannot read from {shown!r}",
            "its host or port is not one",
            ESCAPES,
        ) from error
    listens = scheme in ("udp", "rtp", "tcp", "srt") and parts.port is not None
    if not host and not listens:
        raise UsageError(f"cannot read from {shown!r}", "it names no host")
    kind = _KINDS[scheme]
    if kind == "http" and parts.path.lower().endswith((".m3u8", ".m3u")):
        return "hls", text, "hls"
    return kind, text, {"rtsp": "rtsp", "rtmp": "flv", "srt": "mpegts"}.get(kind)


def asks_to_listen(url: str) -> bool:
    """Returns whether an address has `listen`, which libav takes without a value, too."""
    return any(value != "0" for value in _LISTEN.findall(url))


def _pattern(text: str) -> str:
    match = _PATTERN.fullmatch(text)
    width, height, fps = (int(group or 0) for group in match.groups()) if match else (0, 0, 0)
    if not match or (match[1] and not (width and height)) or (match[3] and not fps):
        raise UsageError(f"not a test pattern: {text!r}", "", "write it as testsrc=640x360@30")
    if max(width, height) > _MAX_PATTERN_SIDE:
        raise UsageError(f"not a test pattern: {text!r}", f"at most {_MAX_PATTERN_SIDE} a side")
    return f"testsrc2=size={width or 640}x{height or 360}:rate={fps or 30},realtime"


def _webcam(text: str) -> tuple[str, str]:
    name = text.partition(":")[2].strip()
    form = _CAPTURE.get(sys.platform)
    if not name:
        raise UsageError("which webcam?", "", "write webcam:0, or webcam: and a part of its name")
    if form is None:
        raise StreamDiffVSRError(f"cannot read from {text!r}", f"not known for {sys.platform}")
    if not name.isdecimal():
        return f"name:{name}", form
    return {"v4l2": f"/dev/video{int(name)}", "dshow": f"number:{int(name)}"}.get(
        form, f"{int(name)}:none"
    ), form


def _screen(text: str) -> tuple[str, str]:
    number = text.partition(":")[2] or "0"
    form = _GRABBER.get(sys.platform)
    if not number.isdecimal():
        raise UsageError(f"not a screen: {text!r}", "", "write screen, or screen:1")
    if form == "avfoundation":
        return f"Capture screen {int(number)}:none", form
    if form == "gdigrab" and int(number) == 0:
        return "desktop", form
    display = os.environ.get("DISPLAY", "")
    if form == "x11grab" and display:
        return re.sub(r"\.\d+$", "", display) + f".{int(number)}", form
    why = {
        "x11grab": "there is no X display here (DISPLAY is not set)",
        "gdigrab": "only the whole desktop can be read here",
    }.get(form or "", f"not known for {sys.platform}")
    raise StreamDiffVSRError(f"cannot read from {text!r}", why)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _file(text: str) -> str:
    path, shown = Path(text), redact_address(text)
    if text and _exists(text):
        return str(path.absolute())
    if len(path.parts) <= 1 and not path.suffix:
        raise UsageError(f"cannot read from {shown!r}", f"accepted are {ACCEPTED}")
    raise StreamDiffVSRError(
        f"could not read {shown!r}", "there is no such file", "check its name and folder"
    )


def _whole(options: Mapping[str, str], name: str, largest: int) -> int:
    text = str(options.get(name, "0"))
    if not text.isdecimal() or int(text) > largest:
        raise UsageError(f"{name}={text}", f"it is a whole number from 0 to {largest}")
    return int(text)
