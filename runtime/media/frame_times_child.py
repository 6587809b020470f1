"""Finds when frames are shown where a container has no or wrong times, and measures files."""

from __future__ import annotations

import heapq
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.container import InputContainer

from . import libav

LONGEST = 16  # most frames shown before one that was decoded earlier
# Containers with one time per packet, and codecs for which libav guesses a second by a delay.
_DECODING_TIMES = ("avi", "asf")
_GUESSED = ("h264", "hevc", "vvc")


def has_only_decoding_times(container: InputContainer, stream: Any) -> bool:
    """Returns whether only dts are correct, since pts are libav's guess."""
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
    return container.format.name in _DECODING_TIMES and codec in _GUESSED


class DisplayTimes:
    """Gives each frame the earliest time that is still unused.

    A frame is held back only while the decoder still has a packet with a time between it and the
    last frame; where that turns out to be in vain, it is not done again. Where times are in order,
    no frame is held back.

    Args:
        container, stream: The open file, and its video stream.
    """

    def __init__(self, container: InputContainer, stream: Any) -> None:
        self._waits = bool(stream.codec_context.codec.reorder)
        self._decoding = has_only_decoding_times(container, stream)
        self._expected: list[tuple[int, int]] = []  # of packets: libav's time, and the correct one
        self._frames: deque[Any] = deque()
        self._times: list[int] = []  # of these frames, as a heap
        self._last: int | None = None
        self._mixed = self._in_vain = 0

    def expect(self, packet: Any) -> None:
        """Notes a packet, before it is decoded."""
        if self._waits and packet is not None and packet.pts is not None:
            decoded = packet.dts if self._decoding and packet.dts is not None else packet.pts
            self._expected.append((packet.pts, decoded))
            del self._expected[: -4 * LONGEST]

    def lose(self, packet: Any) -> None:
        """Notes that a packet gives no frame."""
        if packet is not None:
            self._take(packet.pts)

    def order(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Takes frames from the decoder; yields those whose times are now known."""
        for frame in frames:
            time = self._time(frame) if self._waits else None
            if time is None:
                yield from self.rest()
                yield frame
            elif self._last is not None and time <= self._last:  # a clock that jumps
                yield from self.rest()
                frame.pts = self._last = time
                yield frame
            else:
                self._mixed += bool(self._times) and time < self._times[0]
                self._frames.append(frame)
                heapq.heappush(self._times, time)
                yield from self._known()

    def rest(self) -> Iterator[Any]:
        """Yields the frames that are held back."""
        while self._frames:
            yield self._next()

    def _known(self) -> Iterator[Any]:
        while self._frames and not self._is_early():
            yield self._next()

    def _is_early(self) -> bool:
        """Returns whether a frame with an earlier time than the next one is still to come."""
        if self._last is None or not self._waits:
            return False
        last, first = self._last, self._times[0]
        if not any(last < time < first for _, time in self._expected):
            return False
        if len(self._frames) <= LONGEST:
            return True
        self._expected = [one for one in self._expected if not last < one[1] < first]
        self._in_vain += 1
        self._waits = self._decoding or self._mixed > self._in_vain
        return False

    def _next(self) -> Any:
        frame = self._frames.popleft()
        frame.pts = self._last = heapq.heappop(self._times)
        return frame

    def _time(self, frame: Any) -> int | None:
        if frame.pts is None:
            return None
        if frame.key_frame:  # frames of earlier packets came before it, or were lost
            places = [place for place, one in enumerate(self._expected) if one[0] == frame.pts]
            del self._expected[: places[0] if places else 0]
        return self._take(frame.pts)

    def _take(self, pts: int | None) -> int | None:
        """Returns the correct time of a frame or packet, which is no longer expected."""
        for place, (stated, correct) in enumerate(self._expected):
            if stated == pts:
                del self._expected[place]
                return correct
        return pts


WHOLE_BYTES = 8 << 20  # largest file that is read to its end
_END_BYTES = 4 << 20  # read of the beginning, for the seek, and of the end of a larger file
_ENOUGH_FRAMES = 240  # of the beginning
_LONGEST_S = 1.0  # for each read: on a slow disk, the estimate is worse rather than slow
_MOST_BOXES = 100  # of an MP4 that is not fragmented
_SAME = Fraction(1, 100)  # largest relative difference of a measured rate and the exact one
_NTSC_RATES = Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)
_RATES = (*_NTSC_RATES, *map(Fraction, (24, 25, 30, 50, 60, 12, 15)))
_LIKELY_S = Fraction(60)
_ROUNDED_S = Fraction(2, 1000)
_MOST_CHUNKS = 100_000
_CHUNK_HEAD = 8  # bytes in AVI: four letters, and the number of bytes that follow
_JUMP_S = 1  # a larger step back in time means that files were joined
_FAR = 3  # more times as many frames by duration as by bytes mean gaps in the file


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of a video stream.

    Attributes:
        frames: Number of frames; None if unknown.
        seconds: Total duration; None if unknown.
        rate: Frames per second; None if unknown.
        counted: Whether all frames were counted; otherwise the number is an estimate.
        least: The least number of frames, by what was read.
        end: When the last frame is no longer shown, in seconds of the file's own times, where the
            file states it other than by durations of packets.
    """

    frames: int | None = None
    seconds: float | None = None
    rate: Fraction | None = None
    counted: bool = False
    least: int = 0
    end: Fraction | None = None


def measure(path: Path, container: InputContainer, stream: Any) -> Measured:
    """Measures the video stream of a plain file.

    Args:
        container, stream: The open file, of which nothing is read, and its video stream.
    """
    index = getattr(stream, "index_entries", ())  # from PyAV 16 on
    if index and _is_regular_mp4(path, container, stream, index):
        seconds = float(stream.duration * stream.time_base)
        frames = len(index)
        return Measured(frames, seconds, _rate(frames / Fraction(seconds), stream), True, frames)
    size = path.stat().st_size
    reader = libav.LocalFile(path)
    with closing(libav.open_input(path, reader)) as other:
        picture = libav.moving_picture(other)
        if size <= WHOLE_BYTES:
            return _measure_all(path, other, _Stretch(other, picture, reader, None, None))
        head = _Stretch(other, picture, reader, _END_BYTES, _ENOUGH_FRAMES)
        if head.ended:
            return _measure_all(path, other, head)
        reader.left = _END_BYTES
        tail = None
        with suppress(Exception):  # a failed seek raises many kinds of errors
            other.seek((other.duration or 0) + max(0, other.start_time or 0))
            tail = _Stretch(other, picture, reader, _END_BYTES, None)
        return _estimate_from_ends(path, other, head, tail if tail and tail.follows(head) else None)


def claimed(container: InputContainer, stream: Any) -> Measured:
    """Returns the container's own statements, for a source that can be read only once."""
    length = stream.duration * stream.time_base if stream.duration else None
    if length is None and container.duration:
        length = Fraction(container.duration, 1_000_000)
    rate = Fraction(stream.average_rate) if stream.average_rate else None
    estimate = round(length * rate) if length and rate else None
    return Measured(stream.frames or estimate, length and float(length), rate)


class _Stretch:
    """Reads consecutive packets of the video stream and measures them.

    Args:
        container, stream: The open file, read from its position, and its video stream.
        reader: The file that the container reads.
        budget: The most bytes to read; None for all.
        most: The most frames to read; None for all.

    Attributes:
        base: Seconds per tick.
        ended: Whether the file ended before either limit.
        frames, timed: Number of packets with a frame, and of those with a time.
        first, last: Times of frames, in ticks, since the clock last jumped back.
        passed: Ticks before that jump.
        end: When the last frame is no longer shown, in ticks.
        begin, stop: The byte offsets between which frames lie.
        place: The byte offset of the last packet with a frame.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: Any,
        reader: libav.LocalFile,
        budget: int | None,
        most: int | None,
    ) -> None:
        self.stream, self.base = stream, Fraction(stream.time_base)
        self.ended, self.frames, self.timed = False, 0, 0
        self.first = self.last = self.end = self.passed = 0
        self.begin = self.stop = self.place = 0
        self._shown: int | None = None  # time of the last empty packet
        self._decoding = has_only_decoding_times(container, stream)
        due = time.monotonic() + _LONGEST_S
        reader.left = budget
        for packet in libav.packets(container, [stream]):
            if packet is not None:
                self._take(packet)
            if self.frames == most or time.monotonic() > due:
                break
        else:
            self.ended = reader.left is None or reader.left > 0
        reader.left = None

    def _take(self, packet: Any) -> None:
        shown = packet.dts if self._decoding or packet.pts is None else packet.pts
        if not packet.size:  # the last frame stays longer
            if shown is not None and self.timed:
                longer = packet.duration or max(0, shown - max(self.last, self._shown or self.last))
                self.end = max(self.end, shown + longer)
                self._shown = shown
            return
        if packet.is_discard:
            return
        if packet.pos is not None:
            self.begin = self.begin if self.frames else packet.pos
            self.stop, self.place = packet.pos + packet.size, packet.pos
        self.frames += 1
        if shown is None:
            return
        if self.timed and (self.last - shown) * self.base > _JUMP_S:
            self.passed += max(self.end, self.last) - self.first
            self.first = self.last = shown
        if not self.timed or shown >= self.last:
            self.last, self.end = shown, shown + packet.duration
        self.first = min(self.first, shown) if self.timed else shown
        self.timed += 1

    @property
    def span(self) -> Fraction:
        """Seconds from the first frame to the last; 0 where too few have a time."""
        if 2 * self.timed <= self.frames:
            return Fraction(0)
        return Fraction(self.passed + self.last - self.first) * self.base

    @property
    def bytes_a_frame(self) -> Fraction:
        """Bytes per frame, with all that lies between frames; 0 if unknown."""
        return Fraction(max(0, self.stop - self.begin), max(1, self.frames))

    def follows(self, head: _Stretch) -> bool:
        """Returns whether it lies after ``head``, and both have times."""
        return self.frames > 0 and self.span >= 0 < head.span and self.last > head.last


def _measure_all(path: Path, container: InputContainer, found: _Stretch) -> Measured:
    """Returns the measurements of a file that was read completely."""
    if not found.frames:
        return Measured()
    rate = _measured_rate([found])
    first = (found.first - found.passed) * found.base
    if found.span or found.timed == 1:
        end = found.end * found.base
        end += 1 / rate if rate and found.end == found.last else 0
    else:
        end = first + (found.frames / rate if rate else 0)
    stated = _stated_end(path, container, found, end)
    seconds = float(max(end, stated or end) - first) or None
    return Measured(found.frames, seconds, rate, True, found.frames, stated)


def _estimate_from_ends(
    path: Path, container: InputContainer, head: _Stretch, tail: _Stretch | None
) -> Measured:
    """Returns estimates for a file whose beginning and, perhaps, end were read."""
    rate = _measured_rate([head, tail] if tail else [head])
    whole = path.stat().st_size - head.begin
    density = max(head.bytes_a_frame, tail.bytes_a_frame if tail else Fraction(0))
    by_bytes = int(whole / density) if density else 0
    if tail is None:
        seconds = float(by_bytes / rate) if rate and by_bytes else None
        return Measured(by_bytes or None, seconds, rate, False, head.frames, None)
    end = tail.end * tail.base
    if not tail.ended and tail.bytes_a_frame:  # more follows than was to be read
        left = max(0, path.stat().st_size - tail.stop) / tail.bytes_a_frame
        end += left * tail.span / tail.frames
    stated = _stated_end(path, container, tail, end) if tail.ended else None
    length = max(end, stated or end) - (head.first - head.passed - tail.passed) * head.base
    found = Measured(None, float(length), rate, False, head.frames + tail.frames, stated)
    index = getattr(tail.stream, "index_entries", ())
    if container.format.name == "avi" and index and index[-1].pos + _CHUNK_HEAD == tail.place:
        return replace(found, frames=len(index), counted=True, least=len(index))
    if rate is None:
        return found
    frames = round(length * rate)
    if by_bytes and frames > _FAR * by_bytes:
        frames = by_bytes
    sure = max(found.least, min(frames, by_bytes) // 2)  # the middle may differ
    return replace(found, frames=frames, least=sure)


def _stated_end(
    path: Path, container: InputContainer, found: _Stretch, end: Fraction
) -> Fraction | None:
    """Returns when the last picture ends, if the file states it other than by durations."""
    ends: list[Fraction | None] = []
    if not (container.format.name.startswith("mov") and _is_fragmented(path)):
        ends.append(_end_by_header(container, found.stream, end))
    if found.end > found.last:  # perhaps by an empty packet
        ends.append(found.end * found.base)
    if container.format.name == "avi":
        ends.append(end + _empty_chunks(path, found.place, found.stream))
    return max((one for one in ends if one is not None), default=None)


def _end_by_header(container: InputContainer, stream: Any, end: Fraction) -> Fraction | None:
    """Returns when a track ends by its own header; None if that is missing or implausible.

    Args:
        container, stream: The open file, and its video stream.
        end: When its last packet ends, in seconds of the file's own times.
    """
    first = (stream.start_time or 0) * stream.time_base
    stated: list[Fraction] = []
    if container.format.name.startswith("mov") and stream.duration:
        stated = [first + stream.duration * stream.time_base]
    elif container.format.name.startswith("matroska"):
        length = _clock(stream.metadata.get("DURATION", ""))
        stated = [] if length is None else [length, first + length]  # writers mean either
    others = (
        other.duration * other.time_base
        for other in container.streams
        if other.index != stream.index and other.duration and other.time_base
    )
    longest = max((_LIKELY_S, end - first, *others))
    nearest = min((one for one in stated if one >= end - _ROUNDED_S), default=end)
    return nearest if end < nearest <= end + longest else None


def _empty_chunks(path: Path, place: int, stream: Any) -> Fraction:
    """Returns how much longer an AVI shows its last frame, by the empty chunks after it.

    Args:
        place: The offset of that frame's bytes, after the head of their chunk.
        stream: The video stream, whose ticks are frames.
    """
    count = 0
    if place < _CHUNK_HEAD:  # the demuxer did not report it
        return Fraction(0)
    with path.open("rb") as file:
        file.seek(place - _CHUNK_HEAD)
        own = file.read(2)  # the number of the stream
        file.seek(place - _CHUNK_HEAD)
        for _ in range(_MOST_CHUNKS):
            head = file.read(_CHUNK_HEAD)
            if len(head) < _CHUNK_HEAD or head[:4] == b"idx1":
                break
            length = int.from_bytes(head[4:], "little")
            count += head[:2] == own and head[2:4] in (b"dc", b"db") and length == 0
            file.seek(4 if head[:4] in (b"RIFF", b"LIST") else length + length % 2, 1)
    return Fraction(count * stream.time_base)


def _clock(text: str) -> Fraction | None:
    """Parses h:mm:ss.fff to seconds; None if it is no such text."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    if found is None:
        return None
    return 3600 * int(found[1]) + 60 * int(found[2]) + Fraction(found[3])


def _is_regular_mp4(path: Path, container: InputContainer, stream: Any, index: Any) -> bool:
    """Returns whether the index suffices: it is complete, and all frames last equally long."""
    first, last = index[0], index[-1]
    if not container.format.name.startswith("mov") or not stream.duration or first.is_discard:
        return False
    if last.pos + last.size > path.stat().st_size or _is_fragmented(path):
        return False
    steps = last.timestamp - first.timestamp, len(index) - 1
    return bool(steps[1]) and abs(stream.duration * steps[1] - steps[0] * len(index)) <= steps[1]


def _is_fragmented(path: Path) -> bool:
    """Returns whether an MP4 has more frames than its first index lists."""
    with path.open("rb") as file:
        for _ in range(_MOST_BOXES):
            head = file.read(16)
            if len(head) < 8 or head[4:8] == b"moof":
                return head[4:8] == b"moof"
            length = int.from_bytes(head[:4], "big")
            if length == 0:
                return False
            length = int.from_bytes(head[8:], "big") if length == 1 else length
            file.seek(max(8, length) - len(head), 1)
    return True


def _measured_rate(stretches: list[_Stretch]) -> Fraction | None:
    """Returns frames per second; the container's statement where frames have no times."""
    stream, span = stretches[0].stream, sum(one.span for one in stretches)
    if not span:
        stated = stream.average_rate or stream.guessed_rate
        return Fraction(stated) if stated else None
    return _rate(sum(one.timed - 1 for one in stretches if one.span) / span, stream)


def _rate(measured: Fraction, stream: Any) -> Fraction:
    """Returns the exact rate that a measured one approximates."""
    stated = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    for rate in (*stated, min(_RATES, key=lambda rate: abs(rate - measured))):
        if abs(measured - rate) <= _SAME * rate:
            return rate
    return measured.limit_denominator(1001)
