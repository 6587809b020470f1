"""Converts decoded frames to upright RGB of 8 or 16 bits where that takes more than one conversion.

Transparency is blended onto black, components keep more than 8 bits, RGB stays RGB, and grey of
limited range is stretched. It needs numpy, without which a child that reads plain frames
(``pixels``) starts a tenth of a second sooner. Two faults of swscale are corrected here: the white
of its 16-bit RGB lies below 65535, such as at 65280, and it converts 16-bit RGB to 8 bits through
YUV.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from .colour import FULL, LIMITED
from .pixels import QUALITY, bits_of, colour_of, has_alpha, is_grey, is_plain, quarter_turns

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class FilePixels:
    """Converts the frames of one file; not for several threads at once."""

    def __init__(self) -> None:
        # One per format: a reformatter that alternates between two sets itself up every time.
        self._reformatters: dict[str, VideoReformatter] = {}

    def image(self, frame: Any, *, mirrored: bool = False) -> memoryview:
        """Returns (h, w, 3) uint8 RGB, upright; ``mirrored`` as in ``Picture``."""
        if is_plain(frame):
            return _turned(self._converted(frame, "rgb24"), frame, mirrored)
        if bits_of(frame) > 8:
            return _turned(_to_8(self._deep(frame)), frame, mirrored)
        return _turned(_on_black(self._converted(frame, "rgba")), frame, mirrored)

    def deep(self, frame: Any, *, mirrored: bool = False) -> memoryview:
        """Returns (h, w, 3) uint16 RGB, upright."""
        return _turned(self._deep(frame), frame, mirrored)

    def opaque(self, frame: Any) -> bool:
        """Returns whether no pixel of the frame is transparent."""
        return int(self._converted(frame, "rgba")[..., 3].min()) == 255

    def _deep(self, frame: Any) -> Any:
        if bits_of(frame) <= 8:
            if has_alpha(frame):
                return _on_black(self._converted(frame, "rgba").astype(np.uint16) * 257)
            return self._converted(frame, "rgb24").astype(np.uint16) * 257
        if has_alpha(frame):
            return _on_black(_stretched(self._converted(frame, "rgba64le"), frame))
        return _stretched(self._converted(frame, "rgb48le"), frame)

    def _converted(self, frame: Any, form: str) -> Any:
        """Returns (h, w, channels) in swscale's own scale of 16 bits, or in 8 bits."""
        colour = colour_of(frame).resolved(frame.height)
        made = self._reformatter(form).reformat(
            frame,
            format=form,
            src_colorspace=colour.swscale_matrix,
            src_color_range=colour.range,
            dst_color_range=FULL,
            interpolation=QUALITY,
        )
        channels, deep = (4 if form.startswith("rgba") else 3), form.endswith("le")
        plane = made.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(made.height, plane.line_size)
        pixels = rows[:, : made.width * channels * (2 if deep else 1)]
        if deep:
            pixels = np.ascontiguousarray(pixels).view("<u2").astype(np.uint16, copy=False)
        pixels = pixels.reshape(made.height, made.width, channels)
        return _limited_grey(pixels, deep) if _is_limited_grey(frame) else pixels

    def _reformatter(self, form: str) -> VideoReformatter:
        return self._reformatters.setdefault(form, VideoReformatter())


def _stretched(pixels: npt.NDArray[np.uint16], frame: Any) -> npt.NDArray[np.uint16]:
    """Returns 16-bit components with white at 65535 instead of swscale's own value."""
    if frame.format.is_rgb or frame.format.name.startswith(("grayf", "xyz")):
        return pixels
    bits = bits_of(frame)
    limited = not is_grey(frame) and colour_of(frame).resolved(frame.height).range == LIMITED
    shift = 8 if limited else bits
    out = np.empty_like(pixels)
    out[..., :3] = _repeated(pixels[..., :3], shift)
    out[..., 3:] = _repeated(pixels[..., 3:], bits)  # transparency always has full range
    return out


def _repeated(pixels: npt.NDArray[np.uint16], bits: int) -> npt.NDArray[np.uint16]:
    """Repeats the topmost bits in the lower ones: (2^bits - 1) << (16 - bits) becomes 65535."""
    kept = np.minimum(pixels, np.uint16(((1 << bits) - 1) << (16 - bits)))
    return kept + (kept >> np.uint16(bits)) if bits < 16 else kept


def _on_black(pixels: Any) -> Any:
    """Blends (h, w, 4) with straight alpha to (h, w, 3) of the same type, rounded."""
    top = np.iinfo(pixels.dtype).max
    wide = pixels.astype(np.uint32)
    return ((wide[..., :3] * wide[..., 3:] + top // 2) // top).astype(pixels.dtype)


def _to_8(deep: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _is_limited_grey(frame: Any) -> bool:
    return is_grey(frame) and frame.color_range == LIMITED


def _limited_grey(pixels: Any, deep: bool) -> Any:
    """Stretches grey that swscale took for full range, from black at 16 and white at 235."""
    scale = 256 if deep else 1
    top = 65535 if deep else 255
    colour = pixels[..., :3].astype(np.float32)
    out = pixels.copy()
    out[..., :3] = np.clip(np.rint((colour / scale - 16) / 219 * top), 0, top)
    return out


def _turned(pixels: Pixels, frame: Any, mirrored: bool) -> memoryview:
    stored = pixels[::-1] if mirrored else pixels
    return np.ascontiguousarray(np.rot90(stored, quarter_turns(frame))).data.cast("B")
