"""The sound of a live session: what its streams are, and when each packet is heard.

Sound stays compressed on its way from the source's process to those of the sinks. It passes by the
engines: a sink holds it back until the picture of its time has been written.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True, slots=True)
class SoundStream:
    """One stream of sound.

    Attributes:
        number: Its place among the streams of sound of the source, from 0.
        codec: libav's name of the codec in the source.
        rate: Samples per second.
        channels: The number of channels.
        identity: A text that is the same for streams whose packets can follow one another.
        template: A media file of one packet, which says how to decode the others.
    """

    number: int
    codec: str
    rate: int
    channels: int
    identity: str
    template: bytes = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the codec, the rate and the number of channels, for JSON."""
        return {"codec": self.codec, "rate": self.rate, "channels": self.channels}


@dataclass(frozen=True, slots=True)
class SoundStreams:
    """The streams of sound of a source, as far as they are known.

    Attributes:
        streams: Those of which a packet has come, by number.
        expected: The number of streams that the source has.
    """

    streams: tuple[SoundStream, ...]
    expected: int


@dataclass(frozen=True, slots=True)
class SoundPacket:
    """A packet of one stream.

    Attributes:
        stream: The stream that it belongs to.
        seconds: When it is heard, on the timeline of the frames; never earlier than the one before.
        duration: For how long it is heard, in seconds; 0 if the source does not say.
        data: The compressed sound.
        arrived: When it came from the source, in seconds of ``time.monotonic``.
    """

    stream: SoundStream
    seconds: float
    duration: float
    data: bytes = field(repr=False)
    arrived: float


Sound: TypeAlias = SoundStreams | SoundPacket
Hear: TypeAlias = Callable[[Sound], None]


@runtime_checkable
class SoundSink(Protocol):
    """A sink that takes sound, too."""

    def hear(self, sound: Sound) -> None:
        """Takes a packet, or the streams whenever they change; returns at once, raises nothing."""


def to_sinks(sinks: Iterable[object]) -> Hear | None:
    """Returns a function that hands sound to those sinks that take it; None if none does."""
    hearing = [sink for sink in sinks if isinstance(sink, SoundSink)]

    def hand_on(sound: Sound) -> None:
        for sink in hearing:
            sink.hear(sound)

    return hand_on if hearing else None


@dataclass(frozen=True, slots=True)
class SoundMessage:
    """A message about sound from the source's process."""

    header: dict[str, Any]
    payload: bytes = field(repr=False)


_MATCHING_S = 0.5  # in which most RTSP servers have said how their clocks go together
_STEP_S = 0.02  # a larger one is their doing
_FEWEST_STEPS = 4  # to know the usual one
_NEAR_S = 5.0  # from where its frames are, a packet of the same clock can be heard
_HELD_S = 3.0  # a packet of another clock waits this long for a frame of it
_HELD = 2000  # packets
_BACK_S = 1e-3


class SoundTimeline:
    """Places sound on the timeline of the frames, by the clock that both have at the source.

    A packet that came before the first frame of its connection, or after a jump of the clock that
    no frame has followed yet, waits for that frame. If none follows, the two have clocks of their
    own, and sound is placed as it comes. All methods are called by one thread, except
    :meth:`to_json`.

    Args:
        hear: Receives the streams and the packets.
        tell: Receives one line when a stream cannot be used.
        matched_late: Whether the clocks of sound and picture are matched a moment after a
            connection begins, as in RTSP. What comes before that waits for it.
    """

    def __init__(
        self, hear: Hear, tell: Callable[[str], None], *, matched_late: bool = False
    ) -> None:
        self._hear, self._tell = hear, tell
        self._matching_s = _MATCHING_S if matched_late else 0.0
        self._matched = False
        self._first_frame: float | None = None  # of this connection, when it was captured
        self._expected = 0
        self._streams: dict[int, SoundStream] = {}
        self._last: dict[int, float] = {}  # when the last packet of a stream is heard
        self._held: deque[SoundMessage] = deque(maxlen=_HELD)
        self._apart: dict[int, float] = {}  # what to add to the clock of a stream
        self._own: float | None = None  # of the last frame, by the source's clock
        self._placed = self._captured = 0.0

    def restart(self) -> None:
        """Notes that another connection begins, with a clock of its own."""
        self._held.clear()
        self._apart.clear()
        self._own = self._first_frame = None
        self._matched = False

    def frame(self, own: float | None, placed: float, captured: float) -> None:
        """Notes where a frame was placed.

        Args:
            own: Its time by the source's clock in seconds, if it has one.
            placed: Its seconds on the timeline.
            captured: When it left the decoder, in seconds of ``time.monotonic``.
        """
        self._own, self._placed, self._captured = own, placed, captured
        if self._first_frame is None:
            self._first_frame = captured
        self._release(captured)

    def take(self, message: SoundMessage) -> None:
        """Takes a message of the source's process."""
        header = message.header
        match header["kind"]:
            case "sound":
                if header["number"] in self._streams:
                    self._held.append(message)
                    self._release(header["captured"])
            case "sounds":
                self._expected = header["count"]
                self._announce()
            case "sound_stream":
                self._describe(message)
            case "sound_lost":
                number, why = header["number"] + 1, header["why"]
                self._tell(f"stream {number} of its sound is left out: {why}")

    def to_json(self) -> list[dict[str, Any]]:
        """Returns what the streams are, for JSON."""
        return [stream.to_json() for _, stream in sorted(self._streams.copy().items())]

    def _announce(self) -> None:
        streams = tuple(stream for _, stream in sorted(self._streams.items()))
        self._hear(SoundStreams(streams, self._expected))

    def _describe(self, message: SoundMessage) -> None:
        """Notes what a stream is; one that goes on as before stays the stream that it was."""
        header = message.header
        stream = SoundStream(
            header["number"],
            header["codec"],
            header["rate"],
            header["channels"],
            header["identity"],
            message.payload,
        )
        if self._streams.get(stream.number) != stream:
            self._streams[stream.number] = stream
            self._announce()

    def _release(self, now: float) -> None:
        """Places the packets that wait, unless there is still something to wait for."""
        if self._first_frame is None or now < self._first_frame + self._matching_s:
            return
        if not self._matched:
            self._matched = True
            self._join_up()
        for _ in range(len(self._held)):
            self._place(self._held.popleft())

    def _join_up(self) -> None:
        """Moves what came before a step of a stream's clock to where that went on."""
        for number in self._streams if self._matching_s else ():
            waiting = [(at, one) for at, one in enumerate(self._held) if _is_timed(one, number)]
            owns = [one.header["own"] for _, one in waiting]
            steps = [after - before for before, after in itertools.pairwise(owns)]
            if len(steps) < _FEWEST_STEPS:
                continue
            usual, moved = statistics.median(steps), 0.0
            for (at, one), step in zip(reversed(waiting[:-1]), reversed(steps), strict=True):
                moved += step - usual if abs(step - usual) > _STEP_S else 0.0
                header = {**one.header, "own": one.header["own"] + moved}
                self._held[at] = SoundMessage(header, one.payload)

    def _place(self, message: SoundMessage) -> None:
        header = message.header
        stream = self._streams[header["number"]]
        seconds = self._seconds(header, stream.number)
        if seconds is None:
            if time.monotonic() - header["captured"] < _HELD_S:
                self._held.append(message)
                return
            seconds = self._set_apart(header, stream.number)
        last = self._last.get(stream.number)
        if last is not None and seconds < last - _BACK_S:
            return  # its time has been heard
        seconds = seconds if last is None else max(seconds, last)
        self._last[stream.number] = seconds
        self._hear(
            SoundPacket(stream, seconds, header["duration"], message.payload, header["captured"])
        )

    def _seconds(self, header: dict[str, Any], number: int) -> float | None:
        """Returns when a packet is heard; None if that is not known before the next frame."""
        now: float = self._placed + header["captured"] - self._captured
        if header["own"] is None or self._own is None:
            return now  # as it came
        own: float = header["own"] + self._apart.get(number, 0.0)
        seconds = self._placed + own - self._own
        return seconds if abs(seconds - now) <= _NEAR_S else None

    def _set_apart(self, header: dict[str, Any], number: int) -> float:
        """Gives a stream a clock of its own from a packet on; returns when that is heard."""
        now: float = self._placed + header["captured"] - self._captured
        assert self._own is not None
        self._apart[number] = now - self._placed + self._own - header["own"]
        self._tell(
            f"stream {number + 1} of its sound has another clock than the picture: it is placed "
            "as it comes"
        )
        return now


def _is_timed(message: SoundMessage, number: int) -> bool:
    return message.header["number"] == number and message.header["own"] is not None
