"""What a container can hold besides its picture: asked of the muxer itself, by a header of it.

Runs in the child. MPEG-TS takes anything and calls it private data, which nothing plays: what it
can really hold is listed here. It copies nothing.
"""

from __future__ import annotations

import io
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer

_MPEGTS = {
    "audio": {"mp1", "mp2", "mp3", "aac", "aac_latm"}
    | {"ac3", "eac3", "dts", "truehd", "opus", "s302m"},
    "subtitle": {"dvb_subtitle", "dvb_teletext"},
    "data": {"klv", "timed_id3"},
}
# Subtitles that are words and times, by container: into which codec they can be turned.
_TEXT = ("subrip", "text", "webvtt", "mov_text")
_TEXT_OF = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


def codec_of(stream: Any) -> str:
    """libav's name of what is in a stream; "unknown" if it does not know."""
    if stream.type == "data":
        return str(stream.name or "unknown")
    context = stream.codec_context
    return str(context.codec.canonical_name) if context else "unknown"


def add_as_it_is(output: OutputContainer, template: Any) -> Any:
    """Add a stream for the packets of another to an output that has no header yet.

    Raises:
        ValueError, av.error.FFmpegError: The output takes none of that codec.
    """
    try:
        return output.add_stream_from_template(template, opaque=True)
    except ValueError:
        if template.type != "audio":
            raise
    # PyAV asks for codecs with a name of their own in the container. The muxer itself also takes
    # those with a number from AVI, such as Windows Media: a stream of sound gets its parameters
    # from a filter that changes nothing. Whether it is true is seen when the header is written.
    with av.open(io.BytesIO(), "w", format="matroska") as other:
        plain = other.add_stream("pcm_s16le", rate=48000)
        stream: Any = output.add_stream_from_template(plain, opaque=True)
    BitStreamFilterContext("null", template, stream)
    stream.codec_context.codec_tag = "\0\0\0\0"  # that of the old container
    stream.time_base = template.time_base
    return stream


def listed(container: str, stream: Any) -> bool:
    """Whether a player finds the stream in a container that takes anything."""
    return container != "mpegts" or codec_of(stream) in _MPEGTS.get(stream.type, ())


def holds(container: str, stream: Any) -> bool:
    """Whether a file of that muxer can hold the stream as it is."""
    if container == "mpegts":
        return listed(container, stream)
    if stream.type == "data" or codec_of(stream) == "unknown":
        return False  # no other muxer here writes them back as what they were
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            add_as_it_is(trial, stream)
            trial.start_encoding()
    except Exception:
        return False
    return True


def text_codec(container: str, stream: Any) -> str:
    """The codec that subtitles can be turned into without losing words; "" if there is none."""
    if stream.type != "subtitle" or codec_of(stream) not in _TEXT:
        return ""
    return _TEXT_OF.get(container, "")
