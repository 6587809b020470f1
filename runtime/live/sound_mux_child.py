"""Writes the sound of a live output next to its picture: copied where the target takes it, else
encoded for it. Runs in the child of a sink.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from ..media import libav
from ..media.sound_transcode_child import TranscodedStream
from ..media.stream_rules_child import CopiedStream, TimeWindow, codec_of, holds
from .sound_targets import Takes, takes_of

_UNUSABLE = av.error.FFmpegError, ValueError, AttributeError, IndexError
_REFUSED = av.error.InvalidDataError, av.error.ArgumentError, ValueError
_DRIFT_S = Fraction(1, 40)  # so that it stays within the 40 ms that are promised
_MOST_FAILURES = 50  # in a row, after which a stream is left out
_TRIED = ("mp4", "mov", "matroska", "mpegts", "flv")  # muxers that can write into memory


def open_template(text: str) -> Any:
    """Opens the file that describes a stream of sound, in base 64; it can lead to no other file.

    Raises:
        av.error.FFmpegError: It is of another kind than a capturing process writes.
    """
    only = {"format_whitelist": "nut,mov,mp4,m4a,3gp,3g2,mj2", "protocol_whitelist": "none"}
    return av.open(io.BytesIO(base64.b64decode(text)), options=only, metadata_errors="replace")


class NoSound:
    """The part of an output that writes sound, for one that has none."""

    @property
    def about(self) -> list[dict[str, Any]]:
        """Nothing: it has no streams of sound."""
        return []

    def hear(self, packets: list[list[Any]], payload: memoryview) -> None:
        """Does nothing."""

    def heard(self) -> None:
        """Returns nothing, as no sound was written."""


class Track:
    """One stream of sound of an output.

    Attributes:
        about: What it is, for the status: `codec`, and `how` ("copied" or "transcoded").
    """

    def __init__(self, template: Any, takes: Takes, muxer: str) -> None:
        self._template = template
        codec = codec_of(template)
        copied = codec in takes.copied and (muxer not in _TRIED or holds(muxer, template))
        own = template.codec_context
        copied = copied and takes.form in (None, (own.sample_rate, own.layout.name))
        self._stream: Any = (
            CopiedStream(template, TimeWindow())
            if copied
            else TranscodedStream(template, TimeWindow(), takes.encoder, _DRIFT_S, takes.form)
        )
        encoded = takes.encoder.removeprefix("lib")
        how = "copied" if copied else "transcoded"
        self.about = {"codec": codec if copied else encoded, "how": how}

    def join(self, container: Any) -> None:
        """Adds the stream to an output without a header yet."""
        self._stream.join(container, {})

    def placed(self, data: bytes, seconds: float, duration: float) -> list[Any]:
        """Returns the packets to mux for one of the source.

        Raises:
            ValueError: It is damaged.
        """
        packet = av.Packet(data)
        base = self._template.time_base
        packet.stream, packet.time_base = self._template, base
        packet.pts = packet.dts = round(seconds / base)
        packet.duration = round(duration / base)
        packet.is_keyframe = True  # else ffmpeg 9 passes none of AAC on
        made: list[Any] = self._stream.placed(packet)
        if self._stream.take_refused() and not made:
            raise ValueError("it cannot be decoded")
        return made

    def rest(self) -> list[Any]:
        """Returns the packets that are still in the encoder."""
        made: list[Any] = self._stream.rest()
        return made


class Soundtrack:
    """All sound of an output.

    Args:
        arguments: Those of the sink's child, of which `sounds` describes the streams.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._tracks: dict[int, Track] = {}
        self._files: list[Any] = []  # of the templates, which must stay open
        self._lost: list[str] = []
        self._failures: dict[int, int] = {}  # in a row
        self._written = self._dropped = 0
        muxer: str = arguments["format"]
        takes = takes_of(arguments["kind"], muxer)
        if takes is None:
            return
        for sound in arguments["sounds"]:
            number = sound["number"]
            if len(self._tracks) == takes.most:
                why = f"at most {takes.most} can be sent"
                self._lost.append(f"stream {number + 1} of its sound is left out: {why}")
                continue
            try:
                self._open(number, sound, takes, muxer)
            except _UNUSABLE as error:
                self._lose(number, error)

    def _open(self, number: int, sound: dict[str, Any], takes: Takes, muxer: str) -> None:
        file = open_template(sound["template"])
        self._files.append(file)
        self._tracks[number] = Track(file.streams.audio[0], takes, muxer)

    def join(self, container: Any) -> None:
        """Adds the streams to an output without a header yet."""
        for number, track in list(self._tracks.items()):
            try:
                track.join(container)
            except _UNUSABLE as error:
                self._lose(number, error)

    @property
    def about(self) -> list[dict[str, Any]]:
        """The `number`, `codec` and `how` of each stream, for JSON."""
        return [{"number": number, **track.about} for number, track in self._tracks.items()]

    @property
    def options(self) -> dict[str, str]:
        """The options of the muxer that sound makes necessary."""
        if not self._tracks:
            return {}
        return {"max_interleave_delta": "1"}  # microseconds: no picture waits for sound

    def write(self, container: Any, packets: list[list[Any]], payload: memoryview) -> None:
        """Writes packets, each [number, seconds, duration, bytes]; their data follow one another.

        Raises:
            OSError: The output cannot be written.
        """
        start = 0
        for number, seconds, duration, size in packets:
            data, start = bytes(payload[start : start + size]), start + size
            track = self._tracks.get(number)
            if track is None:
                self._dropped += 1
                continue
            try:
                self._mux(container, track.placed(data, seconds, duration))
            except _REFUSED as error:
                self._dropped += 1
                self._failures[number] = self._failures.get(number, 0) + 1
                if self._failures[number] > _MOST_FAILURES:
                    self._lose(number, error)
            else:
                self._failures[number] = 0

    def close(self, container: Any) -> None:
        """Writes what the encoders still hold."""
        for track in self._tracks.values():
            with contextlib.suppress(*_REFUSED):
                self._mux(container, track.rest())

    def report(self) -> dict[str, Any]:
        """Returns what became of the packets since the last call, for the parent."""
        made = {"written": self._written, "dropped": self._dropped, "lost": self._lost}
        self._written, self._dropped, self._lost = 0, 0, []
        return {**made, "about": self.about}

    def _mux(self, container: Any, made: Iterator[Any] | list[Any]) -> None:
        for packet in made:
            container.mux(packet)
            self._written += 1

    def _lose(self, number: int, error: Exception) -> None:
        self._tracks.pop(number, None)
        self._lost.append(f"stream {number + 1} of its sound is left out: {libav.describe(error)}")
