"""Decides how to treat each audio stream, by writing its first packets and reading them back.

Runs in the child. Muxers are not reliable here: some accept a stream and write what nothing plays,
some refuse it only at the first packet. So each way is tried in memory, including the remedies that
error messages name.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.container import InputContainer

from ...errors import StreamDiffVSRError, option
from . import libav
from .encoders import CONTAINERS, HOLDS
from .sound_transcode_child import TranscodedStream
from .stream_rules_child import CopiedStream, TimeWindow, codec_of, listed

Choice = Literal["copy", "transcode", "none"]

_ENCODERS = {
    "mp4": ("aac",),
    "mov": ("aac",),
    "mpegts": ("aac",),
    "webm": ("libopus",),
    "matroska": ("libopus", "aac"),
}
_UNDECODABLE = av.error.FFmpegError, ValueError
_LOSSLESS = "flac"  # in Matroska
_NAMES = {"libopus": "opus"}
_TRIED_PACKETS = 24
_TRIED_BYTES = 1 << 20  # of a stream, after which no more packets are tried
SEARCHED_BYTES = 64 << 20  # of the source, for the first packets of all streams
_MPEG_LAYERS = {"mp1", "mp2", "mp3"}  # one family: the packets say which it is
_MOST_SKIPPED = 8  # packets at the beginning that are cut off or damaged
_DEMUXERS = {"mp4": "mov", "mov": "mov", "mpegts": "mpegts"}
_ENDINGS = (".mkv", ".mov", ".mp4", ".ts")  # in the order they are proposed


@dataclass(frozen=True, slots=True)
class Sound:
    """The treatment of one audio stream.

    Attributes:
        index: Its index among the streams of the source.
        encoder: libav's name of the encoder for it; "" if its packets are copied.
        skipped: Number of packets left out at its beginning.
    """

    index: int
    encoder: str = ""
    skipped: int = 0

    def stream(self, template: Any, part: TimeWindow) -> CopiedStream:
        """Returns the stream that does this."""
        if self.encoder:
            return TranscodedStream(template, part, self.encoder)
        return CopiedStream(template, part, self.skipped)


@dataclass(slots=True)
class _Beginning:
    """The first packets of a stream, with their times."""

    path: Path
    template: Any
    packets: list[Any] = field(default_factory=list)
    times: list[tuple[Any, ...]] = field(default_factory=list)
    bytes: int = 0

    @property
    def enough(self) -> bool:
        return len(self.packets) >= _TRIED_PACKETS or self.bytes >= _TRIED_BYTES

    @property
    def start(self) -> Fraction:
        """The start in seconds: far below zero where an MPEG-TS clock wraps around."""
        pts, dts, _, base = self.times[0] if self.times else (None, None, None, None)
        first = pts if pts is not None else dts
        return Fraction(0 if first is None else first * base)

    def add(self, packet: Any) -> None:
        self.packets.append(packet)
        self.times.append((packet.pts, packet.dts, packet.duration, packet.time_base))
        self.bytes += packet.size

    def again(self) -> Iterator[Any]:
        """Yields the packets with the times that were read, which muxers change."""
        if self.template.codec_context is not None:
            self.template.codec_context.flush_buffers()
        for packet, times in zip(self.packets, self.times, strict=True):
            packet.pts, packet.dts, packet.duration, packet.time_base = times
            packet.stream = self.template
            yield packet


def settle(
    path: Path, choice: Choice, *, container: str, suffix: str, codec: str
) -> tuple[list[Sound], list[str]]:
    """Returns how to treat the sound of a source, and notes on what changes.

    Args:
        path: The source.
        choice: Whether to copy packets, re-encode the sound, or leave it out.
        container: libav's name of the output's muxer.
        suffix: The suffix of the output's name.
        codec: The codec of the output's picture, which a proposed container must hold.

    Raises:
        StreamDiffVSRError: The container cannot hold the sound; remedies in it were tried.
    """
    with libav.open_input(path) as source:
        if not source.streams.audio:
            return [], []
        if choice == "none":
            return [], ["sound left out, as asked for"]
        found, notes = _beginnings(path, source)
        settled = [_settled(one, container, choice) for one in found]
        for one, sound in zip(found, settled, strict=True):
            if sound is None:
                raise _refusal(found, one, container, suffix, codec, choice)
            if sound.encoder:
                notes.append(_note(one, sound, suffix, choice))
    return [sound for sound in settled if sound is not None], list(dict.fromkeys(notes))


def _beginnings(path: Path, source: InputContainer) -> tuple[list[_Beginning], list[str]]:
    """Returns the beginnings of the audio streams, and notes on those left out."""
    notes: list[str] = []
    others = of_other_programmes(source)
    streams = [stream for stream in source.streams.audio if stream.index not in others]
    left = len(source.streams.audio) - len(streams)
    if left:
        notes.append(f"sound of another programme left out: {left}")
    found = {stream.index: _Beginning(path, stream) for stream in streams}
    whole = _read_beginnings(source, found)
    for index, one in list(found.items()):
        if not one.packets and (whole or not one.template.codec_context.sample_rate):
            del found[index]
            notes.append("sound left out: the file declares it, and holds none of it")
    return list(found.values()), notes


def of_other_programmes(source: Any) -> set[int]:
    """Returns the streams that belong only to programmes without the picture.

    The programmes of HLS are its variants.
    """
    picture = libav.moving_picture(source)
    if picture is None or source.format.name not in ("mpegts", "hls"):
        return set()
    programmes = _programmes(source)
    ours = [streams for streams in programmes if picture.index in streams]
    if not ours:
        return set()
    return set().union(*programmes) - set().union(*ours)


def _programmes(source: Any) -> list[set[int]]:
    """Returns the streams of each programme, from the text in which libav describes a file."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        described = source.dumps_format()
    finally:
        av.logging.set_level(level)
    found: list[set[int]] = []
    for line in described.splitlines():
        if re.match(r"  Program \d+", line):
            found.append(set())
        elif re.match(r"  No Program", line):
            break
        elif found and (stream := re.match(r"  Stream #\d+:(\d+)", line)):
            found[-1].add(int(stream[1]))
    return found


def _read_beginnings(source: InputContainer, found: dict[int, _Beginning]) -> bool:
    """Reads until there is enough; returns whether the whole source was read."""
    read = 0
    for packet in libav.packets(source, list(source.streams)):
        if packet is None or not packet.size:
            continue
        read += packet.size
        one = found.get(packet.stream_index)
        if one is not None and not one.enough:
            one.add(packet)
        if read > SEARCHED_BYTES or all(one.enough for one in found.values()):
            return False
    return True


def _settled(one: _Beginning, container: str, choice: Choice) -> Sound | None:
    """Returns the best treatment of a stream; None if there is none."""
    index, codec = one.template.index, codec_of(one.template)
    wanted = _encoders(container, one)
    if choice == "transcode" and codec not in _common(container):
        for encoder in wanted:
            if _encodes(one, container, encoder):
                return Sound(index, encoder)
    skipped = _copies(one, container)
    if skipped is not None:
        return Sound(index, skipped=skipped)
    lossless = container == "matroska" and _encodes(one, container, _LOSSLESS)
    if choice == "copy":
        return Sound(index, _LOSSLESS) if lossless else None
    return next((Sound(index, e) for e in wanted if _encodes(one, container, e)), None)


def _encoders(container: str, one: _Beginning) -> Sequence[str]:
    context = one.template.codec_context
    if container == "matroska" and context is not None and context.codec.lossless:
        return (_LOSSLESS, *_ENCODERS[container])
    return _ENCODERS[container]


def _common(container: str) -> set[str]:
    """Returns codecs that re-encoding would not improve."""
    names = {_NAMES.get(name, name) for name in _ENCODERS[container]}
    return names | ({_LOSSLESS} if container == "matroska" else set())


def _copies(one: _Beginning, container: str) -> int | None:
    """Returns how many packets to skip until a container takes a stream; None if it never does."""
    if not listed(container, one.template):
        return None
    if not one.packets:
        return 0 if _written(one, container, Sound(one.template.index)) is not None else None
    for skipped in range(min(_MOST_SKIPPED, len(one.packets))):
        written = _written(one, container, Sound(one.template.index, skipped=skipped))
        if written is not None and _is_same(one, written, container, skipped):
            return skipped
    return None


def _encodes(one: _Beginning, container: str, encoder: str) -> bool:
    written = _written(one, container, Sound(one.template.index, encoder))
    return written is not None and len(_read_back(written, container)[1]) > 0


def _written(one: _Beginning, container: str, sound: Sound) -> io.BytesIO | None:
    """Returns a file of the first packets alone; None if it cannot be written."""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=container) as output:
            stream = sound.stream(one.template, TimeWindow(shift=one.start))
            stream.join(output, {})
            output.start_encoding()
            for packet in one.again():
                for made in stream.placed(packet):
                    with contextlib.suppress(av.error.InvalidDataError):  # a join leaves it out too
                        output.mux(made)
            for made in stream.rest():
                output.mux(made)
    except Exception:  # for any reason, this way does not work
        return None
    file.seek(0)
    return file


def _is_same(one: _Beginning, written: io.BytesIO, container: str, skipped: int) -> bool:
    """Returns whether a written file is read back as the original."""
    if container == "mpegts":
        return True  # so short a file is only guessed at; `listed` has what is read back
    codec, after = _read_back(written, container)
    if codec != codec_of(one.template):
        return {codec, codec_of(one.template)} <= _MPEG_LAYERS
    # With a new decoder: the noise that a decoder generates depends on what it decoded before.
    with libav.open_input(one.path) as fresh:
        stream: Any = fresh.streams[one.template.index]
        before = _decoded(stream.codec_context, list(one.again())[skipped:])
    if not len(before):  # it cannot be decoded here, so the codec has to suffice
        return True
    count = min(len(before), len(after))
    if 2 * count < len(before):
        return False
    # Decoders may leave out samples at the beginning, and a damaged packet may be missing anywhere.
    half = count // 2
    return bool(
        np.array_equal(before[:half], after[:half]) or np.array_equal(before[-half:], after[-half:])
    )


def _read_back(file: io.BytesIO, container: str) -> tuple[str, Any]:
    """Returns the codec and the samples of a written file."""
    file.seek(0)
    try:
        with av.open(file, "r", format=_DEMUXERS.get(container, "matroska")) as again:
            stream = again.streams.audio[0]
            packets = [packet for packet in again.demux(stream) if packet.size]
            return codec_of(stream), _decoded(stream.codec_context, packets)
    except Exception:
        return "", np.empty((0,))


def _decoded(context: Any, packets: Sequence[Any]) -> Any:
    """Decodes packets; returns the samples of the first channel."""
    samples: list[Any] = []
    if context is None:
        return np.empty((0,))
    context.flush_buffers()
    for packet in (*packets, None):
        try:
            frames = context.decode(packet)
        except _UNDECODABLE:
            continue
        for frame in frames:
            # Not planar: PyAV miscounts the planes of eight channels.
            packed = av.AudioResampler(format=frame.format.packed)
            for one in packed.resample(frame):
                samples.append(one.to_ndarray()[0, :: max(1, one.layout.nb_channels)])
    context.flush_buffers()
    return np.concatenate(samples) if samples else np.empty((0,))


def _note(one: _Beginning, sound: Sound, suffix: str, choice: Choice) -> str:
    was, becomes = codec_of(one.template), _NAMES.get(sound.encoder, sound.encoder)
    if choice == "copy":
        return f"sound ({was}) is stored as {becomes}: {suffix} cannot hold it as it is"
    return f"sound ({was}) is re-encoded as {becomes}"


def _refusal(
    found: Sequence[_Beginning],
    one: _Beginning,
    container: str,
    suffix: str,
    codec: str,
    choice: Choice,
) -> StreamDiffVSRError:
    """Returns the error for a stream; each remedy but leaving it out was tried just now."""
    ways: list[str] = []
    for ending in _ENDINGS:
        other = CONTAINERS[ending]
        if other != container and codec in HOLDS[other] and _all_settled(found, other, "copy"):
            ways.append(f"give the output a name that ends in {ending}")
            break
    if choice == "copy" and _all_settled(found, container, "transcode"):
        ways.append(f"use {option('audio', 'transcode')}")
    ways.append(f"leave it out with {option('audio', 'none')}")
    doing = "copy" if choice == "copy" else "encode"
    return StreamDiffVSRError(
        f"could not {doing} the sound into a {suffix} file",
        f"it cannot hold {_sound_name(one.template)}",
        ", or ".join(ways),
    )


def _all_settled(found: Sequence[_Beginning], container: str, choice: Choice) -> bool:
    return all(_settled(one, container, choice) is not None for one in found)


def _sound_name(stream: Any) -> str:
    context = stream.codec_context
    return f"{context.name} sound" if context else "sound of its kind, which is unknown here"
