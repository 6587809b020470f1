"""What an output takes over from the file it was made from: all but the picture.

Runs in the child, beside the encoder or the joining. Packets are copied as they are, never
decoded; only subtitles of plain words are put into the container's own codec for them, and sound
into another where that is asked for. It does not know how the picture is made.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from ....errors import StreamDiffVSRError
from .. import libav
from .copied import CopiedStream, CopiedSubtitles, TimeWindow, TurnedSubtitles
from .extras import (
    Cover,
    add_attachments,
    add_chapters,
    covers,
    fits_rate,
    kept_tags,
    stream_tags,
    take_timecode,
)
from .holding import codec_of, holds, text_codec
from .sounds import Choice, settle

_COVER = av.stream.Disposition.attached_pic
_MARGIN_S = 30  # streams of a file need not lie closely beside each other
_MAKERS = "com."  # tags such as com.apple.quicktime.make
_SEEKABLE = ("mov", "matroska")  # their index can be trusted


class StreamCopier:
    """The source of an output, demuxed a second time for what is copied from it.

    Args:
        path: The source.
        container: libav's name of the output's muxer.
        suffix: The ending of the output's name, for what is told.
        codec: Of the output's picture, one of `kinds.CODECS`.
        sound: What becomes of its audio streams; its tags are always kept.
        copy_rest: Whether subtitles, covers, attachments, data and chapters are copied.
        part: What is kept, and how it is moved in time.
        most_bytes: Read no more than that of the source; None: all of it.

    Attributes:
        copied: How many streams of each kind were taken over, once joined.
        notes: What was left out and why, a line each, once joined.

    Raises:
        StreamDiffVSRError: The source cannot be read, or the container not hold its sound.
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
        self._due: list[Any] = []  # read and placed, but not due yet
        self._ended = self._finished = False
        self._refused = 0
        self._unfinished: set[int] = set()  # streams of sound whose end was not seen yet
        self.copied: Counter[str] = Counter()

    @property
    def audio_streams(self) -> int:
        """How many streams of sound are taken over."""
        return len(self._sounds)

    @property
    def time_bases(self) -> list[Fraction]:
        """Seconds per tick of each stream of sound."""
        return [sound.time_base for sound in self._sounds]

    @property
    def own_tags(self) -> bool:
        """Whether it has tags by names of their makers, such as Apple's."""
        return any(key.startswith(_MAKERS) for key in self._input.metadata)

    def join(self, output: OutputContainer, video: Any) -> None:
        """Add tags and streams to an output whose video stream is there already."""
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
            self._join_rest(output, self._suffix, picture)
        streams = [copy.template for copy in self._copies.values()]
        self._unfinished = {copy.template.index for copy in self._sounds}
        self._seek()
        if self._bytes_left is not None and streams:
            streams = list(self._input.streams)  # what is read of the others counts, too
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
        """Mux what goes before every packet; the output has its header."""
        for cover in self._covers:
            cover.mux(output)

    def copy_until(self, output: OutputContainer, seconds: Fraction | None) -> Iterator[None]:
        """Mux what is due before that time, or all that is left; yields after each packet."""
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
        except av.error.InvalidDataError:  # of this packet, which is put into another form
            self._refused += 1

    def _read(self) -> None:
        """Place the next packet, if it is kept; when all is read, what is still in the streams."""
        if self._ended:
            self._due = [packet for copy in self._copies.values() for packet in copy.rest()]
            self._finished = True
            return
        for packet in self._packets:
            if packet is None or not packet.size:  # a damaged stretch; the mark of a stream's end
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
        """Nothing more is read when all sound is past; other streams may lie anywhere."""
        if index in self._unfinished:
            self._unfinished.discard(index)
            self._ended = not self._unfinished

    def _seek(self) -> None:
        start = self._part.start
        if start is None or start < 2 * _MARGIN_S:
            return
        if self._input.format.name.startswith(_SEEKABLE):
            with contextlib.suppress(Exception):  # then it is read from the beginning
                self._input.seek(int((start - _MARGIN_S) * av.time_base))
                for copy in self._copies.values():
                    copy.sought()

    def _join_rest(self, output: OutputContainer, suffix: str, picture: Any) -> None:
        container = output.format.name
        for stream in self._input.streams:
            if stream.type == "video" and stream.disposition & _COVER:
                continue
            if stream.type in ("audio", "attachment") or stream is picture:
                continue
            self._join_stream(output, stream, container, suffix)
        for cover in covers(self._path, self._input):
            self._join_cover(output, cover, suffix)
        count, left = add_attachments(output, self._input.streams.attachments)
        self._told(count, left, "attachment", suffix)
        count, left = add_chapters(output, self._input.chapters(), self._part)
        self._told(count, left, "chapter", suffix)

    def _join_stream(
        self, output: OutputContainer, stream: Any, container: str, suffix: str
    ) -> None:
        if stream.type == "video":
            self.notes.append("another video stream was left out: one is upscaled")
        elif codec_of(stream) == "bin_data" and self._input.chapters():
            return  # the chapters' own track in an MP4
        elif "timecode" in stream.metadata and container != "mpegts":
            return  # made anew from the tag of the picture
        elif holds(container, stream):
            kind = CopiedSubtitles if stream.type == "subtitle" else CopiedStream
            self._copy(output, stream, kind(stream, self._part))
        elif codec := text_codec(container, stream):
            self._copy(output, stream, TurnedSubtitles(stream, self._part, codec))
        else:
            self._left_out(f"{_NAMES.get(stream.type, stream.type)} ({codec_of(stream)})", suffix)

    def _join_cover(self, output: OutputContainer, cover: Cover, suffix: str) -> None:
        if cover.join(output):
            self._covers.append(cover)
            self.copied["cover"] += 1
        else:
            self._left_out("cover", suffix)

    def _copy(self, output: OutputContainer, stream: Any, copy: CopiedStream) -> None:
        copy.join(output, stream_tags(stream.metadata))
        self._copies[stream.index] = copy
        self.copied[stream.type] += 1

    def _told(self, count: int, left: int, kind: str, suffix: str) -> None:
        self.copied += Counter({kind: count})
        if left:
            self._left_out(_NAMES[kind], suffix)

    def _left_out(self, what: str, suffix: str) -> None:
        remedy = "" if suffix == ".mkv" or what.startswith("data") else "; .mkv can"
        note = f"{what} left out: {suffix} cannot hold {_PRONOUN.get(what, 'them')}{remedy}"
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
