"""What each container can hold, and the window of time that copied streams are cut to."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer

_MPEGTS = {
    "audio": {"mp1", "mp2", "mp3", "aac", "aac_latm"}
    | {"ac3", "eac3", "dts", "truehd", "opus", "s302m"},
    "subtitle": {"dvb_subtitle", "dvb_teletext"},
    "data": {"klv", "timed_id3"},
}
# Subtitles that are words and times, by container: into which codec they can be turned.
_TEXT = ("subrip", "text", "webvtt", "mov_text")
_TEXT_OF = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


def codec_of(stream: Any) -> str:
    """libav's name of what is in a stream; "unknown" if it does not know."""
    if stream.type == "data":
        return str(stream.name or "unknown")
    context = stream.codec_context
    return str(context.codec.canonical_name) if context else "unknown"


def add_as_it_is(output: OutputContainer, template: Any) -> Any:
    """Add a stream for the packets of another to an output that has no header yet.

    Raises:
        ValueError, av.error.FFmpegError: The output takes none of that codec.
    """
    try:
        return output.add_stream_from_template(template, opaque=True)
    except ValueError:
        if template.type != "audio":
            raise
    # PyAV asks for codecs with a name of their own in the container. The muxer itself also takes
    # those with a number from AVI, such as Windows Media: a stream of sound gets its parameters
    # from a filter that changes nothing. Whether it is true is seen when the header is written.
    with av.open(io.BytesIO(), "w", format="matroska") as other:
        plain = other.add_stream("pcm_s16le", rate=48000)
        stream: Any = output.add_stream_from_template(plain, opaque=True)
    BitStreamFilterContext("null", template, stream)
    stream.codec_context.codec_tag = "\0\0\0\0"  # that of the old container
    stream.time_base = template.time_base
    return stream


def listed(container: str, stream: Any) -> bool:
    """Whether a player finds the stream in a container that takes anything."""
    return container != "mpegts" or codec_of(stream) in _MPEGTS.get(stream.type, ())


def holds(container: str, stream: Any) -> bool:
    """Whether a file of that muxer can hold the stream as it is."""
    if container == "mpegts":
        return listed(container, stream)
    if stream.type == "data" or codec_of(stream) == "unknown":
        return False  # no other muxer here writes them back as what they were
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            add_as_it_is(trial, stream)
            trial.start_encoding()
    except Exception:
        return False
    return True


def text_codec(container: str, stream: Any) -> str:
    """The codec that subtitles can be turned into without losing words; "" if there is none."""
    if stream.type != "subtitle" or codec_of(stream) not in _TEXT:
        return ""
    return _TEXT_OF.get(container, "")


_JUMP_S = {"audio": Fraction(1, 4)}  # back by more than this: the stream has begun anew
_OTHER_JUMP_S = Fraction(1)
_LONGEST_SOUND_S = 60  # of one packet; what says more has gone below zero somewhere
_LONGEST_TICKS = (1 << 31) - 1  # MP4 takes no longer one
_TS_NONSTRICT = 0x20000  # libav's flag of a muxer that takes packets of equal times


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """What is kept of a source, in seconds of it, and what is subtracted from every time."""

    start: Fraction | None = None
    end: Fraction | None = None
    shift: Fraction = Fraction(0)


class CopiedStream:
    """Packets of one stream, unchanged but for their times.

    Args:
        template: The stream of the source.
        part: What is kept of it.
        skipped: How many packets at its beginning are left out, as no muxer takes them.

    Attributes:
        time_base: Seconds per tick of what is muxed.
    """

    def __init__(self, template: Any, part: TimeWindow, skipped: int = 0) -> None:
        self.template, self.time_base = template, template.time_base
        base = self._base = template.time_base
        self._start = None if part.start is None else part.start / base
        self._end = None if part.end is None else part.end / base
        self._shift = round(part.shift / base)
        self._skipped = skipped
        self._refused = 0
        self._jump = int(_JUMP_S.get(template.type, _OTHER_JUMP_S) / base)
        self._offset = 0  # ticks added since the stream jumped back
        self._offset_before: int | None = None
        self._own: int | None = None  # the file's own time of the packet before
        self._last: int | None = None  # and where it was put
        self._last_duration = 0
        self._placed: int | None = None  # the same in ticks of the output
        self._longest = _LONGEST_TICKS
        if template.type == "audio":
            self._longest = min(_LONGEST_TICKS, int(_LONGEST_SOUND_S / base))
        self._spread = template.type == "audio"
        self._output_base: Fraction | None = None  # known when the header is written
        self._over = self._under = 1  # ticks of the output for ticks of the source
        self._strict = False
        self._stream: Any = None

    def join(self, output: OutputContainer, tags: dict[str, str]) -> None:
        """Add the stream to an output that has no header yet."""
        self._stream = self._add(output)
        self._stream.metadata.update(tags)
        self._stream.disposition = self.template.disposition
        self._strict = not output.format.flags & _TS_NONSTRICT

    def placed(self, packet: Any) -> list[Any]:
        """The packets to mux for one of the source; empty if it is outside what is kept."""
        if self._skipped:
            self._skipped, self._refused = self._skipped - 1, self._refused + 1
            return []
        self._advance(packet)
        if not self._kept(packet):
            return []
        self._to_output(packet)
        made = self._made(packet)
        for one in made:
            one.stream = self._stream
        return made

    def rest(self) -> list[Any]:
        """The packets that are left to mux when the source has no more."""
        return []

    def take_refused(self) -> int:
        """How many packets were left out as damaged since this was last asked."""
        refused, self._refused = self._refused, 0
        return refused

    def sought(self) -> None:
        """The source is not read from its beginning."""
        self._skipped = 0

    def is_past(self, packet: Any, seconds: int) -> bool:
        """Whether a packet that is not kept is that far behind the end of what is."""
        if self._end is None or packet.dts is None:
            return False
        return bool(packet.dts > self._end + seconds / self._base)

    def _add(self, output: OutputContainer) -> Any:
        return add_as_it_is(output, self.template)

    def _made(self, packet: Any) -> list[Any]:
        return [packet]

    def _advance(self, packet: Any) -> None:
        """Give the packet times that are there, and not earlier than those of the one before."""
        duration = self._checked_duration(packet)
        own = packet.dts if packet.dts is not None else packet.pts
        late = 0 if packet.pts is None else max(0, packet.pts - (own or 0))
        last, due = self._last, (self._last or 0) + max(1, self._last_duration)
        if last is None:
            dts = own or 0
        elif own is None:
            dts = due
        else:
            dts = self._after(own, last, due)
        packet.pts, packet.dts, packet.duration = dts + late, dts, duration
        self._own = dts - self._offset if own is None else own
        self._last, self._last_duration = dts, duration

    def _after(self, own: int, last: int, due: int) -> int:
        """Where a packet of that own time is put behind the one before it."""
        if self._offset_before is not None and last <= own + self._offset_before <= due + 1:
            self._offset, self._offset_before = self._offset_before, None  # one time was wrong
        dts = own + self._offset
        if last - dts > self._jump:
            self._offset_before, self._offset = self._offset, self._offset + due - dts
            return due
        if own == self._own and self._spread:
            dts = last + self._last_duration  # of a block that is stored under one time
        return max(dts, last)

    def _checked_duration(self, packet: Any) -> int:
        duration = packet.duration or 0
        return duration if 0 <= duration <= self._longest else self._last_duration

    def _kept(self, packet: Any) -> bool:
        """Sound and data are kept from the first whole packet on."""
        return (self._start is None or packet.pts >= self._start) and (
            self._end is None or packet.pts < self._end
        )

    def _to_output(self, packet: Any) -> None:
        """Put the times of a packet in the muxer's ticks, in which they must advance."""
        if self._output_base is None:
            self._output_base = self._stream.time_base
            ticks = self._base / self._output_base
            self._over, self._under = ticks.numerator, ticks.denominator
        if self._over != self._under:
            packet.time_base = self._output_base
        over, under, half = self._over, self._under, self._under // 2
        dts = ((packet.dts - self._shift) * over + half) // under
        pts = ((packet.pts - self._shift) * over + half) // under
        if self._placed is not None:
            dts = max(dts, self._placed + self._strict)
        packet.dts, packet.pts = dts, max(pts, dts)
        packet.duration = (packet.duration * over + half) // under
        self._placed = dts


class CopiedSubtitles(CopiedStream):
    """Subtitles as they are; one that is shown across the start or the end is cut there."""

    def _kept(self, packet: Any) -> bool:
        begin, until = packet.pts, packet.pts + (packet.duration or 0)
        if self._start is not None and begin < self._start < until:
            begin = packet.pts = packet.dts = round(self._start)
        if self._end is not None and until > self._end:
            until = round(self._end)
        if packet.duration:
            packet.duration = max(0, until - begin)
        return super()._kept(packet)


class TurnedSubtitles(CopiedSubtitles):
    """Subtitles of words and times, in another codec that the container can hold.

    Args:
        template: The stream of the source.
        part: What is kept of it.
        codec: libav's name of the codec.
    """

    def __init__(self, template: Any, part: TimeWindow, codec: str) -> None:
        super().__init__(template, part)
        self._codec = codec

    def _add(self, output: OutputContainer) -> Any:
        stream: Any = output.add_stream(self._codec)
        stream.time_base = stream.codec_context.time_base = self._base
        decoder = self.template.codec_context
        decoder.open(strict=False)
        stream.codec_context.subtitle_header = decoder.subtitle_header  # the encoder asks for it
        return stream

    def _made(self, packet: Any) -> list[Any]:
        try:
            words = self.template.codec_context.decode2(packet)
        except av.error.FFmpegError:  # one damaged line is no reason to lose all else
            return []
        if words is None or not len(words):
            return []
        made = self._stream.codec_context.encode_subtitle(words)
        made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
        made.time_base = packet.time_base
        return [made]
