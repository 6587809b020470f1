"""Converts decoded frames to upright RGB arrays of 8 or 16 bits."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import Interpolation, VideoReformatter

from .colour import FULL, LIMITED, RGB, UNSPECIFIED, Colour

DISPLAY_MATRIX = 6  # libav's number
_KINDS = 64  # twice as many as libav has


class SideData:
    """Reads entries of those kinds, by libav's numbers; set up anew where the format changes.

    Colour profiles cannot be asked for: they are what has metadata.
    """

    def __init__(self, kinds: Iterable[int]) -> None:
        self._others = sorted(set(range(_KINDS)) - set(kinds))
        self._graph: Any = None
        self._form: tuple[Any, ...] = ()

    def read(self, frame: Any) -> dict[int, bytes]:
        """The entries of a frame by their kind; none where they cannot be read."""
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        try:
            if form != self._form:
                self._graph, self._form = self._made(form), form
            self._graph.push(frame)
            # Not by `frame.side_data`: the two would hold each other, and the pixels with them.
            wrap: Any = SideDataContainer
            return {data.type.value: bytes(data) for data in wrap(self._graph.pull())}
        except (ValueError, av.error.FFmpegError):  # no such filter, or none for that format
            self._form = ()
            return {}

    def _made(self, form: tuple[Any, ...]) -> Any:
        width, height, name, matrix, colour_range = form
        graph = Graph()
        last = graph.add(
            "buffer",
            video_size=f"{width}x{height}",
            pix_fmt=name,
            time_base="1/1000",  # not used
            pixel_aspect="1/1",
            colorspace=str(matrix),
            range=str(colour_range),
        )
        chain = [graph.add("sidedata", mode="delete", type=str(kind)) for kind in self._others]
        for part in [*chain, graph.add("buffersink")]:
            last.link_to(part)
            last = part
        graph.configure()
        return graph


_MATRIX = struct.Struct("=9i")  # rows of x, y and a third that perspective would need
_SKEW = 10  # degrees: a picture that leans more than that cannot be meant to be upright


def quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that make the frame upright; 0 of one that is skewed."""
    return 0 if is_skewed(frame) else round(_angle(frame) / 90) % 4


def is_skewed(frame: Any) -> bool:
    """Whether its display lies between two quarter turns."""
    angle = _angle(frame)
    return abs(angle - 90 * round(angle / 90)) > _SKEW


def _angle(frame: Any) -> int:
    """Degrees; of a matrix without an angle libav gives no number, which PyAV makes a huge one."""
    angle: int = frame.rotation
    return angle if abs(angle) <= 180 else 0


class Mirrors:
    """Tells which frames of one stream are stored mirrored; remembers it between key frames."""

    def __init__(self) -> None:
        self._side_data = SideData([DISPLAY_MATRIX])
        self._known: tuple[Any, ...] = ()
        self._mirrored = False

    def mirrored(self, frame: Any) -> bool:
        """Whether it has to be turned upside down in a mirror before its quarter turns."""
        seen = (frame.rotation, frame.width, frame.height)
        if seen != self._known or frame.key_frame:
            matrix = self._side_data.read(frame).get(DISPLAY_MATRIX, b"")
            self._known, self._mirrored = seen, _is_mirror(matrix) and not is_skewed(frame)
        return self._mirrored


def _is_mirror(matrix: bytes) -> bool:
    """Whether right and down become a left-handed pair, and about at a right angle."""
    if len(matrix) < _MATRIX.size:
        return False
    right_x, right_y, _, down_x, down_y, *_ = _MATRIX.unpack_from(matrix)
    area = math.hypot(right_x, right_y) * math.hypot(down_x, down_y)
    return bool(right_x * down_y - right_y * down_x < -math.cos(math.radians(_SKEW)) * area)


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


Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class FilePixels:
    """Converts the frames of one file; not for several threads at once."""

    def __init__(self) -> None:
        # One for each format: a reformatter that changes between two sets itself up every time.
        self._reformatters: dict[str, VideoReformatter] = {}

    def image(self, frame: Any, *, mirrored: bool = False) -> memoryview:
        """(h, w, 3) uint8 RGB, upright; ``mirrored`` as of ``Picture``."""
        if is_plain(frame):
            return _sent(self._converted(frame, "rgb24"), frame, mirrored)
        if bits_of(frame) > 8:
            return _sent(_to_8(self._deep(frame)), frame, mirrored)
        return _sent(_on_black(self._converted(frame, "rgba")), frame, mirrored)

    def deep(self, frame: Any, *, mirrored: bool = False) -> memoryview:
        """(h, w, 3) uint16 RGB, upright."""
        return _sent(self._deep(frame), frame, mirrored)

    def opaque(self, frame: Any) -> bool:
        """Whether nothing of the frame is transparent."""
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
        """(h, w, channels) in swscale's own scale of 16 bits, or in 8 bits."""
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
    """Components of 16 bits with white at 65535 instead of at swscale's own number."""
    if frame.format.is_rgb or frame.format.name.startswith(("grayf", "xyz")):
        return pixels
    bits = bits_of(frame)
    limited = not is_grey(frame) and colour_of(frame).resolved(frame.height).range == LIMITED
    shift = 8 if limited else bits
    out = np.empty_like(pixels)
    out[..., :3] = _repeated(pixels[..., :3], shift)
    out[..., 3:] = _repeated(pixels[..., 3:], bits)  # transparency is of full range always
    return out


def _repeated(pixels: npt.NDArray[np.uint16], bits: int) -> npt.NDArray[np.uint16]:
    """The topmost bits below themselves: (2^bits - 1) << (16 - bits) becomes 65535."""
    kept = np.minimum(pixels, np.uint16(((1 << bits) - 1) << (16 - bits)))
    return kept + (kept >> np.uint16(bits)) if bits < 16 else kept


def _on_black(pixels: Any) -> Any:
    """(h, w, 4) RGB and straight transparency -> (h, w, 3) of the same type, rounded."""
    top = np.iinfo(pixels.dtype).max
    wide = pixels.astype(np.uint32)
    return ((wide[..., :3] * wide[..., 3:] + top // 2) // top).astype(pixels.dtype)


def _to_8(deep: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _is_limited_grey(frame: Any) -> bool:
    return is_grey(frame) and frame.color_range == LIMITED


def _limited_grey(pixels: Any, deep: bool) -> Any:
    """Grey that swscale took for full range, from black at 16 and white at 235."""
    scale = 256 if deep else 1
    top = 65535 if deep else 255
    colour = pixels[..., :3].astype(np.float32)
    out = pixels.copy()
    out[..., :3] = np.clip(np.rint((colour / scale - 16) / 219 * top), 0, top)
    return out


def _sent(pixels: Pixels, frame: Any, mirrored: bool) -> memoryview:
    stored = pixels[::-1] if mirrored else pixels
    return np.ascontiguousarray(np.rot90(stored, quarter_turns(frame))).data.cast("B")
