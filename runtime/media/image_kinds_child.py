"""Detects the kind of an image file from its first bytes, and the decoder of that kind.

Each kind is decoded by whichever of libav and Pillow reads all of it correctly; kinds that neither
reads have a name here, for the error message.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

START_BYTES = 1 << 14
MAX_BYTES = 1 << 30  # of a file that is read into memory
_PNG = b"\x89PNG\r\n\x1a\n"
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_WEBP_ANIMATION = 0x02  # of the flags in its extended header
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes
_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")  # in coded data: neither padding nor a restart
_PADDING_BYTES = 512  # between the images of a stream
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Kind(NamedTuple):
    """A kind of image.

    Attributes:
        name: The common name.
        codec: libav's name of the codec.
        pillow: Pillow's name of the format if Pillow decodes it, else "".
    """

    name: str
    codec: str
    pillow: str = ""


class UnreadImageError(ValueError):
    """An intact image is of a kind that is not read, so another program has to convert it."""


PNG = Kind("PNG", "png")
JPEG = Kind("JPEG", "mjpeg")
WEBP = Kind("WebP", "webp", "WEBP")
TIFF = Kind("TIFF", "tiff", "TIFF")
JPEG2000 = Kind("JPEG 2000", "jpeg2000", "JPEG2000")
AVIF = Kind("AVIF", "av1", "AVIF")
_BITMAP = Kind("BMP", "bmp", "BMP")
_TARGA = Kind("TGA", "targa", "TGA")
_PAINTBRUSH = Kind("PCX", "pcx", "PCX")
_SGI = Kind("SGI", "sgi")

_BEGINNINGS = {
    _PNG: PNG,
    b"\xff\xd8\xff\xf7": Kind("JPEG-LS", "jpegls"),
    b"\xff\xd8\xff": JPEG,
    b"II*\0": TIFF,
    b"MM\0*": TIFF,
    b"II+\0": TIFF,
    b"MM\0+": TIFF,
    b"\xff\x4f\xff\x51": JPEG2000,
    b"qoif": Kind("QOI", "qoi"),
    b"SDPX": Kind("DPX", "dpx"),
    b"XPDS": Kind("DPX", "dpx"),
    b"8BPS": Kind("PSD", "psd", "PSD"),
    b"DDS ": Kind("DDS", "dds", "DDS"),
    b"\x59\xa6\x6a\x95": Kind("Sun raster", "sunrast"),
}
_PORTABLE = {b"1": "pbm", b"2": "pgm", b"3": "ppm", b"4": "pbm", b"5": "pgm", b"6": "ppm"}
_PORTABLE_START = re.compile(rb"P([1-7])[ \t\r\n#]")

_UNREAD = {
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL image",
    b"\x76\x2f\x31\x01": "an OpenEXR image, which holds linear light in floating point",
    b"#?RADIANCE": "a Radiance HDR image, which holds linear light in floating point",
    b"#?RGBE": "a Radiance HDR image, which holds linear light in floating point",
    b"Pf": "a PFM image, which holds linear light in floating point",
    b"PF": "a PFM image, which holds linear light in floating point",
    b"FUJIFILMCCD-RAW": "a camera's raw image",
    b"IIRO": "a camera's raw image",
    b"IIRS": "a camera's raw image",
    b"MMOR": "a camera's raw image",
    b"IIU\0": "a camera's raw image",
    b"FOVb": "a camera's raw image",
    b"gimp xcf": "an XCF image, a project of GIMP",
    b"BPG\xfb": "a BPG image",
    b"FLIF": "a FLIF image",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"<svg": "an SVG drawing",
}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def kind_of(start: bytes, suffix: str = "") -> Kind | None:
    """Returns the kind of a file by its start; of TGA and PCX, which have no mark, by its suffix.

    Raises:
        UnreadImageError: It is an image of a kind that is not read.
    """
    kind = next((kind for mark, kind in _BEGINNINGS.items() if start.startswith(mark)), None)
    if kind is None:
        kind = _unmarked(start, suffix.lower()) or _boxed(start)
    if kind is None:
        name = next((name for mark, name in _UNREAD.items() if start.startswith(mark)), "")
        if not name and b"<svg" in start and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            name = "an SVG drawing"
        if name:
            raise UnreadImageError(name)
    return kind


def _unmarked(start: bytes, suffix: str) -> Kind | None:
    """Returns the kind of a file with no mark, or with one too short to suffice alone."""
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WEBP
    if start.startswith(b"BM") and int.from_bytes(start[14:18], "little") in _BITMAP_HEADERS:
        return _BITMAP
    if start.startswith(b"\x01\xda") and start[2:3] in b"\0\1" and start[3:4] in b"\1\2":
        return _SGI
    if found := _PORTABLE_START.match(start):
        name = _PORTABLE.get(found[1], "pam")
        return Kind(name.upper(), name)
    if suffix in (".tga", ".icb", ".vda", ".vst") and len(start) > 18:
        return _TARGA
    if suffix == ".pcx" and start.startswith(b"\x0a"):
        return _PAINTBRUSH
    return None


def _boxed(start: bytes) -> Kind | None:
    """Returns the kind of a file made of boxes: JPEG 2000 or the HEIF family, but no video."""
    if start.startswith(_JP2):
        return None if start[20:24] == b"mjp2" else JPEG2000
    if start[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(start[:4], "big"), 256)
    brands = {start[place : place + 4] for place in (8, *range(16, size, 4))}
    if b"avif" in brands or b"avis" in brands:
        return AVIF
    if start[8:12] == b"crx ":
        raise UnreadImageError("a camera's raw image")
    if start[8:12] in _HEIF_BRANDS and b"grid" in start:  # libav reads others correctly
        raise UnreadImageError("a HEIC image of several tiles")
    return None


def is_animation(path: Path, start: bytes, kind: Kind) -> bool:
    """Returns whether an image file is an animation.

    Args:
        path: The file.
        start: Its first START_BYTES bytes.
        kind: Its kind.

    Raises:
        OSError: It cannot be read.
    """
    if kind is WEBP:
        extended = start[12:16] == b"VP8X" and len(start) > 20
        return extended and bool(start[20] & _WEBP_ANIMATION)
    if kind is AVIF:
        size = min(int.from_bytes(start[:4], "big"), 256)
        return any(start[place : place + 4] == b"avis" for place in (8, *range(16, size, 4)))
    if kind is PNG:
        return _is_animated_png(path)
    if kind is not JPEG:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return is_jpeg_stream(data)


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, start and end of each complete chunk of a WebP file."""
    place = 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        if place + 8 + size > len(data):
            return
        yield name, place + 8, place + 8 + size
        place += 8 + size + size % 2


def _is_animated_png(path: Path) -> bool:
    """Returns whether a PNG has an animation chunk before its first picture."""
    with path.open("rb") as file:
        place = len(_PNG)
        while True:
            file.seek(place)
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IDAT":
                return False
            if head[4:] == b"acTL":
                return True
            place += 12 + int.from_bytes(head[:4], "big")


def has_transparent_bits(data: bytes) -> bool:
    """Returns whether a PNG is black and white, with one of them transparent."""
    return data[24:26] == b"\1\0" and b"tRNS" in data[:START_BYTES].partition(b"IDAT")[0]


def jpeg2000_bits(data: bytes) -> int:
    """Returns the bits of a JPEG 2000 image's first component."""
    place = data.find(b"\xff\x4f\xff\x51")
    return (data[place + 42] & 0x7F) + 1 if 0 <= place < len(data) - 42 else 8


def avif_needs_libav(data: bytes) -> bool:
    """Returns whether an AVIF file has more than 8 bits, which Pillow drops, and libav reads it.

    libav reads neither transparency nor a picture of several tiles; those are read with 8 bits.
    """
    place = data.find(b"av1C")
    deep = 0 <= place < len(data) - 6 and bool(data[place + 6] & 0x40)
    return deep and b"auxiliary:alpha" not in data and b"grid" not in data[:START_BYTES]


def is_jpeg_stream(data: mmap.mmap) -> bool:
    """Returns whether JPEG images of one size follow one another, as in raw Motion JPEG.

    Pictures that cameras append to a photo do not count: they are listed in an index (MPF), or have
    another size.
    """
    first, end = _jpeg(data, 0)
    if first is None or end is None:
        return False
    start = data.find(b"\xff\xd8\xff", end, end + _PADDING_BYTES)
    return start >= 0 and _jpeg(data, start)[0] == first


def _jpeg(data: mmap.mmap, place: int) -> tuple[bytes | None, int | None]:
    """Returns the coded height and width, and the end; None where there is an MPF index."""
    size, place = None, place + 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xD9:
            return size, place + 2
        if marker == 0xFF:  # padding
            place += 1
            continue
        body = place + 4
        if marker == 0xE2 and data[body : body + 4] == b"MPF\0":
            return None, None
        if marker in _FRAME_MARKERS:
            size = data[body + 1 : body + 5]
        place += 2 + int.from_bytes(data[place + 2 : body], "big")
        if marker == 0xDA:
            found = _MARKER.search(data, place)
            if not found:
                return size, None
            place = found.start()
    return size, place + 2 if data[place : place + 2] == b"\xff\xd9" else None
