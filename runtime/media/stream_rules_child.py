"""Rules of what each container can hold, and the copying of packets with their times."""

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
# Text subtitles, and the codec to convert them to for each container.
_TEXT = ("subrip", "text", "webvtt", "mov_text")
_TEXT_OF = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


def codec_of(stream: Any) -> str:
    """Returns libav's name of a stream's codec; "unknown" if libav does not know it."""
    if stream.type == "data":
        return str(stream.name or "unknown")
    context = stream.codec_context
    return str(context.codec.canonical_name) if context else "unknown"


def add_as_it_is(output: OutputContainer, template: Any) -> Any:
    """Adds a stream for another stream's packets to an output that has no header yet.

    Raises:
        ValueError, av.error.FFmpegError: The output cannot hold that codec.
    """
    try:
        return output.add_stream_from_template(template, opaque=True)
    except ValueError:
        if template.type != "audio":
            raise
    # PyAV takes only codecs that have a tag in the container. The muxer itself also takes those
    # with a number from AVI, such as Windows Media: an audio stream gets its parameters from a
    # filter that changes nothing. Writing the header shows whether the muxer really takes it.
    with av.open(io.BytesIO(), "w", format="matroska") as other:
        plain = other.add_stream("pcm_s16le", rate=48000)
        stream: Any = output.add_stream_from_template(plain, opaque=True)
    BitStreamFilterContext("null", template, stream)
    stream.codec_context.codec_tag = "\0\0\0\0"  # the old container's
    stream.time_base = template.time_base
    return stream


def listed(container: str, stream: Any) -> bool:
    """Returns whether players find the stream; MPEG-TS takes streams that they do not find."""
    return container != "mpegts" or codec_of(stream) in _MPEGTS.get(stream.type, ())


def holds(container: str, stream: Any) -> bool:
    """Returns whether a file of that muxer can hold the stream unchanged."""
    if container == "mpegts":
        return listed(container, stream)
    if stream.type == "data" or codec_of(stream) == "unknown":
        return False  # no other muxer here preserves their type
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            add_as_it_is(trial, stream)
            trial.start_encoding()
    except Exception:
        return False
    return True


def text_codec(container: str, stream: Any) -> str:
    """Returns the codec to convert text subtitles to, without losing words; "" for none."""
    if stream.type != "subtitle" or codec_of(stream) not in _TEXT:
        return ""
    return _TEXT_OF.get(container, "")


_JUMP_S = {"audio": Fraction(1, 4)}  # a larger step back: the stream has started again
_OTHER_JUMP_S = Fraction(1)
_LONGEST_SOUND_S = 60  # of one packet; a longer one is an underflow
_LONGEST_TICKS = (1 << 31) - 1  # the longest duration in MP4
_TS_NONSTRICT = 0x20000  # libav's flag of a muxer that takes packets of equal times


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The part of a source to keep, in its seconds, and the seconds to subtract from times."""

    start: Fraction | None = None
    end: Fraction | None = None
    shift: Fraction = Fraction(0)


class CopiedStream:
    """Copies the packets of one stream, and changes only their times.

    Args:
        template: The stream of the source.
        part: The part to keep.
        skipped: Number of packets at the beginning to leave out, as no muxer takes them.

    Attributes:
        template: The stream of the source.
        time_base: Seconds per tick of the packets to mux.
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
        self._own: int | None = None  # the previous packet's time in the file
        self._last: int | None = None  # the time it was given
        self._last_duration = 0
        self._placed: int | None = None  # the same, in ticks of the output
        self._longest = _LONGEST_TICKS
        if template.type == "audio":
            self._longest = min(_LONGEST_TICKS, int(_LONGEST_SOUND_S / base))
        self._spread = template.type == "audio"
        self._output_base: Fraction | None = None  # known once the header is written
        self._over = self._under = 1  # output ticks per source tick, as a fraction
        self._strict = False
        self._stream: Any = None

    def join(self, output: OutputContainer, tags: dict[str, str]) -> None:
        """Adds the stream to an output that has no header yet."""
        self._stream = self._add(output)
        self._stream.metadata.update(tags)
        self._stream.disposition = self.template.disposition
        self._strict = not output.format.flags & _TS_NONSTRICT

    def placed(self, packet: Any) -> list[Any]:
        """Returns the packets to mux for one of the source; none outside the part to keep."""
        if self._skipped:
            self._skipped, self._refused = self._skipped - 1, self._refused + 1
            return []
        self._advance(packet)
        if not self._kept(packet):
            return []
        self._to_output(packet)
        made = self._converted(packet)
        for one in made:
            one.stream = self._stream
        return made

    def rest(self) -> list[Any]:
        """Returns the packets left to mux at the end of the source."""
        return []

    def take_refused(self) -> int:
        """Returns how many packets were left out as damaged since the last call."""
        refused, self._refused = self._refused, 0
        return refused

    def note_seek(self) -> None:
        """Notes that the source is not read from its beginning, so that no packet is skipped."""
        self._skipped = 0

    def is_past(self, packet: Any, seconds: int) -> bool:
        """Returns whether a packet lies at least that far after the end of the part to keep."""
        if self._end is None or packet.dts is None:
            return False
        return bool(packet.dts > self._end + seconds / self._base)

    def _add(self, output: OutputContainer) -> Any:
        return add_as_it_is(output, self.template)

    def _converted(self, packet: Any) -> list[Any]:
        return [packet]

    def _advance(self, packet: Any) -> None:
        """Sets the packet's times: none is missing, or earlier than those of the previous one."""
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
        """Returns the time of a packet after the previous one."""
        if self._offset_before is not None and last <= own + self._offset_before <= due + 1:
            self._offset, self._offset_before = self._offset_before, None  # a single wrong time
        dts = own + self._offset
        if last - dts > self._jump:
            self._offset_before, self._offset = self._offset, self._offset + due - dts
            return due
        if own == self._own and self._spread:
            dts = last + self._last_duration  # a block of packets stored with one time
        return max(dts, last)

    def _checked_duration(self, packet: Any) -> int:
        duration = packet.duration or 0
        return duration if 0 <= duration <= self._longest else self._last_duration

    def _kept(self, packet: Any) -> bool:
        """Returns whether to keep a packet; sound and data are kept from the first whole one on."""
        return (self._start is None or packet.pts >= self._start) and (
            self._end is None or packet.pts < self._end
        )

    def _to_output(self, packet: Any) -> None:
        """Converts a packet's times to the muxer's ticks, in which they must advance."""
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
    """Copies subtitles; one that is shown across the start or the end is cut there."""

    def _kept(self, packet: Any) -> bool:
        begin, until = packet.pts, packet.pts + (packet.duration or 0)
        if self._start is not None and begin < self._start < until:
            begin = packet.pts = packet.dts = round(self._start)
        if self._end is not None and until > self._end:
            until = round(self._end)
        if packet.duration:
            packet.duration = max(0, until - begin)
        return super()._kept(packet)


class ConvertedSubtitles(CopiedSubtitles):
    """Converts text subtitles to another codec, which the container can hold.

    Args:
        template: The stream of the source.
        part: The part to keep.
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
        stream.codec_context.subtitle_header = decoder.subtitle_header  # the encoder needs it
        return stream

    def _converted(self, packet: Any) -> list[Any]:
        try:
            words = self.template.codec_context.decode2(packet)
        except av.error.FFmpegError:  # a damaged line does not cost the others
            return []
        if words is None or not len(words):
            return []
        made = self._stream.codec_context.encode_subtitle(words)
        made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
        made.time_base = packet.time_base
        return [made]
