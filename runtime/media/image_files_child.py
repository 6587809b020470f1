"""Decodes single images with Pillow, and TIFF files with bounded memory."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .image_kinds_child import UnreadImageError
from .libav import MAX_PIXELS, check_frame_size, decode_image

_TRANSPARENT = ("PA", "LA", "La", "RGBA", "RGBa")
_OPAQUE = ("P", "RGB", "RGBX", "CMYK", "YCbCr")


class Tags(NamedTuple):
    """The colour tags of an AVIF file, by libav's numbers; 2 where it has none."""

    primaries: int
    transfer: int

    @classmethod
    def of(cls, data: bytes) -> Tags:
        """Returns the tags in the file."""
        place = data.find(b"colrnclx")
        coded = data[place + 8 : place + 12]
        return cls(*struct.unpack(">2H", coded)) if place >= 0 and len(coded) == 4 else cls(2, 2)

    def put_on(self, frame: Any) -> Any:
        """Tags a frame: Pillow applies the matrix, but neither the primaries nor the transfer."""
        frame.color_primaries, frame.color_trc = self
        return frame


def opened(data: bytes, form: str, failure: str) -> Any:
    """Opens an image with Pillow by its name of the format, without decoding the pixels.

    Raises:
        ValueError: It is damaged, or not of that format.
        StreamDiffVSRError: It is too large.
    """
    warnings.simplefilter("ignore")  # no user reads Pillow's warnings of this process
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
    """Returns a libav frame of the image, upright by its own orientation.

    Raises:
        UnreadImageError: Its pixels are not grey, RGB, CMYK or from a palette.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "La":  # Pillow converts this mode only to LA
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
    """Returns a libav frame of (h, w), (h, w, 3) or (h, w, 4) uint8 or uint16: grey, RGB, RGBA."""
    deep = pixels.dtype == np.uint16
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    form = {1: "gray16le", 3: "rgb48le", 4: "rgba64le"} if deep else {1: "gray", 3: "rgb24"}
    return av.VideoFrame.from_ndarray(
        np.ascontiguousarray(pixels.astype("<u2") if deep else pixels),
        format=form.get(channels, "rgba"),
    )


Deep = npt.NDArray[np.uint16]

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_PLACES, _ORIENTATION, _SAMPLES = 266, 273, 274, 277
_STRIP_ROWS, _STRIP_SIZES, _PLANAR, _PREDICTOR = 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_PLACES, _TILE_SIZES = 322, 323, 324, 325
_SUB_DIRECTORIES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 330, 338, 339, 50706
_WHITE_IS_ZERO, _GREY, _RGB, _CMYK = 0, 1, 2, 5
_COLOURS = {_WHITE_IS_ZERO: 1, _GREY: 1, _RGB: 3, _CMYK: 4}  # channels without transparency
_SENSOR = (32803, 34892)  # photometric interpretations of raw sensor data
_ASSOCIATED, _UNASSOCIATED = 1, 2
_MOST_CHANNELS = 16
# Compressions that libav decodes: none, LZW, Deflate by both of its numbers, PackBits.
_UNPACKED = (1, 5, 8, 32946, 32773)


def decode_tiff(data: bytes, failure: str) -> tuple[Any, bool]:
    """Returns an upright libav frame, and whether its transparency was blended onto black.

    Raises:
        StreamDiffVSRError: It is too large.
        UnreadImageError: It is a raw camera image, or of a kind of pixels that is not read.
    """
    tags = _directory(data)
    if data[8:10] == b"CR":  # Canon's
        raise UnreadImageError("a camera's raw image")
    if not {_WIDTH, _HEIGHT} <= set(tags):
        raise ValueError("its directory is damaged")
    check_frame_size(int(tags[_WIDTH]), int(tags[_HEIGHT]), failure)
    _refuse_unread(tags)
    if _is_plain(data, tags):  # several times as fast as Pillow
        return decode_image("tiff", data), False
    deep = max(_many(tags, _BITS, 1)) > 8
    if not deep and not _has_spare_planes(tags):
        return upright_frame(opened(data, "TIFF", failure)), False
    pixels, on_black = _deep(data, tags)
    pixels = _upright(pixels, int(tags.get(_ORIENTATION, 1)))
    return frame_of(pixels if deep else (pixels >> 8).astype(np.uint8)), on_black


def _is_plain(data: bytes, tags: Mapping[int, Any]) -> bool:
    """Returns whether it is upright 8-bit grey or RGB in strips, which libav reads correctly."""
    colours = {_GREY: 1, _RGB: 3}.get(tags.get(_PHOTOMETRIC, -1), 0)
    return (
        data[:4] in (b"II*\0", b"MM\0*")
        and _TILE_PLACES not in tags
        and colours == tags.get(_SAMPLES, 1)
        and _many(tags, _BITS, 1) == (8,) * colours
        and tags.get(_COMPRESSION, 1) in _UNPACKED
        and all(tags.get(tag, 1) == 1 for tag in (_PLANAR, _FILL_ORDER, _ORIENTATION))
    )


def _has_spare_planes(tags: Mapping[int, Any]) -> bool:
    """Returns whether it has 8-bit planes beyond its colours: Pillow reads few such kinds."""
    colours = _COLOURS.get(tags.get(_PHOTOMETRIC, -1))
    return (
        colours is not None
        and tags.get(_PLANAR, 1) == 2
        and int(tags.get(_SAMPLES, 1)) > colours
        and set(_many(tags, _BITS, 1)) == {8}
        and tags.get(_COMPRESSION, 1) in _UNPACKED
    )


def _directory(data: bytes) -> Mapping[int, Any]:
    header = data[:16] if data[2] == 43 or data[3] == 43 else data[:8]
    tags = ImageFileDirectory_v2(header)
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _many(tags: Mapping[int, Any], tag: int, default: int | None = None) -> tuple[int, ...]:
    value = tags.get(tag, () if default is None else default)
    return tuple(value) if isinstance(value, tuple) else (value,)


def _refuse_unread(tags: Mapping[int, Any]) -> None:
    bits, photometric = _many(tags, _BITS, 1), tags.get(_PHOTOMETRIC, _GREY)
    thumbnail = int(tags.get(_SUBFILE, 0)) & 1
    if _DNG_VERSION in tags or photometric in _SENSOR or (thumbnail and _SUB_DIRECTORIES in tags):
        raise UnreadImageError("a camera's raw image")
    if int(tags.get(_SAMPLES, 1)) > _MOST_CHANNELS:  # this number decides how much memory is taken
        raise UnreadImageError(f"a TIFF image of {tags[_SAMPLES]} channels")
    if set(_many(tags, _SAMPLE_FORMAT, 1)) - {1, 4}:
        raise UnreadImageError("a TIFF image of signed or floating-point numbers")
    if photometric in (8, 9, 10):
        raise UnreadImageError("a TIFF image in CIELab")
    deep = max(bits) > 8
    if deep and (set(bits) != {16} or photometric not in _COLOURS):
        raise UnreadImageError(f"a TIFF image of {max(bits)} bits that is no grey, RGB or CMYK")
    if deep and tags.get(_PLANAR, 1) != 2 and len(bits) > 4:
        raise UnreadImageError(f"a TIFF image of 16 bits with {len(bits)} channels")
    if deep and tags.get(_COMPRESSION, 1) not in _UNPACKED:
        raise UnreadImageError(
            f"a TIFF image of 16 bits with compression {tags[_COMPRESSION]}, not LZW or Deflate"
        )


def _deep(data: bytes, tags: Mapping[int, Any]) -> tuple[Deep, bool]:
    """Returns (h, w) or (h, w, 3 or 4) of 16 bits as stored, and whether it is on black."""
    photometric = int(tags.get(_PHOTOMETRIC, _GREY))
    pixels = _samples(data, tags)
    colours, rest = np.split(pixels, [_COLOURS[photometric]], axis=2)
    if photometric == _WHITE_IS_ZERO:
        colours = np.uint16(65535) - colours
    if photometric == _CMYK:
        light = 65535 - colours.astype(np.uint32)
        colours = ((light[..., :3] * light[..., 3:] + 32767) // 65535).astype(np.uint16)
    extra = _many(tags, _EXTRA_SAMPLES)[: rest.shape[2]]
    if _UNASSOCIATED in extra:
        alpha = rest[..., extra.index(_UNASSOCIATED)][..., None]
        wide = np.broadcast_to(colours, (*colours.shape[:2], 3))
        return np.concatenate([wide, alpha], axis=2), False
    # Premultiplied colours are already those on black.
    on_black = _ASSOCIATED in extra and rest[..., extra.index(_ASSOCIATED)].min() < 65535
    return (colours[..., 0] if colours.shape[2] == 1 else colours), bool(on_black)


def _samples(data: bytes, tags: Mapping[int, Any]) -> Deep:
    """Returns all channels, (h, w, channels), uninterpreted."""
    size = height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
    channels = int(tags.get(_SAMPLES, 1))
    planes = channels if tags.get(_PLANAR, 1) == 2 else 1
    tiled = _TILE_PLACES in tags
    places = _many(tags, _TILE_PLACES if tiled else _STRIP_PLACES)
    sizes = _many(tags, _TILE_SIZES if tiled else _STRIP_SIZES)
    block = (int(tags[_TILE_HEIGHT]), int(tags[_TILE_WIDTH])) if tiled else size
    rows, columns = -(-height // block[0]), -(-width // block[1])
    count = len(places) // planes // (rows * columns)  # the strips of a block, or one tile
    if not count or block[0] * block[1] > MAX_PIXELS:
        raise ValueError("its tiles do not make up its size")
    out = np.empty((height, width, channels), np.uint16)
    each = channels // planes
    for index in range(planes * rows * columns):
        plane, tile = divmod(index, rows * columns)
        top, left = tile // columns * block[0], tile % columns * block[1]
        part = slice(index * count, (index + 1) * count)
        pixels = _block(data, tags, block, each, places[part], sizes[part])
        target = out[top : top + block[0], left : left + block[1], plane * each :][..., :each]
        target[:] = pixels[: target.shape[0], : target.shape[1]]
    return out


def _block(
    data: bytes,
    tags: Mapping[int, Any],
    size: tuple[int, int],
    channels: int,
    places: Sequence[int],
    sizes: Sequence[int],
) -> Deep:
    """Decodes the strips of one plane, or a tile, with libav; returns (h, w, channels)."""
    order = "<" if data.startswith(b"II") else ">"
    bits = max(_many(tags, _BITS, 1))
    parts = [data[place : place + size] for place, size in zip(places, sizes, strict=True)]
    header = {
        _WIDTH: [size[1]],
        _HEIGHT: [size[0]],
        _BITS: [bits] * channels,
        _COMPRESSION: [int(tags.get(_COMPRESSION, 1))],
        _PHOTOMETRIC: [_RGB if channels > 2 else _GREY],
        _FILL_ORDER: [int(tags.get(_FILL_ORDER, 1))],
        _STRIP_PLACES: [8 + sum(map(len, parts[:index])) for index in range(len(parts))],
        _SAMPLES: [channels],
        _STRIP_ROWS: [size[0] if len(parts) == 1 else int(tags[_STRIP_ROWS])],
        _STRIP_SIZES: [len(part) for part in parts],
        _PLANAR: [1],
        _PREDICTOR: [int(tags.get(_PREDICTOR, 1))],
        _EXTRA_SAMPLES: [_UNASSOCIATED] if channels in (2, 4) else [],
    }
    used = {tag: values for tag, values in header.items() if values}
    frame = decode_image("tiff", _tiff_file(order, used, b"".join(parts)))
    plane = frame.planes[0]
    kind = "u1" if bits == 8 else ">u2" if frame.format.name.endswith("be") else "<u2"
    values = np.frombuffer(memoryview(plane), kind).reshape(size[0], -1)
    pixels = values[:, : size[1] * channels].reshape(*size, channels).astype(np.uint16)
    return pixels * np.uint16(257) if bits == 8 else pixels


def _tiff_file(order: str, header: Mapping[int, Sequence[int]], body: bytes) -> bytes:
    """Returns a TIFF file of a body, followed by a directory of 32-bit numbers."""
    body += bytes(len(body) % 2)
    start = 8 + len(body)
    arrays_start = start + 2 + 12 * len(header) + 4
    entries, arrays = b"", b""
    for tag, values in header.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            offset = struct.pack(f"{order}I", arrays_start + len(arrays))
            arrays, packed = arrays + packed, offset
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    mark = b"II*\0" if order == "<" else b"MM\0*"
    count, end = struct.pack(f"{order}H", len(header)), bytes(4)
    return mark + struct.pack(f"{order}I", start) + body + count + entries + end + arrays


def _upright(pixels: Deep, orientation: int) -> Deep:
    """Turns stored pixels upright by their EXIF orientation."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[::-1]
    turns = {2: 2, 3: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    return np.rot90(pixels, turns)
