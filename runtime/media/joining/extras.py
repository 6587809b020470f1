"""What a file holds beside its streams in time: tags, chapters, attached files, a cover.

Runs in the child. It copies them into an output that has no header yet, and says what did not fit.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from .. import libav
from .copied import TimeWindow
from .holding import codec_of, holds

# Written by muxers about the file they wrote, so not true of the new one.
_STALE = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate")
_STALE_PREFIXES = ("_statistics", "bps", "number_of_", "vendor_id")
_COVER = av.stream.Disposition.attached_pic
_COVER_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_CODED_RATES = {Fraction(rate) for rate in (24, 25, 30, 48, 50, 60, 100, 120, 150)}
_MOST_PACKETS = 64  # covers come first, so none is looked for further on


class Cover:
    """A picture that stands for the file.

    Args:
        stream: The source's, of an input that is open.
        data: The picture, as it is in the file.
    """

    def __init__(self, stream: Any, data: bytes) -> None:
        self._template, self._data = stream, data
        self._stream: Any = None

    def join(self, output: OutputContainer) -> bool:
        """Add it to an output; False if that cannot hold it."""
        container, codec = output.format.name, codec_of(self._template)
        if container == "matroska" and codec in _COVER_TYPES:
            output.add_attachment(*_COVER_TYPES[codec], self._data)
            return True
        if container != "mp4" or not holds(container, self._template):
            return False
        self._stream = output.add_stream_from_template(self._template, opaque=True)
        self._stream.disposition = _COVER
        return True

    def mux(self, output: OutputContainer) -> None:
        """Write it, where it is a stream; the output has its header."""
        if self._stream is None:
            return
        packet = av.Packet(self._data)
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = self._template.time_base, self._stream
        packet.is_keyframe = True
        output.mux(packet)


def covers(path: Path, source: InputContainer) -> list[Cover]:
    """The covers of a source, which is opened again so that no packet of it is used up."""
    wanted = {s.index: s for s in source.streams.video if s.disposition & _COVER}
    found: list[Cover] = []
    if not wanted:
        return found
    with libav.open_input(path) as again:
        read = libav.packets(again, list(again.streams.video))
        for _, packet in zip(range(_MOST_PACKETS), read, strict=False):
            if packet is not None and packet.size and packet.stream_index in wanted:
                found.append(Cover(wanted.pop(packet.stream_index), bytes(packet)))
    return found


def add_attachments(output: OutputContainer, attachments: Sequence[Any]) -> tuple[int, int]:
    """Copy attached files, such as fonts; (how many were copied, how many were not)."""
    if output.format.name != "matroska":
        return 0, len(attachments)
    for attachment in attachments:
        name = attachment.name or "attachment"
        kind = attachment.mimetype or mimetypes.guess_type(name)[0] or "application/octet-stream"
        output.add_attachment(name, kind, attachment.data)
    return len(attachments), 0


def add_chapters(
    output: OutputContainer, chapters: Sequence[Any], part: TimeWindow
) -> tuple[int, int]:
    """Copy the chapters of what is kept; (how many were copied, how many were not)."""
    if output.format.name == "mpegts":
        return 0, len(chapters)
    made: list[Any] = []
    for chapter in chapters:
        base = chapter["time_base"]
        start, end = chapter["start"], max(chapter["start"], chapter["end"])
        first = start if part.start is None else max(start, round(part.start / base))
        last = end if part.end is None else min(end, round(part.end / base))
        if last < first or (last == first and end > start):
            continue  # all of it was cut away
        shift = round(part.shift / base)
        made.append({**chapter, "start": first - shift, "end": last - shift})
    output.set_chapters(made)
    return len(made), 0


def take_timecode(tags: dict[str, str]) -> str:
    """Remove the time code from tags, and return it; "" if there is none."""
    keys = [key for key in tags if key.lower() == "timecode"]
    return next(iter([tags.pop(key) for key in keys]), "")


def fits_rate(timecode: str, rate: Fraction | None) -> bool:
    """Whether a muxer takes this code for frames of that rate; else it refuses the whole file."""
    if not re.fullmatch(r"\d\d:[0-5]\d:[0-5]\d[:;.]\d\d+", timecode) or not rate:
        return False
    dropping = timecode[8] != ":"
    of_ntsc = rate * Fraction(1001, 1000)
    return of_ntsc in (30, 60, 120) if dropping else bool({rate, of_ntsc} & _CODED_RATES)


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags that are still true of another file."""
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in _STALE and not key.lower().startswith(_STALE_PREFIXES)
    }


def stream_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags of a stream that are still true of another file; MP4 reads titles as names."""
    kept = kept_tags(tags)
    if "name" in kept:
        kept.setdefault("title", kept.pop("name"))
    return kept
