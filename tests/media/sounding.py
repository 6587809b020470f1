"""Files whose sound is odd, made and heard with plain PyAV.

Nothing here uses the code under test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from streamdiffvsr.tests.media.clips import moving

SECONDS = 1


def noise(rate: int, channels: int = 1, seconds: float = SECONDS) -> np.ndarray:
    """(samples, channels) int16 of noise, low enough for any rate: no stretch is like another."""
    steps = np.random.default_rng(rate).normal(0, 3000, (int(rate * seconds) // 8 + 1, channels))
    return np.repeat(steps, 8, 0)[: int(rate * seconds)].astype(np.int16)


def with_sound(
    path: Path,
    codec: str,
    rate: int = 44100,
    channels: int = 1,
    *,
    picture: str = "mpeg4",
    container: str | None = None,
    tags: dict[str, str] | None = None,
    frames: int = 25,
    options: dict[str, str] | None = None,
    count: int = 1024,
) -> Path:
    """A second of pictures and of noise in that codec, in packets of that many samples."""
    with av.open(str(path), "w", format=container, container_options=options or {}) as output:
        output.metadata.update(tags or {})
        video = output.add_stream(picture, rate=25, width=64, height=48, pix_fmt="yuv420p")
        sound: Any = output.add_stream(codec, rate=rate)
        sound.layout = {1: "mono", 2: "stereo", 8: "7.1"}[channels]
        sound.bit_rate = 64000  # some encoders have no default
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(moving(index, 48, 64), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame.reformat(format="yuv420p")))
        output.mux(video.encode(None))
        for frame in framed(noise(rate, channels), rate, sound.layout.name, count):
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return path


def framed(samples: np.ndarray, rate: int, layout: str, count: int) -> list[Any]:
    """Frames of 16-bit samples."""
    frames = []
    for begin in range(0, len(samples), count):
        data = samples[begin : begin + count].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(data, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        frames.append(frame)
    return frames


def retimed(
    source: Path, path: Path, times: Callable[[int], int], base: Fraction = Fraction(1, 1000)
) -> list[int]:
    """The packets of sound at other times, in Matroska, and the times; pictures as they are."""
    given: list[int] = []
    with av.open(str(source)) as original, av.open(str(path), "w", format="matroska") as output:
        copies = [output.add_stream_from_template(stream) for stream in original.streams]
        for packet in original.demux():
            if not packet.size:
                continue
            if packet.stream.type == "audio":
                packet.duration = round(packet.duration * packet.time_base / base)
                packet.time_base = base
                packet.pts = packet.dts = times(len(given))
                given.append(packet.pts)
            packet.stream = copies[packet.stream_index]
            output.mux(packet)
    return given


def heard(path: Path, rate: int = 48000) -> tuple[Fraction, np.ndarray]:
    """Returns when the sound begins after the picture, and its samples in mono, gaps as silence."""
    with av.open(str(path)) as container:
        picture = container.streams.video[0].start_time * container.streams.video[0].time_base
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        pieces: list[tuple[int, np.ndarray]] = []
        for frame in _frames(container):
            at = round((frame.pts * frame.time_base - picture) * rate)
            frame.pts = None
            pieces += [(at, one.to_ndarray()[0]) for one in resampler.resample(frame)]
    first = pieces[0][0]
    line = np.zeros(pieces[-1][0] - first + len(pieces[-1][1]), np.int16)
    for at, samples in pieces:
        place = line[max(0, at - first) :][: len(samples)]
        place[:] = samples[: len(place)]
    return Fraction(first, rate), line


def samples_of(path: Path) -> np.ndarray:
    """All samples of the first channel as they are decoded, regardless of their times."""
    found = []
    with av.open(str(path)) as container:
        for frame in _frames(container):
            data = frame.to_ndarray()
            step = 1 if frame.format.is_planar else frame.layout.nb_channels
            found.append(data[0, ::step])
    return np.concatenate(found)


def _frames(container: Any) -> Iterator[Any]:
    """Frames of the sound; damaged packets give none."""
    for packet in container.demux(audio=0):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()


def lag(one: np.ndarray, other: np.ndarray) -> int:
    """By how many samples the second is late."""
    count = 2 * max(len(one), len(other))
    a, b = np.fft.rfft(one.astype(float), count), np.fft.rfft(other.astype(float), count)
    found = int(np.argmax(np.fft.irfft(b * np.conj(a), count)))
    return found if found < count // 2 else found - count


def lengths_of_mp4(path: Path) -> tuple[Fraction, Fraction, Fraction]:
    """In seconds, of the movie, of its first track, and of that track's edits that show media."""
    data = path.read_bytes()
    scale, movie = _header(_box(data, "moov", "mvhd"), 12)
    _, track = _header(_box(data, "moov", "trak", "tkhd"), 12, scaled=False)
    edits = _box(data, "moov", "trak", "edts", "elst")
    wide = edits[0] == 1
    width = 8 if wide else 4
    shown = 0
    for number in range(int.from_bytes(edits[4:8], "big")):
        at = 8 + number * (2 * width + 4)
        start = int.from_bytes(edits[at + width : at + 2 * width], "big", signed=True)
        if start >= 0:
            shown += int.from_bytes(edits[at : at + width], "big")
    return Fraction(movie, scale), Fraction(track, scale), Fraction(shown, scale)


def _header(box: bytes, at: int, *, scaled: bool = True) -> tuple[int, int]:
    """Time scale, or track number, and duration, of version 0 or 1."""
    wide = box[0] == 1
    at = 20 if wide else at
    gap = 4 if scaled else 8
    duration = box[at + gap : at + gap + (8 if wide else 4)]
    return int.from_bytes(box[at : at + 4], "big"), int.from_bytes(duration, "big")


def _box(data: bytes, *names: str) -> bytes:
    """Returns the content of the first box of the last name, each inside the one before."""
    for name in names:
        at = 0
        while data[at + 4 : at + 8] != name.encode():
            at += int.from_bytes(data[at : at + 4], "big") or len(data)
        data = data[at + 8 : at + int.from_bytes(data[at : at + 4], "big")]
    return data


def of_two_programmes(path: Path, source: Path, groups: Sequence[Sequence[int]]) -> Path:
    """A transport stream whose streams, by their packet ids, belong to different programmes."""
    data = bytearray(source.read_bytes())
    tables = [0x1000 + number for number in range(len(groups))]
    kinds = _stream_kinds(bytes(data))
    out = bytearray()
    for at in range(0, len(data), 188):
        packet = data[at : at + 188]
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid == 0:
            listed = b"".join(
                (n + 1).to_bytes(2, "big") + (0xE000 | table).to_bytes(2, "big")
                for n, table in enumerate(tables)
            )
            out += _section(packet, 0, 0, listed, 1)
        elif pid == 0x1000:
            for number, (table, streams) in enumerate(zip(tables, groups, strict=True)):
                body = (0xE000 | streams[0]).to_bytes(2, "big") + b"\xf0\x00"
                for one in streams:
                    body += bytes([kinds[one]]) + (0xE000 | one).to_bytes(2, "big") + b"\xf0\x00"
                out += _section(packet, table, 2, body, number + 1)
        else:
            out += packet
    path.write_bytes(bytes(out))
    return path


def _stream_kinds(data: bytes) -> dict[int, int]:
    """The kind of each stream that the first programme's table names."""
    at = next(i for i in range(0, len(data), 188) if data[i + 1 : i + 3] == b"\x50\x00")
    table = data[at + 5 : at + 188]
    end = 3 + ((table[1] & 0x0F) << 8 | table[2]) - 4
    at, kinds = 12 + ((table[10] & 0x0F) << 8 | table[11]), {}
    while at < end:
        kinds[(table[at + 1] & 0x1F) << 8 | table[at + 2]] = table[at]
        at += 5 + ((table[at + 3] & 0x0F) << 8 | table[at + 4])
    return kinds


def _section(packet: bytes, pid: int, table: int, body: bytes, number: int) -> bytes:
    head = number.to_bytes(2, "big") + b"\xc1\x00\x00" + body
    section = bytes([table]) + (0xB000 | len(head) + 4).to_bytes(2, "big") + head
    section += _crc(section).to_bytes(4, "big")
    start = b"\x47" + (0x4000 | pid).to_bytes(2, "big") + bytes([packet[3]]) + b"\x00"
    return (start + section).ljust(188, b"\xff")


def _crc(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value
