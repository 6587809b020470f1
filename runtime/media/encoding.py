"""The writer's side of a file sink: RGB to H.264, the source's sound copied beside it, muxed.

Runs in the child. Sound is demuxed from the source a second time and handed over packet by packet
as the picture advances, so the muxer never holds more than it must. When the parent is gone, or
anything fails, the part is deleted. It knows nothing of the final name.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer

from . import libav, wire
from .colour import Colour
from .origin import Origin
from .rgb import RgbFrame

_MAX_TIMESCALE = (1 << 31) - 1


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send ``ready``, take ``frame`` messages, and after ``end`` send ``done``."""
    libav.quiet()
    part = Path(arguments["part"])
    try:
        with part.open("xb"):  # asked of the disk now, not after the first frames
            pass
        writer = _Writer(part, arguments, outbox)
        wire.send(outbox, {"kind": "ready", "audio_streams": writer.audio_streams})
        writer.run(inbox)
        wire.send(outbox, {"kind": "saving"})  # the one step that may honestly take minutes
        _to_disk(part)
        wire.send(outbox, {"kind": "done", "retimed": writer.retimed, "busy": writer.busy})
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class _Writer:
    def __init__(self, part: Path, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        self._outbox = outbox
        self._height, self._width = arguments["size"]
        self._colour = Colour(*arguments["colour"])
        self._time_base = wire.unpack(arguments["time_base"]) or Fraction(1, 90000)
        self._rgb = RgbFrame((self._height, self._width))
        self._first_pts = self._end_pts = 0
        self._last_pts: int | None = None
        self._first_dts: int | None = None
        self._held: Any = None  # the last packet, which may be the last of all
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self.retimed = 0
        self.busy: list[tuple[float, float]] | None = [] if arguments["timed"] else None
        source = arguments["source"]
        self._origin = source and Origin(Path(source), copy_sound=arguments["copy_sound"])
        self._format: str = arguments["format"]
        self._output = self._open(part)
        self._stream = self._add_video(arguments)
        if self._origin:
            self._origin.join(self._output, self._stream, part.suffix)
        self._output.start_encoding()  # so that what the container cannot hold is said at once

    @property
    def audio_streams(self) -> int:
        return self._origin.audio_streams if self._origin else 0

    def run(self, inbox: RawIOBase) -> None:
        """Write frames until ``end``; the file is complete when it returns."""
        while True:
            header, pixels = wire.receive(inbox, self._rgb.memory)
            if header["kind"] == "end":
                break
            started = time.perf_counter()
            self._encode(header, pixels)
            if self.busy is not None:
                self.busy.append((started, time.perf_counter()))
        for packet in self._stream.encode_lazy(None):
            self._mux(packet)
            wire.send(self._outbox, {"kind": "beat"})
        self._write_last()
        if self._origin:
            end = self._end_pts * self._time_base if header["cut_sound"] else None
            for _ in self._origin.copy_until(self._output, end):
                wire.send(self._outbox, {"kind": "beat"})
        self._output.close()

    def _open(self, part: Path) -> OutputContainer:
        options = {}
        if self._format in ("mp4", "mov"):
            # The start of each track is stored in this unit; the default of 1/1000 s would move it.
            bases = [self._time_base, *(self._origin.time_bases if self._origin else ())]
            scale = math.lcm(*(base.denominator for base in bases))
            if scale > _MAX_TIMESCALE:
                scale = self._time_base.denominator
            options["movie_timescale"] = str(scale)
        return av.open(f"file:{part}", "w", format=self._format, container_options=options)

    def _add_video(self, arguments: dict[str, Any]) -> Any:
        stream: Any = self._output.add_stream(
            "libx264",
            rate=wire.unpack(arguments["rate"]) or Fraction(25),  # a hint: times rule
            options={"crf": str(arguments["crf"]), "preset": arguments["preset"]},
            width=self._width,
            height=self._height,
            time_base=self._time_base,
            pix_fmt="yuv420p",
        )
        stream.time_base = self._time_base
        context = stream.codec_context
        context.sample_aspect_ratio = wire.unpack(arguments["sample_aspect"])
        context.colorspace, context.color_range = self._colour.matrix, self._colour.range
        context.color_primaries = self._colour.primaries
        context.color_trc = self._colour.transfer
        return stream

    def _encode(self, header: wire.Header, pixels: memoryview) -> None:
        self._rgb.take(pixels)
        frame = self._rgb.converted("yuv420p", self._colour.swscale_matrix, self._colour.range)
        scale = (wire.unpack(header["time_base"]) or self._time_base) / self._time_base
        pts = round(header["pts"] * scale)
        last = self._last_pts
        if last is not None and pts <= last:  # no container can show two frames at one time
            pts, self.retimed = last + 1, self.retimed + 1
        if last is None:
            self._first_pts = pts
        duration = round((header["duration"] or 0) * scale) or (1 if last is None else pts - last)
        self._durations[pts], self._last_pts, self._end_pts = duration, pts, pts + duration
        frame.pts, frame.time_base = pts, self._time_base
        for packet in self._stream.encode(frame):
            self._mux(packet)

    def _mux(self, packet: Any) -> None:
        packet.duration = self._durations.pop(packet.pts, 0)  # the encoder does not carry it
        if self._first_dts is None:
            self._first_dts = packet.dts
        held, self._held = self._held, packet
        if held:
            self._write(held)

    def _write_last(self) -> None:
        """MP4 adds up durations in decoding order: the last one makes the sum the true length."""
        last = self._held
        if self._format in ("mp4", "mov"):
            before = last.dts - (self._first_dts or 0)
            last.duration = max(1, self._end_pts - self._first_pts - before)
        self._write(last)

    def _write(self, packet: Any) -> None:
        if self._origin:
            for _ in self._origin.copy_until(self._output, packet.dts * packet.time_base):
                pass
        self._output.mux(packet)


def _to_disk(part: Path) -> None:
    """The bytes must be on the disk before the final name points at them."""
    descriptor = os.open(part, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
