"""The writer's side of a file sink: RGB encoded, the source's sound copied beside it, muxed.

Runs in the child. Sound is demuxed from the source a second time and handed over packet by packet
as the picture advances, so the muxer never holds more than it must. When the parent is gone, or
anything fails, the part is deleted. It knows nothing of the final name.
"""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any

from .. import durable
from ..processes import messages
from . import libav
from .join_child import end_exactly, open_output
from .rgb import RgbFrame
from .stream_copy_child import StreamCopier
from .video_encoder_child import VideoEncoder
from .writer_child import FrameTimes


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send ``ready``, take ``frame`` messages, and after ``end`` send ``done``."""
    libav.quiet()
    part = Path(arguments["part"])
    try:
        with part.open("xb"):  # asked of the disk now, not after the first frames
            pass
        writer = _Writer(part, arguments, outbox)
        messages.send(outbox, {"kind": "ready", "audio_streams": writer.audio_streams})
        writer.run(inbox)
        messages.send(outbox, {"kind": "saving"})  # the one step that may honestly take minutes
        durable.to_disk(part)
        messages.send(outbox, {"kind": "done", "retimed": writer.retimed, "busy": writer.busy})
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class _Writer:
    def __init__(self, part: Path, arguments: dict[str, Any], outbox: RawIOBase) -> None:
        self._outbox = outbox
        base = self._time_base = messages.unpack(arguments["time_base"]) or Fraction(1, 90000)
        self._rgb = RgbFrame(tuple(arguments["size"]), deep=arguments["deep"])
        self._times = FrameTimes(base)
        self._first_pts: int | None = None
        self._end_pts = 0
        self._first_dts: int | None = None
        self._held: Any = None  # the last packet, which may be the last of all
        self.busy: list[tuple[float, float]] | None = [] if arguments["timed"] else None
        source = arguments["source"]
        self._container: str = arguments["container"]
        self._origin = source and StreamCopier(
            Path(source),
            container=self._container,
            suffix=part.suffix,
            codec=arguments["codec"],
            sound="copy" if arguments["copy_sound"] else "none",
        )
        bases = [base, *(self._origin.time_bases if self._origin else ())]
        any_tags = bool(self._origin and self._origin.own_tags)
        self._output = open_output(part, self._container, bases, any_tags=any_tags)
        self._encoder = VideoEncoder(self._output, arguments, self._rgb)
        if self._origin:
            self._origin.join(self._output, self._encoder.stream)
        self._output.start_encoding()  # so that what the container cannot hold is said at once

    @property
    def audio_streams(self) -> int:
        return self._origin.audio_streams if self._origin else 0

    @property
    def retimed(self) -> int:
        return self._times.retimed

    def run(self, inbox: RawIOBase) -> None:
        """Write frames until ``end``; the file is complete when it returns."""
        while True:
            header, pixels = messages.receive(inbox, self._rgb.memory)
            if header["kind"] == "end":
                break
            started = time.perf_counter()
            self._encode(header, pixels)
            if self.busy is not None:
                self.busy.append((started, time.perf_counter()))
        for packet in self._encoder.flush():
            self._mux(packet)
            messages.send(self._outbox, {"kind": "beat"})
        self._write_last()
        if self._origin:
            end = self._end_pts * self._time_base if header["cut_sound"] else None
            for _ in self._origin.copy_until(self._output, end):
                messages.send(self._outbox, {"kind": "beat"})
        self._output.close()

    def _encode(self, header: messages.Header, pixels: memoryview) -> None:
        self._rgb.take(pixels)
        pts, duration = self._times.place(header)
        if self._first_pts is None:
            self._first_pts = pts
        self._end_pts = pts + duration
        for packet in self._encoder.encode(pts, duration):
            self._mux(packet)

    def _mux(self, packet: Any) -> None:
        if self._first_dts is None:
            self._first_dts = packet.dts
        held, self._held = self._held, packet
        if held:
            self._write(held)

    def _write_last(self) -> None:
        last = self._held
        end_exactly(
            self._container,
            last,
            first=self._first_pts or 0,
            first_dts=self._first_dts or 0,
            end=self._end_pts,
        )
        self._write(last)

    def _write(self, packet: Any) -> None:
        if self._origin:
            for _ in self._origin.copy_until(self._output, packet.dts * packet.time_base):
                pass
        self._output.mux(packet)
