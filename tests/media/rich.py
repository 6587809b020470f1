"""A file with all that a file can hold in addition to its picture, made and read with PyAV.

Nothing here uses the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.subtitles.subtitle import SubtitleSet

from streamdiffvsr.tests.media.clips import _add_sound, _write_sound, moving

MS = Fraction(1, 1000)
LINES = ((200, 700, "Guten Tag"), (1000, 1600, "Zwei"))
CHAPTERS = ((0, 900, "Anfang"), (900, 2000, "Ende"))
FONT = b"\x00\x01\x00\x00 a font, or as good as one"
_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment
Style: Default,Arial,16,&Hffffff,2

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


@dataclass
class Rich:
    """Two seconds with two languages of sound; the rest as asked for."""

    subtitles: Sequence[str] = ("subrip",)
    attachment: bool = False
    cover: bool = False
    frames: int = 50
    rate: int = 25
    lines: Sequence[tuple[int, int, str]] = field(default_factory=lambda: LINES)

    def write(self, path: Path) -> Path:
        """Make the file."""
        with av.open(str(path), "w") as output:
            output.metadata["title"] = "Alles"
            output.set_chapters(
                [
                    {"id": n, "start": a, "end": b, "time_base": MS, "metadata": {"title": t}}
                    for n, (a, b, t) in enumerate(CHAPTERS)
                ]
            )
            video: Any = output.add_stream("libx264", rate=self.rate, options={"bf": "0"})
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            sounds = [_add_sound(output, "aac", 48000) for _ in range(2)]
            for sound, language in zip(sounds, ("ger", "eng"), strict=True):
                sound.metadata["language"] = language
            texts = [_add_text(output, codec) for codec in self.subtitles]
            cover = self._add_extras(output)
            self._write_video(output, video)
            for sound in sounds:
                _write_sound(output, sound, self.frames / self.rate)
            for text in texts:
                _write_text(output, text, self.lines)
            if cover:
                output.mux([*cover.encode(av.VideoFrame(32, 32, "yuvj420p")), *cover.encode(None)])
        return path

    def _add_extras(self, output: Any) -> Any:
        if self.attachment:
            output.add_attachment("a.ttf", "font/ttf", FONT)
        if not self.cover:
            return None
        if output.format.name == "matroska":
            output.add_attachment("cover.jpg", "image/jpeg", picture())
            return None
        cover = output.add_stream("mjpeg", rate=1, width=32, height=32, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        return cover

    def _write_video(self, output: Any, video: Any) -> None:
        for index in range(self.frames):
            frame = av.VideoFrame.from_ndarray(moving(index, 48, 64), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, self.rate)
            output.mux(video.encode(frame.reformat(format="yuv420p")))
        output.mux(video.encode(None))


def picture() -> bytes:
    """A JPEG."""
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = 32, 32, "yuvj420p"
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame(32, 32, "yuvj420p")
    return b"".join(bytes(p) for p in (*context.encode(frame), *context.encode(None)))


def _add_text(output: Any, codec: str) -> Any:
    stream = output.add_stream(codec)
    stream.time_base = stream.codec_context.time_base = MS
    stream.codec_context.subtitle_header = _HEADER
    stream.metadata["language"] = "ger"
    stream.disposition = av.stream.Disposition.forced
    return stream


def _write_text(output: Any, stream: Any, lines: Sequence[tuple[int, int, str]]) -> None:
    for number, (start, end, words) in enumerate(lines):
        line = f"{number},0,Default,,0,0,0,,{words}".encode()
        packet = stream.codec_context.encode_subtitle(SubtitleSet.create(line, 0, end - start))
        packet.pts = packet.dts = start
        packet.duration, packet.time_base, packet.stream = end - start, MS, stream
        output.mux(packet)


@dataclass(frozen=True)
class Held:
    """The content of a file in addition to its picture.

    Attributes:
        codecs: Of each stream but the picture, with its language: "aac:ger".
        sounds: For each audio stream, (seconds, bytes) of each packet.
        lines: For each subtitle stream, (start, end, words) in ms.
        forced: Whether each subtitle stream is marked so.
        chapters: (start, end, title) in ms.
        attachments: Name, kind and bytes of each.
        covers: The bytes of each.
    """

    codecs: list[str]
    sounds: list[list[tuple[Fraction, bytes]]]
    lines: list[list[tuple[int, int, str]]]
    forced: list[bool]
    chapters: list[tuple[int, int, str]]
    attachments: list[tuple[str | None, str | None, bytes]]
    covers: list[bytes]


def held(path: Path) -> Held:
    """Read a file with plain PyAV."""
    with av.open(str(path)) as container:
        streams = list(container.streams)
        cover = av.stream.Disposition.attached_pic
        covers = [s.index for s in streams if s.disposition & cover]
        packets: dict[int, list[Any]] = {s.index: [] for s in streams}
        for packet in container.demux():
            if packet.size:
                packets[packet.stream_index].append(packet)
        texts = container.streams.subtitles
        return Held(
            [_name(s) for s in streams if s.type in ("audio", "subtitle")],
            [
                [(p.pts * p.time_base, bytes(p)) for p in packets[s.index]]
                for s in container.streams.audio
            ],
            [[line for p in packets[s.index] for line in _words(s, p)] for s in texts],
            [bool(s.disposition & av.stream.Disposition.forced) for s in texts],
            [
                (_ms(c["start"], c), _ms(c["end"], c), c["metadata"]["title"])
                for c in container.chapters()
            ],
            [(a.name, a.mimetype, a.data) for a in container.streams.attachments],
            [bytes(packets[index][0]) for index in covers],
        )


def _name(stream: Any) -> str:
    return f"{stream.codec_context.codec.canonical_name}:{stream.language}"


def _words(stream: Any, packet: Any) -> list[tuple[int, int, str]]:
    start = round(packet.pts * packet.time_base * 1000)
    end = start + round(packet.duration * packet.time_base * 1000)
    found = stream.codec_context.decode2(packet)
    texts = [rect.dialogue.decode() for rect in found.rects] if found else []
    return [(start, end, text) for text in texts if text]


def _ms(ticks: int, chapter: Any) -> int:
    return round(ticks * chapter["time_base"] * 1000)
