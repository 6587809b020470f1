"""The writer's side of a join: the packets of segments beside all that the source holds.

Runs in the child. The picture is not encoded again. When the parent is gone, or anything fails, the
part is deleted; segments are left alone. Where only what goes beside the picture fails, the picture
is saved from it. It knows nothing of the final name.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any

from ....errors import StreamDiffVSRError
from ... import disk
from ...processes import wire
from .. import libav
from .copied import TimeWindow
from .origin import StreamCopier
from .output_file import coarse_enough, end_exactly, open_output
from .packets import Entry, JoinedPackets, open_segment, read_entries

_BEAT_S = 0.25
_IN_MATROSKA = {"container": "matroska", "suffix": ".mkv", "tag": ""}  # it holds every picture


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Take the ``segments``, send ``beat`` with the frames done, and at the end ``done``."""
    libav.quiet()
    _, payload = wire.receive(inbox)
    entries = read_entries(payload)
    part = Path(arguments["part"])
    try:
        with part.open("wb"):  # asked of the disk now, not after the first frames
            pass
        told = _written(part, entries, arguments, outbox)
        wire.send(outbox, {"kind": "saving"})  # the one step that may honestly take minutes
        disk.to_disk(part)
        wire.send(outbox, {"kind": "done", "bytes": part.stat().st_size, **told})
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _written(
    part: Path, entries: list[Entry], arguments: dict[str, Any], outbox: RawIOBase
) -> wire.Header:
    """Write the file, or where its sound or the like cannot be joined, one that works."""
    try:
        return _Muxer(part, entries, arguments, outbox).run()
    except Exception as error:  # libav's depths raise OverflowError and AttributeError too
        ours = isinstance(error, StreamDiffVSRError) and not isinstance(error, _RefusedError)
        of_disk = getattr(error, "errno", None) in disk.CAUSES
        if arguments["source"] is None or ours or of_disk or isinstance(error, MemoryError):
            raise
        # Frames took hours: they are not lost to a packet of sound that no rehearsal has seen.
        failed = [libav.describe(error), ""]
        if isinstance(error, _RefusedError):
            failed = [error.why, error.remedy]
        for saved in (_IN_MATROSKA, _IN_MATROSKA | {"source": None}):
            with contextlib.suppress(Exception):
                told = _Muxer(part, entries, arguments | saved, outbox).run()
                return told | {"failed": failed, "alone": "source" in saved}
        raise


class _RefusedError(StreamDiffVSRError):
    """The output cannot hold what goes beside the picture."""


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
        self._container: str = arguments["container"]
        self._origin = _origin(arguments, TimeWindow(start, end, shift or Fraction(0)))
        self._stored_base = coarse_enough(self._container, base, self._packets.longest)
        bases = [self._stored_base, *(self._origin.time_bases if self._origin else ())]
        any_tags = self._origin is not None and self._origin.own_tags
        self._output = open_output(part, self._container, bases, any_tags=any_tags)
        with self._closing_at_failure():
            self._stream = self._add_video(entries[0], arguments)
            if self._origin:
                self._origin.join(self._output, self._stream)
            self._output.start_encoding()  # so that what it cannot hold is said at once
            if self._origin:
                self._origin.begin(self._output)

    def run(self) -> wire.Header:
        """Write everything, and tell what was copied and what not; the file is complete then."""
        with self._closing_at_failure():
            self._write_all()
            self._output.close()
        if not self._origin:
            return {"copied": {}, "notes": []}
        return {"copied": dict(self._origin.copied), "notes": self._origin.notes}

    @contextlib.contextmanager
    def _closing_at_failure(self) -> Iterator[None]:
        """What failed writes nothing more: an output that is only dropped still ends its file."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):
                self._output.close()
            raise

    def _write_all(self) -> None:
        held: Any = None
        first_dts: int | None = None
        for packet in self._packets:
            first_dts = packet.dts if first_dts is None else first_dts
            if held is not None:
                self._write(held)
            held = packet
        first, end = self._packets.first, self._packets.end
        end_exactly(self._container, held, first=first, first_dts=first_dts or 0, end=end)
        self._write(held)
        self._copy_until(None)

    def _add_video(self, entry: Entry, arguments: dict[str, Any]) -> Any:
        with open_segment(entry) as source:
            template = source.streams.video[0]
            # `opaque`: by the codec, not by an encoder of the decoder's name (libdav1d has none).
            stream: Any = self._output.add_stream_from_template(template, opaque=True)
            stream.time_base = self._stored_base
            # Codecs that do not tell it themselves have it from the container.
            stream.codec_context.sample_aspect_ratio = template.sample_aspect_ratio or Fraction(1)
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


def _origin(arguments: dict[str, Any], part: TimeWindow) -> StreamCopier | None:
    if arguments["source"] is None:
        return None
    try:
        return StreamCopier(
            Path(arguments["source"]),
            container=arguments["container"],
            suffix=arguments["suffix"],
            codec=arguments["codec"],
            sound=arguments["audio"],
            copy_rest=True,
            part=part,
        )
    except StreamDiffVSRError as error:
        raise _RefusedError(error.what, error.why, error.remedy) from error
