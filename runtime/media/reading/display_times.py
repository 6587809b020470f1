"""The times of decoded frames, in order of display where a container tells them in decoding order.

Runs in the child. AVI, ASF and some writers of other containers give each packet one time, and
frames that come out in order of display have them mixed up. It moves times between neighbouring
frames only; a clock that really jumps is left as it is, and it makes no time up.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from av.container import InputContainer

LONGEST = 16  # frames that may be shown before one that was decoded earlier
# Containers with one time a packet, and codecs to which libav then makes up another by a delay.
_DECODING_TIMES = ("avi", "asf")
_GUESSED = ("h264", "hevc", "vvc")


def tells_decoding_times(container: InputContainer, stream: Any) -> bool:
    """Whether the times of packets to be shown are libav's guess, and only the others are right."""
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
    return container.format.name in _DECODING_TIMES and codec in _GUESSED


class DisplayTimes:
    """Gives each frame the earliest time that neither was given before nor is still to come.

    A frame is held back only while a packet whose time lies between it and the last one has not
    come out of the decoder; where that turns out to be in vain, it is not done again. Where times
    are in order, none is held.

    Args:
        stream: Whose frames they are.
    """

    def __init__(self, container: InputContainer, stream: Any) -> None:
        self._waits = bool(stream.codec_context.codec.reorder)
        self._decoding = tells_decoding_times(container, stream)
        self._expected: list[tuple[int, int]] = []  # of packets: libav's time, and the right one
        self._frames: deque[Any] = deque()
        self._times: list[int] = []  # of those frames; a heap
        self._last: int | None = None
        self._mixed = self._in_vain = 0

    def expect(self, packet: Any) -> None:
        """Know of a packet, before it is decoded."""
        if self._waits and packet is not None and packet.pts is not None:
            decoded = packet.dts if self._decoding and packet.dts is not None else packet.pts
            self._expected.append((packet.pts, decoded))
            del self._expected[: -4 * LONGEST]

    def lose(self, packet: Any) -> None:
        """Know that no frame will come of a packet."""
        if packet is not None:
            self._take(packet.pts)

    def order(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Take what comes out of the decoder; the frames whose times are now known."""
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
        """The frames that are held back."""
        while self._frames:
            yield self._next()

    def _known(self) -> Iterator[Any]:
        while self._frames and not self._is_early():
            yield self._next()

    def _is_early(self) -> bool:
        """Whether a frame with a time before that of the next one is still to come."""
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
        if frame.key_frame:  # what was sent before it came out before it, or was lost
            places = [place for place, one in enumerate(self._expected) if one[0] == frame.pts]
            del self._expected[: places[0] if places else 0]
        return self._take(frame.pts)

    def _take(self, pts: int | None) -> int | None:
        """The right time of a frame or packet, which is no longer expected."""
        for place, (told, time) in enumerate(self._expected):
            if told == pts:
                del self._expected[place]
                return time
        return pts
