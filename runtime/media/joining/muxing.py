"""The writer's side of a join: the packets of segments beside all that the source holds.

Runs in the child. Nothing is decoded or encoded. When the parent is gone, or anything fails, the
part is deleted; segments are left alone. It knows nothing of the final name.
"""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any

from ....errors import StreamDiffVSRError
from ... import disk
from ...processes import wire
from .. import libav
from .copied import Part
from .origin import Origin
from .output_file import coarse_enough, length_left, open_output
from .packets import Entry, JoinedPackets, open_segment, read_entries

_BEAT_S = 0.25


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Take the ``segments``, send ``beat`` with the frames done, and at the end ``done``."""
    libav.quiet()
    _, payload = wire.receive(inbox)
    entries = read_entries(payload)
    part = Path(arguments["part"])
    try:
        with part.open("wb"):  # asked of the disk now, not after the first frames
            pass
        muxer = _Muxer(part, entries, arguments, outbox)
        muxer.run()
        wire.send(outbox, {"kind": "saving"})  # the one step that may honestly take minutes
        disk.to_disk(part)
        wire.send(outbox, {"kind": "done", "bytes": part.stat().st_size, **muxer.told()})
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class _Muxer:
    def __init__(
        self, part: Path, entries: list[Entry], arguments: dict[str, Any], outbox: RawIOBase
    ) -> None:
        self._outbox, self._frames = outbox, 0
        self._beaten = time.monotonic()
        base = self._time_base = entries[0][1].time_base
        if any(segment.time_base != base for _, segment in entries):
            raise StreamDiffVSRError(
                "could not join finished parts", "they count time in different units"
            )
        start, end, shift = (wire.unpack(arguments[name]) for name in ("start", "end", "shift"))
        ticks = round((shift or Fraction(0)) / base)
        self._packets = JoinedPackets(entries, ticks)
        source = arguments["source"]
        self._origin = source and Origin(
            Path(source),
            copy_sound=arguments["copy_sound"],
            copy_rest=True,
            part=Part(start, end, shift or Fraction(0)),
        )
        self._container: str = arguments["container"]
        self._stored_base = coarse_enough(self._container, base, self._packets.longest)
        bases = [self._stored_base, *(self._origin.time_bases if self._origin else ())]
        self._output = open_output(part, self._container, bases)
        self._stream = self._add_video(entries[0], arguments)
        if self._origin:
            self._origin.join(self._output, self._stream, arguments["suffix"])
        self._output.start_encoding()  # so that what the container cannot hold is said at once
        if self._origin:
            self._origin.begin(self._output)

    def told(self) -> wire.Header:
        """What was copied, and notes of what was not."""
        if not self._origin:
            return {"copied": {}, "notes": []}
        return {"copied": dict(self._origin.copied), "notes": self._origin.notes}

    def run(self) -> None:
        """Write everything; the file is complete when it returns."""
        held: Any = None
        first_dts: int | None = None
        for packet in self._packets:
            first_dts = packet.dts if first_dts is None else first_dts
            if held is not None:
                self._write(held)
            held = packet
        decoded = held.dts - (first_dts or 0)
        shown = self._packets.end - self._packets.first
        held.duration = length_left(self._container, shown, decoded, held.duration)
        self._write(held)
        self._copy_until(None)
        self._output.close()

    def _add_video(self, entry: Entry, arguments: dict[str, Any]) -> Any:
        with open_segment(entry) as source:
            template = source.streams.video[0]
            # `opaque`: by the codec, not by an encoder of the decoder's name (libdav1d has none).
            stream: Any = self._output.add_stream_from_template(template, opaque=True)
            stream.time_base = self._stored_base
            # A hint, as times rule; but a time code has no meaning without it.
            stream.codec_context.framerate = wire.unpack(arguments["rate"]) or Fraction(25)
            if arguments["tag"]:
                stream.codec_context.codec_tag = arguments["tag"]
        return stream

    def _write(self, packet: Any) -> None:
        self._copy_until(packet.dts * self._time_base)
        packet.stream = self._stream
        self._output.mux(packet)
        self._frames += 1
        self._beat()

    def _copy_until(self, seconds: Fraction | None) -> None:
        for _ in self._origin.copy_until(self._output, seconds) if self._origin else ():
            self._beat()

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten >= _BEAT_S:
            self._beaten = now
            wire.send(self._outbox, {"kind": "beat", "frames": self._frames})
