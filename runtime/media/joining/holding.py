"""What a container can hold besides its picture: asked of the muxer itself, by a header of it.

Runs in the child. MPEG-TS takes anything and calls it private data, which nothing plays: what it
can really hold is listed here. It copies nothing.
"""

from __future__ import annotations

import io
from typing import Any

import av

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


def holds(container: str, stream: Any) -> bool:
    """Whether a file of that muxer can hold the stream as it is."""
    codec = codec_of(stream)
    if container == "mpegts":
        return codec in _MPEGTS.get(stream.type, ())
    if stream.type == "data" or codec == "unknown":
        return False  # no other muxer here writes them back as what they were
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except Exception:
        return False
    return True


def text_codec(container: str, stream: Any) -> str:
    """The codec that subtitles can be turned into without losing words; "" if there is none."""
    if stream.type != "subtitle" or codec_of(stream) not in _TEXT:
        return ""
    return _TEXT_OF.get(container, "")
