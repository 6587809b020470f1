"""Describes what each container of the corpus can hold, and how fine its clock is.

Which encoders and sounds go into it is asked of libav, but where its answer is "anything".
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

# Not of use here: for hardware, for no picture at all, or for what no decoder reads back.
_UNUSED = re.compile(
    r".*_(amf|nvenc|qsv|v4l2m2m|vaapi|omx|mf|vulkan|videotoolbox)$"
    r"|a64multi5?|vnull|anull|wrapped_avframe|xface|comfortnoise|vbn|prores_aw|bitpacked|cljr"
    r"|vp8|vp9|av1|h264|hevc|dirac|msmpeg4|exr|libopencore.*|ac3_fixed|mp2fixed|mp3|rv20"
)

_PIXELS = re.compile(
    r"(yuvj?(420|422|444|440|411|410)p|yuva4(20|22|44)p|gbra?p|gray|ya|rgb|bgr)(8|10|12|16)?(le|be)?"
    r"|rgb24|bgr24|rgba|bgra|argb|abgr|bgr0|rgb48le|rgba64le|pal8|rgb555le|rgb555be|rgb565le|nv12|monob"
)
_RAW = ("yuv420p", "uyvy422", "rgb24", "bgra", "gray", "yuv422p10le", "nv12", "rgb555le")


@dataclass(frozen=True)
class Container:
    """A kind of file.

    Attributes:
        muxer: libav's name of it.
        tick: Seconds per tick of its clock; 0 where the stream has a say, None where it has none.
        times: "any", "rate" (a steady one), "film" (a steady one of 24, 25, 29.97 and 30), or
            "none": there are no times in it, and players count.
        encoders, sounds: libav's names; None to ask.
    """

    muxer: str
    tick: Fraction | None = Fraction(0)
    times: str = "any"
    encoders: tuple[str, ...] | None = None
    sounds: tuple[str, ...] | None = None


_MS, _90K, _FREE = Fraction(1, 1000), Fraction(1, 90000), Fraction(0)
_MPEG_SOUNDS = ("mp2", "ac3", "libmp3lame")

CONTAINERS = {
    "mp4": Container("mp4"),
    "mov": Container("mov"),
    "m4v": Container("ipod"),
    "3gp": Container("3gp"),
    "f4v": Container("f4v"),
    "mkv": Container("matroska", _MS),
    "webm": Container("webm", _MS),
    "nut": Container("nut"),
    "flv": Container("flv", _MS),
    "wmv": Container("asf", _MS),
    "rm": Container("rm", _MS, "rate"),
    "ivf": Container("ivf"),
    "avi": Container("avi", _FREE, "rate"),
    "ts": Container(
        "mpegts",
        _90K,
        encoders=("libx264", "libx265", "mpeg2video", "mpeg1video", "mpeg4", "vc2"),
        sounds=("aac", "libmp3lame", "mp2", "ac3", "eac3", "libopus", "+s302m", "+truehd", "+dca"),
    ),
    "m2ts": Container(
        "mpegts", _90K, encoders=("libx264", "mpeg2video"), sounds=("ac3", "pcm_bluray")
    ),
    "mpg": Container("mpeg", _90K, "film", ("mpeg1video", "mpeg2video"), _MPEG_SOUNDS),
    "vob": Container("vob", _90K, "film", ("mpeg2video",), ("mp2", "ac3", "pcm_dvd")),
    "ogv": Container(
        "ogg", _FREE, "rate", ("+libtheora", "libvpx"), ("+libvorbis", "flac", "+libspeex")
    ),
    "mxf": Container(
        "mxf",
        _FREE,
        "film",
        ("mpeg2video", "jpeg2000", "libx264", "prores_ks"),
        ("pcm_s16le", "pcm_s24le"),
    ),
    "gxf": Container("gxf", _FREE, "film", ("mpeg2video",), ("pcm_s16le",)),
    "wtv": Container("wtv", encoders=("mpeg2video", "libx264"), sounds=_MPEG_SOUNDS),
    "swf": Container("swf", None, "rate", ("flv", "mjpeg"), ("libmp3lame",)),
    "dv": Container("dv", None, "film", ("dvvideo",), ("pcm_s16le",)),
    "roq": Container("roq", None, "rate", ("roqvideo",), ("roq_dpcm",)),
    "smjpeg": Container("smjpeg", _MS),
    "y4m": Container("yuv4mpegpipe", None, "rate", ("rawvideo",), ()),
    "h264": Container("h264", None, "none"),
    "hevc": Container("hevc", None, "none"),
    "m2v": Container("mpeg2video", None, "none", sounds=()),
    "mjpeg": Container("mjpeg", None, "none"),
    "obu": Container("obu", None, "none"),
    "gif": Container("gif", Fraction(1, 100)),
    "apng": Container("apng"),
    "avif": Container("avif", encoders=("libsvtav1",), sounds=()),
}
# Further encoders, of the command line of ffmpeg; "+" marks them.
_BY_FFMPEG = {
    "mkv": (("+libtheora",), ("+truehd", "+dca", "+mlp", "+libvorbis", "+libspeex")),
    "mov": (("+hap",), ()),
    "avi": (("+libxvid",), ("+dca", "+libgsm_ms")),
    "webm": ((), ("+libvorbis",)),
    "nut": ((), ("+libspeex",)),
    "flv": ((), ("+libspeex",)),
}


_REFUSED = {
    "mov": ("flac", "opus", "libopus"),
    "mp4": ("pcm_",),
    "flv": ("pcm_u8", "pcm_s16be", "flac", "opus", "libopus", "ac3", "eac3"),
}


@functools.cache
def encoders_in(suffix: str) -> tuple[str, ...]:
    """The encoders whose pictures go into such a file."""
    kind = CONTAINERS[suffix]
    names = kind.encoders or _asked(kind.muxer, "video")
    if suffix == "mkv":  # what it says of this one is not so
        names = tuple(name for name in names if name != "rv10")
    names += _BY_FFMPEG.get(suffix, ((), ()))[0]
    return tuple(name for name in names if _is_there(name))


@functools.cache
def sounds_in(suffix: str) -> tuple[str, ...]:
    """The encoders whose sounds go into such a file."""
    kind = CONTAINERS[suffix]
    names = kind.sounds if kind.sounds is not None else _asked(kind.muxer, "audio")
    # Whatever the muxer says; or ffprobe does not know them there.
    refused = _REFUSED.get(suffix, ())
    names = tuple(name for name in names if not name.startswith(refused))
    names += _BY_FFMPEG.get(suffix, ((), ()))[1]
    return tuple(name for name in names if _is_there(name))


@functools.cache
def pixel_formats_of(encoder: str, suffix: str = "") -> tuple[str, ...]:
    """The pixel formats an encoder takes, those that plain ffmpeg reads back."""
    if encoder == "rawvideo":
        return {"y4m": ("yuv420p", "gray"), "mkv": ("yuv420p", "uyvy422")}.get(suffix, _RAW)
    if encoder == "mjpeg":
        return ("yuvj420p", "yuvj422p", "yuvj444p")
    if encoder == "dvvideo":
        return ("yuv420p",)  # for 720x576 in 25 Mbit/s
    if encoder == "apng":
        return ("rgb24", "rgba", "gray", "ya8", "gray16be")  # one palette has to do for all
    if encoder.startswith("+"):
        return ("yuv420p",) if encoder != "+hap" else ("rgba",)
    formats = av.Codec(encoder, "w").video_formats or []
    names = [one.name for one in formats if _PIXELS.fullmatch(one.name)]
    if encoder == "libx265":  # crashes with grey, and what has alpha is not decoded everywhere
        names = [name for name in names if not name.startswith(("gray", "yuva"))]
    return tuple(name for name in names if (encoder, name) != ("qtrle", "gray")) or ("yuv420p",)


def _is_there(name: str) -> bool:
    return name.startswith("+") or (name in av.codecs_available and _is_encoder(name))


def _is_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


@functools.cache
def _asked(muxer: str, kind: str) -> tuple[str, ...]:
    """All encoders of a kind ("video", "audio") that a muxer says it takes."""
    names = [name for name in sorted(av.codecs_available) if not _UNUSED.fullmatch(name)]
    found = [name for name in names if _is_encoder(name) and av.Codec(name, "w").type == kind]
    rate = 25 if kind == "video" else 48000
    return tuple(name for name in found if _takes(muxer, lambda out: out.add_stream(name, rate)))  # noqa: B023


def _takes(muxer: str, add: Callable[[Any], Any]) -> bool:
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as output:
            add(output)
    except (ValueError, av.error.FFmpegError):
        return False
    return True
