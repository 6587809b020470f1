"""Finds out from a file's bytes why it gives no picture: encrypted, cut off, or of another kind.

Runs in the child, on files that libav cannot read, as libav seldom says why. No file is refused for
a sign alone: callers have seen that no complete frame comes out. Only the structure and the first
part of a file are read.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import av

from .readable import LISTS, SUBTITLES

_HEAD_BYTES = 1 << 20
_MAX_BOXES = 10_000
_TOP_BOXES = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"uuid"}
)
_PARENTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
_PROTECTED = {b"encv": "Common Encryption", b"drmi": "FairPlay"}  # sample entries of MP4
_SIGNS = (
    # A track of Matroska whose content encoding is of the kind "encryption".
    (b"\x1aE\xdf\xa3", rb"\x6d\x80.{1,8}?\x62\x40.{1,64}?\x50\x33\x81\x01", "WebM encryption"),
    # Objects of ASF: content encryption, and its extension.
    (b"0&\xb2u", rb"\xfb\xb3\x11\x22\x23\xbd\xd2\x11\xb4\xb7\x00\xa0", "Windows Media DRM"),
    (b"0&\xb2u", rb"\x14\xe6\x8a\x29\x22\x26\x17\x4c\xb9\x35\xda\xe0", "Windows Media DRM"),
    # An encrypted element of MXF, as films for cinemas have.
    (b"\x06\x0e+4", rb"\x06\x0e\x2b\x34\x02\x04\x01\x07\x0d\x01\x03\x01\x02\x7e", "SMPTE 429-6"),
    (b"TiVo", rb"TiVo", "TiVo"),
)
_LIST = re.compile(  # beginnings; libav knows most of these only by their names
    rb"(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|\[playlist\]|(?:<\?xml[^>]*>\s*)?<(?:MPD|asx|smil|playlist)\b)",
    re.IGNORECASE,
)
_IMAGES = frozenset({"PNG", "JPEG", "WEBP", "TIFF"})  # readable kinds
ENCRYPTED = "it is encrypted", "decrypt it first, or take a copy that is not protected"
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_UNIT = 6144  # bytes that Blu-ray encrypts together, except for the first 16


def why_not_opened(path: Path, why: str, format_name: str) -> tuple[str, str]:
    """Returns the cause and the remedy of a file that libav does not open.

    Args:
        path: The file.
        why: libav's own reason.
        format_name: libav's name of a format that is not allowed; "" for any other cause.
    """
    head = _head(path)
    kinds = {kind for kind, _, _ in _boxes(path)}
    if encrypted := _encryption(path, head):
        return encrypted
    if b"moof" in kinds and b"moov" not in kinds:
        return (
            "it is a segment of a stream cut in pieces, without the beginning that they share",
            "join the initialisation segment and the others with it first, in their order",
        )
    if "moov atom not found" in why:
        return (
            "it is cut off: the index at the end of the file (its moov atom) is missing",
            "copy or download it again, or let the recording program repair it",
        )
    if format_name in LISTS or _LIST.match(head):
        return (
            "it is not a video file, but a list of others or the address of a stream",
            "name a file that it lists, or play its address with streamdiffvsr live",
        )
    if format_name in SUBTITLES:
        return f"it is not a video file, but subtitles ({_long_name(format_name)})", ""
    if format_name.endswith("_pipe"):
        name = format_name.removesuffix("_pipe").upper()
        if name in _IMAGES:
            return f"it is an image whose beginning is damaged ({name})", ""
        return f"it is an image of a kind that is not read here: {name}", "convert it to PNG first"
    if format_name:
        why = f"it is of a format that is not read here: {_long_name(format_name)}"
        return why, "convert it to another first, such as .mkv"
    if is_cut(path):
        return f"it is cut off before its first frame ({why})", "copy or download it again"
    return f"it is not a video file, or its beginning is damaged ({why})", ""


def why_no_frame(path: Path, why: str) -> tuple[str, str]:
    """Returns the cause and the remedy of a file whose video stream gives no frame."""
    if encrypted := encryption(path):
        return encrypted
    kinds = {kind for kind, _, _ in _boxes(path)}
    if b"moov" in kinds and not kinds & {b"moof", b"mdat"} and b"mvex" in _head(path):
        return (
            "it holds no frame, only the beginning (initialisation segment) of a stream cut in "
            "pieces",
            "join it with its segments first",
        )
    if is_cut(path):
        return f"it is cut off before its first frame{why}", "copy or download it again"
    return f"no frame of it could be decoded{why}", ""


def why_no_decoder(path: Path) -> tuple[str, str]:
    """Returns the cause and the remedy of a file whose video codec libav does not know."""
    if encrypted := encryption(path):
        return encrypted
    entries = [kind.decode("latin-1").strip() for kind in _sample_entries(path)]
    named = f" ({', '.join(entries)})" if entries and all(map(str.isprintable, entries)) else ""
    return f"its video codec is unknown here{named}, or the file is cut off", ""


def encryption(path: Path) -> tuple[str, str] | None:
    """Returns the cause and the remedy of a file with signs of encryption; None without any.

    Signs are no proof: a file that can be decoded is not encrypted.
    """
    return _encryption(path, _head(path))


def _encryption(path: Path, head: bytes) -> tuple[str, str] | None:
    found = next((_PROTECTED[kind] for kind in _sample_entries(path) if kind in _PROTECTED), "")
    for beginning, sign, name in _SIGNS:
        if not found and head.startswith(beginning) and re.search(sign, head, re.DOTALL):
            found = name
    found = found or _scrambled(head)
    return (f"{ENCRYPTED[0]} ({found})", ENCRYPTED[1]) if found else None


def _scrambled(head: bytes) -> str:
    """Returns how a transport or program stream is scrambled; "" if it is not, or no such file."""
    if head[:4] == b"\0\0\1\xba":
        packets = re.finditer(rb"\x00\x00\x01[\xe0-\xef]..[\x80-\xbf]", head, re.DOTALL)
        scrambled = Counter(bool(packet[0][6] & 0x30) for packet in packets)
        return "CSS of DVDs" if scrambled[True] > scrambled[False] / 8 else ""
    for size, first in ((188, 0), (192, 4), (204, 0)):
        places = range(first, len(head) - 3, size)
        if len(places) > 4 and all(head[place] == 0x47 for place in places[:-1]):
            scrambled = Counter(bool(head[place + 3] & 0x80) for place in places)
            return "scrambled by its broadcaster" if scrambled[True] > scrambled[False] else ""
    units = range(0, len(head) - _UNIT, _UNIT)
    if units and all(head[at] & 0xC0 and head[at + 4] == 0x47 for at in units):
        return "AACS of Blu-ray"
    return ""


def is_cut(path: Path) -> bool:
    """Returns whether a file is shorter than it declares."""
    head = _head(path)
    size = path.stat().st_size if path.is_file() else len(head)
    ends = [begin + length for _, begin, length in _boxes(path)]
    if head[:4] == b"RIFF":
        ends.append(8 + int.from_bytes(head[4:8], "little"))
    elif head[:4] == b"\x1aE\xdf\xa3" and (place := head.find(b"\x18\x53\x80\x67")) > 0:
        ends.append(place + 4 + _ebml_size(head[place + 4 : place + 12]))
    elif head[:4] == b"0&\xb2u" and (place := head.find(_ASF_FILE)) > 0:
        ends.append(int.from_bytes(head[place + 40 : place + 48], "little"))
    elif head[:4] == b"\x06\x0e+4":  # where the last part of an MXF should begin
        length = head[16] & 0x7F if head[16] & 0x80 else 0
        ends.append(1 + int.from_bytes(head[17 + length + 24 : 17 + length + 32], "big"))
    return any(end > size for end in ends)


def _ebml_size(data: bytes) -> int:
    """Returns a size coded in EBML; 0 if it is unknown."""
    length = 9 - data[0].bit_length() if data else 9
    if length > len(data):
        return 0
    value = int.from_bytes(data[:length], "big") & ((1 << 7 * length) - 1)
    return 0 if value == (1 << 7 * length) - 1 else length + value


def _sample_entries(path: Path) -> list[bytes]:
    """Returns the four-character codecs of an MP4's tracks; none of other files."""
    found: list[bytes] = []
    for kind, begin, length in _boxes(path, _PARENTS):
        if kind == b"stsd" and length >= 24:
            with path.open("rb") as file:
                file.seek(begin + 16)
                found.append(file.read(8)[4:])
    return found


def _boxes(path: Path, parents: frozenset[bytes] = frozenset()) -> list[tuple[bytes, int, int]]:
    """Returns kind, offset and length of an MP4's boxes, also those in parents; none of others."""
    if not path.is_file():
        return []
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8)[4:] not in _TOP_BOXES:
            return []
        return list(islice(_walk(file, 0, size, parents, 0), _MAX_BOXES))


def _walk(
    file: BinaryIO, begin: int, end: int, parents: frozenset[bytes], depth: int
) -> Iterator[tuple[bytes, int, int]]:
    while begin + 8 <= end:
        file.seek(begin)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        elif length == 0:
            length = end - begin
        yield kind, begin, length
        if length < 8:
            return
        if kind in parents and depth < len(parents):
            yield from _walk(file, begin + 8, min(begin + length, end), parents, depth + 1)
        begin += length


def _head(path: Path) -> bytes:
    """Returns the first part of a file; nothing of a pipe, which reading would consume."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _long_name(format_name: str) -> str:
    """Returns libav's long name of a format."""
    try:
        return av.ContainerFormat(format_name.split(",")[0], "r").long_name
    except ValueError:
        return format_name
