"""One stream that an output takes over packet by packet, and when its packets are due there.

Runs in the child. Times are moved as the picture's are, cut to the part that is kept, and made to
advance: a stream that jumps back goes on where it was, so no muxer ever refuses a packet. It knows
nothing of other streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer

_JUMP_S = Fraction(1)  # back by more than this: the stream has begun anew


@dataclass(frozen=True, slots=True)
class Part:
    """What is kept of a source, in seconds of it, and what is subtracted from every time."""

    start: Fraction | None = None
    end: Fraction | None = None
    shift: Fraction = Fraction(0)


class CopiedStream:
    """Packets of one stream, unchanged but for their times.

    Args:
        template: The stream of the source.
        part: What is kept of it.
    """

    def __init__(self, template: Any, part: Part) -> None:
        self.template = template
        base = self._base = template.time_base
        self._start = None if part.start is None else part.start / base
        self._end = None if part.end is None else part.end / base
        self._shift = round(part.shift / base)
        self._jumped = 0  # ticks added since the stream jumped back
        self._last: int | None = None  # dts, before the shift
        self._last_duration = 0
        self._stream: Any = None

    def join(self, output: OutputContainer, tags: dict[str, str]) -> None:
        """Add the stream to an output that has no header yet."""
        self._stream = self._add(output)
        self._stream.metadata.update(tags)
        self._stream.disposition = self.template.disposition

    def placed(self, packet: Any) -> list[Any]:
        """The packets to mux for one of the source; empty if it is outside what is kept."""
        self._advance(packet)
        if not self._kept(packet):
            return []
        packet.pts -= self._shift
        packet.dts -= self._shift
        made = self._made(packet)
        for one in made:
            one.stream = self._stream
        return made

    def is_past(self, packet: Any, seconds: int) -> bool:
        """Whether a packet that is not kept is that far behind the end of what is."""
        return self._end is not None and packet.dts > self._end + seconds / self._base

    def _add(self, output: OutputContainer) -> Any:
        return output.add_stream_from_template(self.template, opaque=True)

    def _made(self, packet: Any) -> list[Any]:
        return [packet]

    def _advance(self, packet: Any) -> None:
        """Give the packet times that are there, and later than those of the one before."""
        last, duration = self._last, packet.duration or 0
        dts = packet.dts if packet.dts is not None else packet.pts
        if dts is None:
            dts = 0 if last is None else last + max(1, self._last_duration) - self._jumped
        pts = packet.pts if packet.pts is not None else dts
        pts, dts = pts + self._jumped, dts + self._jumped
        if last is not None and dts <= last:
            back = last + max(1, self._last_duration) - dts
            if back * self._base > _JUMP_S:
                self._jumped += back
                pts, dts = pts + back, dts + back
            dts = max(dts, last + 1)
        packet.pts, packet.dts = max(pts, dts), dts
        self._last, self._last_duration = dts, duration

    def _kept(self, packet: Any) -> bool:
        """Sound and data are kept from the first whole packet on."""
        return (self._start is None or packet.pts >= self._start) and (
            self._end is None or packet.pts < self._end
        )


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

    def __init__(self, template: Any, part: Part, codec: str) -> None:
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
