"""Images that Pillow decodes, as libav frames.

Runs in the child. Size is looked at before any pixel is unpacked. What has more than 8 bits a
component goes other ways, as Pillow keeps them of grey alone.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..limits import MAX_PIXELS, check_frame_size
from .image_kinds import UnreadImageError

ORIENTATION = 0x0112  # in EXIF
_TRANSPARENT = ("PA", "LA", "La", "RGBA", "RGBa")
_OPAQUE = ("P", "RGB", "RGBX", "CMYK", "YCbCr")


class Tags(NamedTuple):
    """The colours that an AVIF file is tagged with, by libav's numbers; what it lacks is 2."""

    primaries: int
    transfer: int

    @classmethod
    def of(cls, data: bytes) -> Tags:
        """What is in the file."""
        place = data.find(b"colrnclx")
        told = data[place + 8 : place + 12]
        return cls(*struct.unpack(">2H", told)) if place >= 0 and len(told) == 4 else cls(2, 2)

    def put_on(self, frame: Any) -> Any:
        """The frame, tagged: Pillow makes RGB by the matrix, and leaves these as they are."""
        frame.color_primaries, frame.color_trc = self
        return frame


def opened(data: bytes, form: str, failure: str) -> Any:
    """The image that Pillow knows by that name of a format, before its pixels are decoded.

    Raises:
        StreamDiffVSRError: It is too large.
    """
    warnings.simplefilter("ignore")  # of this process: what Pillow deems odd is no one's to read
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        image = Image.open(io.BytesIO(data), formats=[form])
    except UnidentifiedImageError as error:
        raise ValueError(f"it is damaged, or of a rare sort of {form}") from error
    except Image.DecompressionBombError:
        check_frame_size(MAX_PIXELS, 2, failure)
        raise
    check_frame_size(*image.size, failure)
    return image


def upright_frame(image: Any) -> Any:
    """A libav frame of the image, upright by its own orientation.

    Raises:
        UnreadImageError: Its pixels are neither grey, RGB, CMYK nor of a palette.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "La":  # the only mode that Pillow makes nothing else of
        image = image.convert("LA")
    mode = image.mode
    if mode in ("1", "L") and "transparency" not in image.info:
        return frame_of(np.asarray(image.convert("L")))
    if mode in _TRANSPARENT or "transparency" in image.info:
        return frame_of(np.asarray(image.convert("RGBA")))
    if mode in _OPAQUE:
        return frame_of(np.asarray(image.convert("RGB")))
    if mode.startswith("I;16"):
        return frame_of(np.asarray(image).astype(np.uint16))
    raise UnreadImageError(f"an image with pixels of the kind {mode!r}")


def frame_of(pixels: Any) -> Any:
    """A libav frame of (h, w), (h, w, 3) or (h, w, 4) uint8 or uint16: grey, RGB or RGBA."""
    deep = pixels.dtype == np.uint16
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    form = {1: "gray16le", 3: "rgb48le", 4: "rgba64le"} if deep else {1: "gray", 3: "rgb24"}
    return av.VideoFrame.from_ndarray(
        np.ascontiguousarray(pixels.astype("<u2") if deep else pixels),
        format=form.get(channels, "rgba"),
    )
