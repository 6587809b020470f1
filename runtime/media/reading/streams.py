"""What a container tells of its streams, before any of them is decoded.

Runs in the child; it reads no packet.
"""

from __future__ import annotations

from typing import Any

import av
from av.container import InputContainer

from ..info import OtherKind, OtherStream

_KINDS: dict[str, OtherKind] = {
    "audio": "audio",
    "subtitle": "subtitle",
    "attachment": "attachment",
    "video": "video",
}


def codec_name(stream: Any) -> str:
    """What a stream is coded in, whatever decoder is used for it; "" if that is unknown here."""
    context = stream.codec_context
    return str(context.codec.canonical_name) if context else ""


def has_separate_alpha(stream: Any) -> bool:
    """Whether transparency lies beside the picture, as VP8 and VP9 have it in WebM."""
    return any(
        key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items()
    )


def other_streams(container: InputContainer, picture: Any) -> tuple[OtherStream, ...]:
    """Every stream but that one."""
    return tuple(
        _described(stream) for stream in container.streams if stream.index != picture.index
    )


def _described(stream: Any) -> OtherStream:
    kind = _KINDS.get(stream.type, "data")
    if kind == "video" and stream.disposition & av.stream.Disposition.attached_pic:
        kind = "cover"
    return OtherStream(kind, codec_name(stream), stream.language or "")
