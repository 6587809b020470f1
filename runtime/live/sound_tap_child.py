"""Takes the sound of a live source as it comes, compressed, in a form that any sink can use.

Each stream is described by its first packet in a small media file, which `sound_mux_child` opens as
the template to copy or decode by. Sound of a rare codec is decoded here, as such files do not hold
all that its decoder needs.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av

from ..media import libav
from ..media.sound_copy_child import of_other_programmes
from ..media.stream_rules_child import add_as_it_is, codec_of

_CARRIED = {
    *("aac", "mp1", "mp2", "mp3", "ac3", "eac3", "opus", "vorbis", "flac", "adpcm_g722"),
    *("pcm_mulaw", "pcm_alaw", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"),
}
_MOST_STREAMS = 8
_ADTS_BYTES = 10  # the longest header, and something behind it
_MOST_FAILURES = 50  # in a row: about a second


class SoundTap:
    """Sends the sound of a source to the parent: the number of streams, what each is, packets.

    Args:
        container: The open source.
        picture: Its video stream.
        send: Sends a message with a payload.
        wanted: Whether sound is of use to anyone.

    Attributes:
        streams: The streams whose packets are to be read for it.
    """

    def __init__(
        self, container: Any, picture: Any, send: Callable[..., None], *, wanted: bool
    ) -> None:
        self._send = send
        self.streams: list[Any] = []
        self._ways: dict[int, _Stream] = {}
        if not wanted:
            return
        others = of_other_programmes(container) if container.streams.audio else set()
        found = [stream for stream in container.streams.audio if stream.index not in others]
        for number, stream in enumerate(found[:_MOST_STREAMS]):
            self.streams.append(stream)
            self._ways[stream.index] = _Stream(number, stream)
        send({"kind": "sounds", "count": len(self.streams)})

    def take(self, packet: Any) -> None:
        """Sends what a packet holds; one that cannot be used is left out."""
        way = self._ways.get(packet.stream.index)
        if way is None or way.lost or not packet.size:
            return
        try:
            made = way.carried(packet)
        except (av.error.FFmpegError, ValueError, IndexError, AttributeError) as error:
            if way.failed():
                why = libav.describe(error)
                self._send({"kind": "sound_lost", "number": way.number, "why": why})
            return
        for data, own, duration in made:
            if not way.described:
                self._send(*way.description(packet, data))
            header = {"kind": "sound", "number": way.number, "own": own, "duration": duration}
            self._send({**header, "captured": time.monotonic()}, data)


class _Stream:
    """One stream: carried as it is, without the headers of ADTS, or decoded."""

    def __init__(self, number: int, stream: Any) -> None:
        self.number, self.described, self.lost = number, False, False
        self._stream, self._failures = stream, 0
        self._codec = codec_of(stream)
        self._decoded = self._codec not in _CARRIED
        # What configures its decoder is then in front of each packet.
        self._bare_aac = self._codec == "aac" and not stream.codec_context.extradata
        self._config = b""  # of AAC that came with ADTS headers
        self._resampler: Any = None
        self._rate = self._channels = 0

    def carried(self, packet: Any) -> list[tuple[bytes, float | None, float]]:
        """Returns (data, time, duration) of what a packet holds, in seconds of the source."""
        base = packet.time_base or self._stream.time_base
        at = packet.pts if packet.pts is not None else packet.dts
        own = None if at is None else float(at * base)
        data = bytes(packet)
        if self._bare_aac and not self._decoded:
            data = self._without_header(data)
        if self._decoded:
            return self._samples(packet)
        context = self._stream.codec_context
        if (context.sample_rate, context.channels) != (self._rate, self._channels):
            self._rate, self._channels = context.sample_rate, context.channels
            self.described = False
        if self._rate <= 0:
            raise ValueError("its sample rate is unknown")
        self._failures = 0
        return [(data, own, float((packet.duration or 0) * base))]

    def _without_header(self, data: bytes) -> bytes:
        """Returns a packet of AAC without the header of ADTS; notes what that says.

        Raises:
            ValueError: It has no such header.
        """
        if len(data) < _ADTS_BYTES or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
            raise ValueError("its packets have no headers")
        config = _adts_config(data)
        if config is None:
            self._decoded = True
            return data
        if self._config and config != self._config:
            self.described = False
        self._config = config
        return data[7 if data[1] & 1 else 9 :]

    def failed(self) -> bool:
        """Notes a packet that could not be used; returns whether the stream is given up by that."""
        self._failures += 1
        self.lost = self._failures >= _MOST_FAILURES
        return self.lost

    def description(self, packet: Any, data: bytes) -> tuple[dict[str, Any], bytes]:
        """Returns the message that describes the stream by its first packet, and its payload."""
        self.described = True
        carried = "pcm_s16le" if self._decoded else self._codec
        extra = self._config or bytes(self._stream.codec_context.extradata or b"")
        header = {
            "kind": "sound_stream",
            "number": self.number,
            "codec": self._codec,
            "rate": self._rate,
            "channels": self._channels,
            "identity": f"{carried} {self._rate} {self._channels} {extra.hex()}",
        }
        # The muxer of MP4 makes the configuration out of the headers of ADTS.
        return header, self._file("mp4", bytes(packet)) if self._config else self._file("nut", data)

    def _file(self, form: str, data: bytes) -> bytes:
        """Returns a file of one packet."""
        file = io.BytesIO()
        with av.open(file, "w", format=form) as output:
            if self._decoded:
                made = output.add_stream("pcm_s16le", self._rate, layout=_layout(self._channels))
            else:
                made = add_as_it_is(output, self._stream)
            output.start_encoding()
            packet = av.Packet(data)
            packet.pts = packet.dts = 0
            packet.stream, packet.time_base = made, made.time_base or Fraction(1, 1000)
            packet.is_keyframe = True
            output.mux(packet)
        return file.getvalue()

    def _samples(self, packet: Any) -> list[tuple[bytes, float | None, float]]:
        made = []
        for frame in self._stream.codec_context.decode(packet):
            channels = 1 if frame.layout.nb_channels < 2 else 2
            if (frame.sample_rate, channels) != (self._rate, self._channels):
                self._rate, self._channels, self.described = frame.sample_rate, channels, False
                self._resampler = av.AudioResampler(
                    format="s16", layout=_layout(channels), rate=frame.sample_rate
                )
            own = None if frame.pts is None else float(frame.pts * frame.time_base)
            for one in self._resampler.resample(frame):
                data = one.to_ndarray().tobytes()
                made.append((data, own, one.samples / one.sample_rate))
        self._failures = 0
        return made


def _layout(channels: int) -> str:
    return {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(channels, f"{channels}c")


def _adts_config(data: bytes) -> bytes | None:
    """Returns the configuration that an ADTS header stands for; None if it says too little."""
    profile, rate = data[2] >> 6, data[2] >> 2 & 15
    channels = (data[2] & 1) << 2 | data[3] >> 6
    if not channels or rate > 12 or data[6] & 3:
        return None
    return ((profile + 1) << 11 | rate << 7 | channels << 3).to_bytes(2, "big")
