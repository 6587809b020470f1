"""What a parent tells its encoding child of pictures: shape, colours, encoder, and its memory.

Data only, for the pipe; it opens nothing.
"""

from __future__ import annotations

from fractions import Fraction

from ...processes.wire import Header, pack
from ..frames.colour import FULL, LIMITED, RGB, Colour
from ..info import VideoInfo
from .hdr import with_mastering
from .kinds import VideoFormat

_BASE_MEMORY_BYTES = 4 << 30
_MEMORY_FRAMES = {"av1": 900, "h265": 450}  # an encoder holds its lookahead and references
_FEWER_FRAMES = 300


def encoder_arguments(
    size: tuple[int, int], time_base: Fraction, info: VideoInfo | None, format: VideoFormat
) -> Header:
    """All that :class:`video_encoding.VideoEncoder` needs, as JSON can carry it."""
    colour = _colour(size, info, format)
    return {
        "size": list(size),
        "time_base": pack(time_base),
        "rate": pack(info.average_rate if info else None),
        "sample_aspect": pack(info.sample_aspect if info else Fraction(1)),
        "colour": [colour.matrix, colour.range, colour.primaries, colour.transfer],
        "encoder": format.encoder,
        "pixel_format": format.pixel_format,
        "options": with_mastering(format.encoder, format.options, info.mastering if info else None),
        "deep": format.deep,
        "tag": format.tag,
    }


def memory_bytes(size: tuple[int, int], format: VideoFormat) -> int:
    """How much address space the child may use."""
    height, width = size
    frame = height * width * 3 // 2 * (2 if "10" in format.pixel_format else 1)
    return _BASE_MEMORY_BYTES + _MEMORY_FRAMES.get(format.codec, _FEWER_FRAMES) * frame


def _colour(size: tuple[int, int], info: VideoInfo | None, format: VideoFormat) -> Colour:
    colour = (info.colour if info else Colour()).resolved(size[0])
    matrix, range_ = colour.matrix, colour.range
    if format.codec == "ffv1":
        matrix, range_ = RGB, FULL
    elif format.codec == "prores":  # has no way to say otherwise
        range_ = LIMITED
    return Colour(matrix, range_, colour.primaries, colour.transfer)
