"""Converts decoded frames to upright RGB arrays of 8 or 16 bits."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

import av
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import Interpolation, VideoReformatter

from .colour import FULL, LIMITED, RGB, UNSPECIFIED, Colour

DISPLAY_MATRIX = 6  # libav's number
_KINDS = 64  # libav has about half as many


def filter_input(frame: Any) -> tuple[Any, ...]:
    """Returns the properties of a frame that a filter is set up for."""
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def add_source(graph: Graph, form: tuple[Any, ...], time_base: str = "1/1000") -> Any:
    """Adds the input of a filter graph, for frames of which `filter_input` returned ``form``."""
    width, height, name, matrix, colour_range = form
    return graph.add(
        "buffer",
        video_size=f"{width}x{height}",
        pix_fmt=name,
        time_base=time_base,  # not used: callers keep the times themselves
        pixel_aspect="1/1",
        colorspace=str(matrix),
        range=str(colour_range),
    )


class SideData:
    """Reads side data of some kinds, by libav's numbers; sets its filter up for each new format.

    Colour profiles cannot be read in this way, as they carry metadata.
    """

    def __init__(self, kinds: Iterable[int]) -> None:
        self._others = sorted(set(range(_KINDS)) - set(kinds))
        self._graph: Any = None
        self._form: tuple[Any, ...] = ()

    def read(self, frame: Any) -> dict[int, bytes]:
        """Returns the entries of a frame by kind; none where they cannot be read."""
        form = filter_input(frame)
        try:
            if form != self._form:
                self._graph, self._form = self._made(form), form
            self._graph.push(frame)
            # Not `frame.side_data`: a reference cycle of the two would keep the pixels alive.
            wrap: Any = SideDataContainer
            return {data.type.value: bytes(data) for data in wrap(self._graph.pull())}
        except (ValueError, av.error.FFmpegError):  # no such filter, or not for that format
            self._form = ()
            return {}

    def _made(self, form: tuple[Any, ...]) -> Any:
        graph = Graph()
        last = add_source(graph, form)
        chain = [graph.add("sidedata", mode="delete", type=str(kind)) for kind in self._others]
        for part in [*chain, graph.add("buffersink")]:
            last.link_to(part)
            last = part
        graph.configure()
        return graph


_MATRIX = struct.Struct("=9i")  # rows of x, y and a third for perspective
_SKEW = 10  # degrees: a picture that leans further is not meant to be upright


def quarter_turns(frame: Any) -> int:
    """Returns the counter-clockwise quarter turns that make a frame upright; 0 if it is skewed."""
    return 0 if is_skewed(frame) else round(_angle(frame) / 90) % 4


def is_skewed(frame: Any) -> bool:
    """Returns whether a frame's rotation lies between two quarter turns."""
    angle = _angle(frame)
    return abs(angle - 90 * round(angle / 90)) > _SKEW


def _angle(frame: Any) -> int:
    """Returns degrees; 0 of a matrix without an angle, for which PyAV gives a huge number."""
    angle: int = frame.rotation
    return angle if abs(angle) <= 180 else 0


class Mirrors:
    """Detects which frames of one stream are stored mirrored; remembers it between key frames."""

    def __init__(self) -> None:
        self._side_data = SideData([DISPLAY_MATRIX])
        self._known: tuple[Any, ...] = ()
        self._mirrored = False

    def mirrored(self, frame: Any) -> bool:
        """Returns whether a frame has to be flipped vertically before its quarter turns."""
        seen = (frame.rotation, frame.width, frame.height)
        if seen != self._known or frame.key_frame:
            matrix = self._side_data.read(frame).get(DISPLAY_MATRIX, b"")
            self._known, self._mirrored = seen, _is_mirror(matrix) and not is_skewed(frame)
        return self._mirrored


def _is_mirror(matrix: bytes) -> bool:
    """Returns whether a matrix mirrors: right and down end at about a right angle, left-handed."""
    if len(matrix) < _MATRIX.size:
        return False
    right_x, right_y, _, down_x, down_y, *_ = _MATRIX.unpack_from(matrix)
    area = math.hypot(right_x, right_y) * math.hypot(down_x, down_y)
    return bool(right_x * down_y - right_y * down_x < -math.cos(math.radians(_SKEW)) * area)


# Correct rounding and full chroma resolution; swscale's default is off by up to 5 levels.
QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def colour_of(frame: Any) -> Colour:
    """Returns the colour tags of a frame, unresolved."""
    if frame.format.is_rgb:
        return Colour(
            matrix=RGB,
            range=FULL,
            primaries=frame.color_primaries or UNSPECIFIED,
            transfer=frame.color_trc or UNSPECIFIED,
        )
    jpeg = frame.format.name.startswith("yuvj")  # an old name of the format that means full range
    return Colour(
        matrix=frame.colorspace,
        range=FULL if jpeg else frame.color_range,
        primaries=frame.color_primaries or UNSPECIFIED,
        transfer=frame.color_trc or UNSPECIFIED,
    )


def bits_of(frame: Any) -> int:
    """Returns the bits of a component, 8 to 16; fewer count as 8, floating point as 16."""
    bits: list[int] = [part.bits for part in frame.format.components]
    return min(max(8, *bits), 16)


def has_alpha(frame: Any) -> bool:
    """Returns whether the format of a frame can hold transparency."""
    form = frame.format
    return bool(form.has_palette) or any(part.is_alpha for part in form.components)


def is_grey(frame: Any) -> bool:
    """Returns whether a frame is grey, which swscale always takes for full range."""
    name: str = frame.format.name
    return name.startswith(("gray", "ya", "y400a"))


def is_plain(frame: Any) -> bool:
    """Returns whether :func:`upright_rgb` alone converts a frame correctly."""
    form = frame.format
    if has_alpha(frame) or (is_grey(frame) and frame.color_range == LIMITED):
        return False
    return bits_of(frame) == 8 or not (form.is_rgb or is_grey(frame))


def upright_size(frame: Any) -> tuple[int, int]:
    """Returns (h, w) of the frame once it is upright."""
    turned = quarter_turns(frame) % 2
    return (frame.width, frame.height) if turned else (frame.height, frame.width)


def upright_rgb(reformatter: VideoReformatter, frame: Any, *, mirrored: bool = False) -> memoryview:
    """Returns the pixels as (h, w, 3) uint8 RGB, upright, unpadded; valid until the next call.

    Args:
        mirrored: Whether to flip it vertically before it is turned.
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
    """Returns the unpadded pixels of an rgb24 frame, mirrored and then turned."""
    plane = rgb.planes[0]
    row = 3 * rgb.width
    if turns == 0 and not mirrored:
        pixels = memoryview(plane)
        if plane.line_size == row:
            return pixels
        starts = range(0, rgb.height * plane.line_size, plane.line_size)
        return memoryview(b"".join(pixels[start : start + row] for start in starts))
    import numpy as np  # takes a tenth of a second, and most files do without

    stored = rgb.to_ndarray()[::-1] if mirrored else rgb.to_ndarray()
    return np.ascontiguousarray(np.rot90(stored, turns)).data.cast("B")
