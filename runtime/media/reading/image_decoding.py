"""One image as a decoded frame, by the one of libav and Pillow that is right for its kind.

Runs in the child. It does not convert pixels. Pillow and what it needs are loaded only for what
needs them.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import av

from .. import libav
from ..frames.colour import FULL
from ..limits import MAX_PIXELS
from .exif import MIRRORED, is_mirrored
from .image_kinds import (
    AVIF,
    JPEG2000,
    PNG,
    TIFF,
    Kind,
    avif_needs_libav,
    has_transparent_bits,
    jpeg2000_bits,
)

_BT601 = 5  # libav's number of the matrix


class Decoded(NamedTuple):
    """A libav frame of an image.

    Attributes:
        mirrored: As of ``Picture``.
        transparent: It was, and is shown on black already.
    """

    frame: Any
    mirrored: bool = False
    transparent: bool = False


def decode_image(data: bytes, kind: Kind, failure: str) -> Decoded:
    """The first picture of an image file; ``failure`` begins the message if it is too large.

    Raises:
        StreamDiffVSRError: It is too large.
        UnreadImageError: It has pixels of a kind that are not read.
        Exception: Whatever libav or Pillow raise of what is broken.
    """
    if kind is TIFF:
        from .tiff_images import decode_tiff

        frame, transparent = decode_tiff(data, failure)
        return Decoded(frame, transparent=transparent)
    if kind is AVIF and avif_needs_libav(data):
        return _deep_avif(data, failure)
    deep = kind is JPEG2000 and jpeg2000_bits(data) > 8
    # libav does not see what is transparent of black and white.
    if (kind.pillow and not deep) or (kind is PNG and has_transparent_bits(data)):
        from .pillow_images import Tags, opened, upright_frame

        frame = upright_frame(opened(data, kind.pillow or "PNG", failure))
        return Decoded(Tags.of(data).put_on(frame) if kind is AVIF else frame)
    return Decoded(_by_libav(data, kind), mirrored=is_mirrored(data))


def _deep_avif(data: bytes, failure: str) -> Decoded:
    """libav turns it, but does not tell that it is mirrored."""
    from .pillow_images import ORIENTATION, opened

    orientation = opened(data, "AVIF", failure).getexif().get(ORIENTATION)
    with av.open(io.BytesIO(data), "r", format="mov") as container:
        frame = next(container.decode(libav.moving_picture(container)))
    return Decoded(frame, mirrored=orientation in MIRRORED)


def _by_libav(data: bytes, kind: Kind) -> Any:
    # A context of its own: nothing of one image can get into the next.
    context: Any = av.CodecContext.create(kind.codec, "r")
    context.options = {"max_pixels": str(MAX_PIXELS)}
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    if not frames:
        raise ValueError("no picture is in it")
    frame = frames[0]
    if kind is JPEG2000 and not frame.format.is_rgb:  # of full range, which libav does not say
        frame.colorspace, frame.color_range = _BT601, FULL
    return frame
