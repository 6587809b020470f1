"""Copies the source's sound, subtitles, chapters and attachments into an output."""

from __future__ import annotations

import contextlib
import mimetypes
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from ...errors import StreamDiffVSRError
from . import libav
from .sound_copy_child import Choice, settle
from .stream_rules_child import (
    ConvertedSubtitles,
    CopiedStream,
    CopiedSubtitles,
    TimeWindow,
    codec_of,
    holds,
    text_codec,
)

# Tags that muxers write about their own file, so not true of the new one.
_STALE = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate")
_STALE_PREFIXES = ("_statistics", "bps", "number_of_", "vendor_id")
_COVER = av.stream.Disposition.attached_pic
_COVER_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_CODED_RATES = {Fraction(rate) for rate in (24, 25, 30, 48, 50, 60, 100, 120, 150)}
_MOST_PACKETS = 64  # covers come first in a file


class Cover:
    """A cover image.

    Args:
        stream: The cover's stream in the source, which is open.
        data: The encoded image.
    """

    def __init__(self, stream: Any, data: bytes) -> None:
        self._template, self._data = stream, data
        self._stream: Any = None

    def join(self, output: OutputContainer) -> bool:
        """Adds it to an output; returns False if the output cannot hold it."""
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
        """Writes it, if it is a stream, to an output that has its header."""
        if self._stream is None:
            return
        packet = av.Packet(self._data)
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = self._template.time_base, self._stream
        packet.is_keyframe = True
        output.mux(packet)


def covers(path: Path, source: InputContainer) -> list[Cover]:
    """Returns the covers of a source, which is opened again so that it loses no packet."""
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
    """Copies attached files, such as fonts; returns the numbers (copied, left out)."""
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
    """Copies the chapters of the part to keep; returns the numbers (copied, left out)."""
    if output.format.name == "mpegts":
        return 0, len(chapters)
    made: list[Any] = []
    for chapter in chapters:
        base = chapter["time_base"]
        start, end = chapter["start"], max(chapter["start"], chapter["end"])
        first = start if part.start is None else max(start, round(part.start / base))
        last = end if part.end is None else min(end, round(part.end / base))
        if last < first or (last == first and end > start):
            continue  # cut away completely
        shift = round(part.shift / base)
        made.append({**chapter, "start": first - shift, "end": last - shift})
    output.set_chapters(made)
    return len(made), 0


def take_timecode(tags: dict[str, str]) -> str:
    """Removes the time code from tags, and returns it; "" if there is none."""
    keys = [key for key in tags if key.lower() == "timecode"]
    return next(iter([tags.pop(key) for key in keys]), "")


def fits_rate(timecode: str, rate: Fraction | None) -> bool:
    """Returns whether a muxer takes a time code at that rate; otherwise it refuses the file."""
    if not re.fullmatch(r"\d\d:[0-5]\d:[0-5]\d[:;.]\d\d+", timecode) or not rate:
        return False
    dropping = timecode[8] != ":"
    of_ntsc = rate * Fraction(1001, 1000)
    return of_ntsc in (30, 60, 120) if dropping else bool({rate, of_ntsc} & _CODED_RATES)


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """Returns the tags that remain true of another file."""
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in _STALE and not key.lower().startswith(_STALE_PREFIXES)
    }


def stream_tags(tags: dict[str, str]) -> dict[str, str]:
    """Returns a stream's tags that remain true of another file; MP4 reads titles as names."""
    kept = kept_tags(tags)
    if "name" in kept:
        kept.setdefault("title", kept.pop("name"))
    return kept


_MARGIN_S = 30  # streams of a file may be interleaved coarsely
_VENDORS = "com."  # tags such as com.apple.quicktime.make
_SEEKABLE = ("mov", "matroska")  # their index can be trusted


class StreamCopier:
    """Demuxes the source again and copies its other streams to the output.

    Args:
        path: The source.
        container: libav's name of the output's muxer.
        suffix: The suffix of the output's name, for notes.
        codec: The codec of the output's picture, one of `encoders.CODECS`.
        sound: How to treat audio streams; tags are always kept.
        copy_rest: Whether to copy subtitles, covers, attachments, data and chapters.
        part: The part to keep, and its shift in time.
        most_bytes: The most bytes to read of the source; None for all.

    Attributes:
        copied: Number of copied streams by kind, once joined.
        notes: Lines on what was left out and why, once joined.

    Raises:
        StreamDiffVSRError: The source cannot be read, or the container cannot hold its sound.
    """

    def __init__(
        self,
        path: Path,
        *,
        container: str,
        suffix: str,
        codec: str,
        sound: Choice,
        copy_rest: bool = False,
        part: TimeWindow | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self._path, self._part, self._copy_rest = path, part or TimeWindow(), copy_rest
        self._suffix, self._bytes_left = suffix, most_bytes
        self._input = _opened(path)
        settled, self.notes = settle(path, sound, container=container, suffix=suffix, codec=codec)
        streams = self._input.streams
        self._sounds = [one.stream(streams[one.index], self._part) for one in settled]
        self._copies: dict[int, CopiedStream] = {}
        self._covers: list[Cover] = []
        self._packets: Iterator[Any] = iter(())
        self._due: list[Any] = []  # packets with times, not muxed yet
        self._ended = self._finished = False
        self._refused = 0
        self._unfinished: set[int] = set()  # audio streams whose end was not reached yet
        self.copied: Counter[str] = Counter()

    @property
    def time_bases(self) -> list[Fraction]:
        """Seconds per tick of each audio stream."""
        return [sound.time_base for sound in self._sounds]

    @property
    def own_tags(self) -> bool:
        """Returns whether it has vendors' own tags, such as Apple's."""
        return any(key.startswith(_VENDORS) for key in self._input.metadata)

    def join(self, output: OutputContainer, video: Any) -> None:
        """Adds tags and streams to an output that already has its video stream."""
        output.metadata.update(kept_tags(self._input.metadata))
        if self.own_tags and output.format.name == "mpegts":
            self.notes.append(f"tags left out: {self._suffix} cannot hold them; .mkv can")
        picture = libav.moving_picture(self._input)
        if picture:
            video.metadata.update(stream_tags(picture.metadata))
            video.disposition = picture.disposition
        self._keep_timecode(output, video)
        for copy in self._sounds:
            self._copy(output, copy.template, copy)
        if self._copy_rest:
            self._join_rest(output, picture)
        streams = [copy.template for copy in self._copies.values()]
        self._unfinished = {copy.template.index for copy in self._sounds}
        self._seek()
        if self._bytes_left is not None and streams:
            streams = list(self._input.streams)  # bytes of other streams count too
        self._packets = libav.packets(self._input, streams) if streams else iter(())

    def _keep_timecode(self, output: OutputContainer, video: Any) -> None:
        both = [take_timecode(tags) for tags in (video.metadata, output.metadata)]
        code = next(filter(None, both), "")
        if not code:
            return
        if self._part.start is None and fits_rate(code, video.codec_context.framerate):
            video.metadata["timecode"] = code
        else:
            self.notes.append("time code left out: it does not fit these frames")

    def begin(self, output: OutputContainer) -> None:
        """Muxes what precedes all packets, once the output has its header."""
        for cover in self._covers:
            cover.mux(output)

    def copy_until(self, output: OutputContainer, seconds: Fraction | None) -> Iterator[None]:
        """Muxes packets before a time, or all that are left; yields after each."""
        while self._due or not self._finished:
            if not self._due:
                self._read()
            while self._due:
                packet = self._due[0]
                if seconds is not None and packet.dts * packet.time_base >= seconds:
                    return
                self._mux(output, self._due.pop(0))
                yield
        self._refused += sum(copy.take_refused() for copy in self._copies.values())
        if self._refused:
            self.notes.append(f"damaged packets left out: {self._refused}")
            self._refused = 0

    def _mux(self, output: OutputContainer, packet: Any) -> None:
        try:
            output.mux(packet)
        except av.error.InvalidDataError:  # the packet cannot be converted for the muxer
            self._refused += 1

    def _read(self) -> None:
        """Reads the next packet; at the end of the source, takes what is left in the streams."""
        if self._ended:
            self._due = [packet for copy in self._copies.values() for packet in copy.rest()]
            self._finished = True
            return
        for packet in self._packets:
            if packet is None or not packet.size:  # a damaged stretch, or the end of a stream
                continue
            if self._bytes_left is not None:
                self._bytes_left -= packet.size
                if self._bytes_left < 0:
                    break
            copy = self._copies.get(packet.stream_index)
            if copy is None:
                continue
            self._due = copy.placed(packet)
            if not self._due and copy.is_past(packet, _MARGIN_S):
                self._see_end(packet.stream_index)
            return
        self._ended = True

    def _see_end(self, index: int) -> None:
        """Stops reading once all sound has ended; other streams may lie anywhere."""
        if index in self._unfinished:
            self._unfinished.discard(index)
            self._ended = not self._unfinished

    def _seek(self) -> None:
        start = self._part.start
        if start is None or start < 2 * _MARGIN_S:
            return
        if self._input.format.name.startswith(_SEEKABLE):
            with contextlib.suppress(Exception):  # if it fails, read from the beginning
                self._input.seek(int((start - _MARGIN_S) * av.time_base))
                for copy in self._copies.values():
                    copy.note_seek()

    def _join_rest(self, output: OutputContainer, picture: Any) -> None:
        for stream in self._input.streams:
            is_cover = stream.type == "video" and stream.disposition & _COVER
            if is_cover or stream.type in ("audio", "attachment") or stream is picture:
                continue
            self._join_stream(output, stream)
        for cover in covers(self._path, self._input):
            self._join_cover(output, cover)
        count, left = add_attachments(output, self._input.streams.attachments)
        self._count(count, left, "attachment")
        count, left = add_chapters(output, self._input.chapters(), self._part)
        self._count(count, left, "chapter")

    def _join_stream(self, output: OutputContainer, stream: Any) -> None:
        container = output.format.name
        if stream.type == "video":
            self.notes.append("another video stream was left out: one is upscaled")
        elif codec_of(stream) == "bin_data" and self._input.chapters():
            return  # the chapters' own track in an MP4
        elif "timecode" in stream.metadata and container != "mpegts":
            return  # the picture's tag makes a new one
        elif holds(container, stream):
            kind = CopiedSubtitles if stream.type == "subtitle" else CopiedStream
            self._copy(output, stream, kind(stream, self._part))
        elif codec := text_codec(container, stream):
            self._copy(output, stream, ConvertedSubtitles(stream, self._part, codec))
        else:
            self._left_out(f"{_NAMES.get(stream.type, stream.type)} ({codec_of(stream)})")

    def _join_cover(self, output: OutputContainer, cover: Cover) -> None:
        if cover.join(output):
            self._covers.append(cover)
            self.copied["cover"] += 1
        else:
            self._left_out("cover")

    def _copy(self, output: OutputContainer, stream: Any, copy: CopiedStream) -> None:
        copy.join(output, stream_tags(stream.metadata))
        self._copies[stream.index] = copy
        self.copied[stream.type] += 1

    def _count(self, count: int, left: int, kind: str) -> None:
        self.copied += Counter({kind: count})
        if left:
            self._left_out(_NAMES[kind])

    def _left_out(self, what: str) -> None:
        remedy = "" if self._suffix == ".mkv" or what.startswith("data") else "; .mkv can"
        note = f"{what} left out: {self._suffix} cannot hold {_PRONOUN.get(what, 'them')}{remedy}"
        if note not in self.notes:
            self.notes.append(note)


_NAMES = {"subtitle": "subtitles", "attachment": "attachments", "chapter": "chapters"}
_PRONOUN = {"cover": "it"}


def _opened(path: Path) -> InputContainer:
    try:
        return libav.open_input(path)
    except Exception as error:
        raise StreamDiffVSRError(
            f"could not read {str(path)!r} again, for its sound", libav.describe(error)
        ) from error
