"""A decoded frame as upright RGB, the same for files and live sources, and what it is made of.

Runs in the child. It honours the frame's colour tags by the rule of ``colour``; it neither
deinterlaces nor maps HDR to SDR. Frames that are not plain are turned into RGB too, but of a file
they should go through ``file_pixels``, which blends transparency and keeps every bit.
"""

from __future__ import annotations

from typing import Any

from av.video.reformatter import Interpolation, VideoReformatter

from .colour import FULL, LIMITED, RGB, UNSPECIFIED, Colour
from .orientation import quarter_turns

# Correct rounding and full chroma resolution; swscale's default is off by up to 5 levels.
QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def colour_of(frame: Any) -> Colour:
    """The colour tags of a frame, unresolved."""
    if frame.format.is_rgb:
        return Colour(
            matrix=RGB,
            range=FULL,
            primaries=frame.color_primaries or UNSPECIFIED,
            transfer=frame.color_trc or UNSPECIFIED,
        )
    jpeg = frame.format.name.startswith("yuvj")  # full range said by the format's old name
    return Colour(
        matrix=frame.colorspace,
        range=FULL if jpeg else frame.color_range,
        primaries=frame.color_primaries or UNSPECIFIED,
        transfer=frame.color_trc or UNSPECIFIED,
    )


def bits_of(frame: Any) -> int:
    """Bits of a component, 8 to 16; fewer count as 8, floating point as 16."""
    bits: list[int] = [part.bits for part in frame.format.components]
    return min(max(8, *bits), 16)


def has_alpha(frame: Any) -> bool:
    """Whether its format can hold transparency."""
    form = frame.format
    return bool(form.has_palette) or any(part.is_alpha for part in form.components)


def is_grey(frame: Any) -> bool:
    """Whether it has lightness and no colour, which swscale takes for full range whatever it is."""
    name: str = frame.format.name
    return name.startswith(("gray", "ya", "y400a"))


def is_plain(frame: Any) -> bool:
    """Whether :func:`upright_rgb` makes the best of it."""
    form = frame.format
    if has_alpha(frame) or (is_grey(frame) and frame.color_range == LIMITED):
        return False
    return bits_of(frame) == 8 or not (form.is_rgb or is_grey(frame))


def upright_size(frame: Any) -> tuple[int, int]:
    """(h, w) of the frame once it is upright."""
    turned = quarter_turns(frame) % 2
    return (frame.width, frame.height) if turned else (frame.height, frame.width)


def upright_rgb(reformatter: VideoReformatter, frame: Any, *, mirrored: bool = False) -> memoryview:
    """The pixels as (h, w, 3) uint8 RGB, upright, without padding; valid until the next call.

    Args:
        mirrored: It is stored upside down in a mirror, before it is turned.
    """
    colour = colour_of(frame).resolved(frame.height)
    rgb = reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=colour.swscale_matrix,
        src_color_range=colour.range,
        dst_color_range=FULL,
        interpolation=QUALITY,
    )
    return _turned(rgb, quarter_turns(frame), mirrored)


def _turned(rgb: Any, turns: int, mirrored: bool) -> memoryview:
    """The pixels of an rgb24 frame, mirrored and then turned, without the padding of its rows."""
    plane = rgb.planes[0]
    row = 3 * rgb.width
    if turns == 0 and not mirrored:
        pixels = memoryview(plane)
        if plane.line_size == row:
            return pixels
        starts = range(0, rgb.height * plane.line_size, plane.line_size)
        return memoryview(b"".join(pixels[start : start + row] for start in starts))
    import numpy as np  # a tenth of a second that a probe and most files do without

    stored = rgb.to_ndarray()[::-1] if mirrored else rgb.to_ndarray()
    return np.ascontiguousarray(np.rot90(stored, turns)).data.cast("B")
