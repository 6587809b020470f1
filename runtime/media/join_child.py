"""Muxes the packets of segments and of copied streams into the output file.

A rehearsal joins the beginning of a source to an output in memory. It runs the code of the join
itself, so that both report the same, and finds before any frame is upscaled what a muxer refuses
only at the first packet.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import RawIOBase
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer, OutputContainer

from ... import durable
from ...errors import StreamDiffVSRError, option
from ..processes import messages
from . import libav
from .encoders import HOLDS, SOFTWARE
from .info import LONGEST_TICKS, Segment
from .stream_copy_child import StreamCopier
from .stream_rules_child import TimeWindow
from .video_encoder_child import DecodingTimes

_MAX_TIMESCALE = (1 << 31) - 1
_MOST_QUEUED_US = "500000"  # in the muxer's queue; lossless 4K is gigabytes per second


def open_output(
    part: Path | BinaryIO, container: str, time_bases: Sequence[Fraction], *, any_tags: bool = False
) -> OutputContainer:
    """Opens an output file.

    Args:
        part: The path, or an open file.
        container: libav's name of the muxer.
        time_bases: The time base of the picture, then those of sound.
        any_tags: Whether to keep tags whose names are not the container's own.
    """
    # Packets come in order, and waiting for a rare subtitle or cover packet is in vain.
    options = {"max_interleave_delta": _MOST_QUEUED_US}
    if container in ("mp4", "mov"):
        # The unit of each track's start, which the default of 1/1000 s would move.
        scale = math.lcm(*(base.denominator for base in time_bases))
        if scale > _MAX_TIMESCALE:
            scale = time_bases[0].denominator
        options["movie_timescale"] = str(scale)
        if any_tags:
            options["movflags"] = "use_metadata_tags"
    target = f"file:{part}" if isinstance(part, Path) else part
    return av.open(target, "w", format=container, container_options=options)


def coarse_enough(container: str, base: Fraction, longest: int) -> Fraction:
    """Returns the time base of the picture's stream; MP4 stores times between frames in 31 bits.

    Args:
        container: libav's name of the muxer.
        base: Seconds per tick of the picture.
        longest: The longest time between packets, in ticks.
    """
    while container in ("mp4", "mov") and longest > _MAX_TIMESCALE:
        base, longest = 2 * base, longest // 2
    return base


def end_exactly(container: str, last: Any, *, first: int, first_dts: int, end: int) -> None:
    """Adjusts the last packet in decoding order, so that the track ends with the picture.

    MP4 adds up durations in decoding order for the length of a track, and shows a movie until the
    latest packet's time plus duration: both become the true end of the picture.

    Args:
        container: libav's name of the muxer.
        last: The packet, with times in ticks, like all below.
        first: When the first frame is shown.
        first_dts: When the first packet is decoded.
        end: When the last frame is no longer shown.
    """
    if container not in ("mp4", "mov"):
        return
    left = (end - first) - (last.dts - first_dts)
    over = max(0, last.pts + left - end)  # it would outlast the picture: decode it later
    last.dts = min(last.pts, last.dts + over)
    last.duration = max(1, left - over)


Entry = tuple[Path, Segment]


def read_entries(payload: memoryview) -> list[Entry]:
    """Returns the (folder, segment) pairs that a parent sent."""
    entries: list[tuple[str, messages.Header]] = json.loads(bytes(payload))
    return [(Path(folder), Segment.from_json(fields)) for folder, fields in entries]


def open_segment(entry: Entry) -> InputContainer:
    """Opens the file of a segment, with the times that the muxer was given.

    Raises:
        StreamDiffVSRError: It is missing or damaged.
    """
    path = _path(entry)
    try:
        return av.open(
            f"file:{path}", options={"ignore_editlist": "1", "format_whitelist": "mov,mp4"}
        )
    except Exception as error:
        raise _damaged(path, "it cannot be read") from error


class JoinedPackets:
    """The packets of all segments, in decoding order, with times in ticks of the output.

    Args:
        entries: At least one.
        shift: Ticks subtracted from every time.

    Attributes:
        first, end: When the first frame is shown, and when the last is no longer shown, in ticks.
        longest: The longest possible time between decoding two consecutive packets, in ticks.
    """

    def __init__(self, entries: Sequence[Entry], shift: int) -> None:
        self._entries, self._shift = entries, shift
        segments = [segment for _, segment in entries]
        self._reorder = max(segment.reorder for segment in segments)
        self._step = min(segment.shortest for segment in segments)
        self.first, self.end = segments[0].first_pts - shift, segments[-1].end_pts - shift
        inside = [ticks for segment in segments for _, ticks in segment.gaps]
        between = [b.first_pts - a.end_pts for a, b in pairwise(segments)]
        self.longest = (self._reorder + 1) * (LONGEST_TICKS + max(0, *inside, *between, 0))

    def __iter__(self) -> Iterator[Any]:
        """Yields packets with pts, dts and, as far as it is known, their duration."""
        times = DecodingTimes(self.first, self._reorder, self._step)
        for packet in self._with_times():
            packet.dts = times.of(packet.pts)
            yield packet

    def _with_times(self) -> Iterator[Any]:
        extradata: bytes | None = None
        last = self._entries[-1]
        for entry in self._entries:
            with open_segment(entry) as source:
                stream = source.streams.video[0]
                own = bytes(stream.codec_context.extradata or b"")
                if extradata is not None and own != extradata:
                    raise _damaged(_path(entry), "it was encoded in another way than the others")
                extradata = own
                yield from self._segment_packets(entry, source, is_last=entry is last)

    def _segment_packets(
        self, entry: Entry, source: InputContainer, *, is_last: bool
    ) -> Iterator[Any]:
        segment, stream = entry[1], source.streams.video[0]
        assert stream.time_base is not None
        ticks = stream.time_base / segment.time_base
        start: int | None = None
        latest = _latest(entry) if is_last else None
        count, held = 0, None
        for packet in source.demux(stream):
            if not packet.size:
                continue
            assert packet.pts is not None
            start = packet.pts if start is None else start  # the first packet is shown first
            at = round((packet.pts - start) * ticks)
            at += sum(added for since, added in segment.gaps if since <= at)
            shown_last = packet.pts == latest
            packet.pts = segment.first_pts - self._shift + at
            packet.time_base, packet.duration = segment.time_base, self._step
            if shown_last:
                packet.duration = max(1, self.end - packet.pts)
            count += 1
            if held is not None:
                yield held
            held = packet
        if count != segment.frames or held is None:
            raise _damaged(_path(entry), f"it has {count} frames, not {segment.frames}")
        yield held


def _latest(entry: Entry) -> int | None:
    """Returns when the last frame of a segment is shown, in ticks of its file."""
    with open_segment(entry) as source:
        shown = [packet.pts for packet in source.demux(video=0) if packet.pts is not None]
    return max(shown, default=None)


def _path(entry: Entry) -> Path:
    folder, segment = entry
    return folder / segment.files[0]


def _damaged(path: Path, why: str) -> StreamDiffVSRError:
    return StreamDiffVSRError(
        f"could not use the finished part {str(path)!r}",
        why,
        f"start again with {option('overwrite', True)}",
    )


_BEAT_S = 0.25
_IN_MATROSKA = {"container": "matroska", "suffix": ".mkv", "tag": ""}  # holds every codec


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Takes the ``segments``, sends ``beat`` with the frames done, and at the end ``done``.

    A rehearsal takes nothing, and sends ``done`` with what was copied and left out.
    """
    libav.quiet()
    if arguments.get("rehearsal"):
        messages.send(outbox, {"kind": "done", **_rehearse(arguments)})
        return
    _, payload = messages.receive(inbox)
    entries = read_entries(payload)
    part = Path(arguments["part"])
    try:
        with part.open("wb"):  # fails now, not after the first frames, if the disk refuses
            pass
        done = _written(part, entries, arguments, outbox)
        messages.send(outbox, {"kind": "saving"})  # the only step that may take minutes
        durable.to_disk(part)
        messages.send(outbox, {"kind": "done", "bytes": part.stat().st_size, **done})
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _written(
    part: Path, entries: list[Entry], arguments: dict[str, Any], outbox: RawIOBase
) -> messages.Header:
    """Writes the file, or a Matroska file where other streams cannot be joined to the picture."""
    try:
        return _Muxer(part, entries, arguments, outbox).run()
    except Exception as error:  # libav also raises OverflowError and AttributeError
        ours = isinstance(error, StreamDiffVSRError) and not isinstance(error, _RefusedError)
        of_disk = getattr(error, "errno", None) in durable.CAUSES
        if arguments["source"] is None or ours or of_disk or isinstance(error, MemoryError):
            raise
        # Frames took hours, and are not lost to a packet of sound that the rehearsal did not see.
        failed = [libav.describe(error), ""]
        if isinstance(error, _RefusedError):
            failed = [error.why, error.remedy]
        for saved in (_IN_MATROSKA, _IN_MATROSKA | {"source": None}):
            with contextlib.suppress(Exception):
                done = _Muxer(part, entries, arguments | saved, outbox).run()
                return done | {"failed": failed, "alone": "source" in saved}
        raise


class _RefusedError(StreamDiffVSRError):
    """The output cannot hold a stream that accompanies the picture."""


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
        start, end, shift = (messages.unpack(arguments[name]) for name in ("start", "end", "shift"))
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
            self._output.start_encoding()  # reports at once what it cannot hold
            if self._origin:
                self._origin.begin(self._output)

    def run(self) -> messages.Header:
        """Writes the complete file; returns what was copied and what was left out."""
        with self._closing_at_failure():
            self._write_all()
            self._output.close()
        if not self._origin:
            return {"copied": {}, "notes": []}
        return {"copied": dict(self._origin.copied), "notes": self._origin.notes}

    @contextlib.contextmanager
    def _closing_at_failure(self) -> Iterator[None]:
        """Closes the output at a failure; a dropped output would still finish its file."""
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
            # `opaque`: by codec, not by an encoder of the decoder's name (libdav1d has none).
            stream: Any = self._output.add_stream_from_template(template, opaque=True)
            stream.time_base = self._stored_base
            # The container stores it for codecs that cannot.
            stream.codec_context.sample_aspect_ratio = template.sample_aspect_ratio or Fraction(1)
            # Only a hint, as times decide, but time codes need it.
            stream.codec_context.framerate = messages.unpack(arguments["rate"]) or Fraction(25)
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
            messages.send(self._outbox, {"kind": "beat", "frames": self._frames})


def _origin(arguments: dict[str, Any], part: TimeWindow) -> StreamCopier | None:
    if arguments["source"] is None:
        return None
    try:
        return _copier(arguments, copy_rest=arguments["copy_rest"], part=part)
    except StreamDiffVSRError as error:
        raise _RefusedError(error.what, error.why, error.remedy) from error


def _copier(arguments: dict[str, Any], **options: Any) -> StreamCopier:
    return StreamCopier(
        Path(arguments["source"]),
        container=arguments["container"],
        suffix=arguments["suffix"],
        codec=arguments["codec"],
        sound=arguments["audio"],
        **options,
    )


_MOST_PACKETS = 2000
_MOST_BYTES = 32 << 20  # of the source: its streams may lie far apart


def _rehearse(arguments: dict[str, Any]) -> messages.Header:
    """Returns what a join copies and leaves out; its error says what works instead."""
    try:
        return _rehearsed(arguments)
    except StreamDiffVSRError:
        raise
    except Exception as error:
        raise StreamDiffVSRError(
            f"could not join all that the input holds to a {arguments['suffix']} file",
            libav.describe(error),
            _what_works(arguments),
        ) from error


def _rehearsed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Joins the beginning of the source; returns what was copied and left out."""
    container = arguments["container"]
    origin = _copier(arguments, copy_rest=True, most_bytes=_MOST_BYTES)
    bases = [Fraction(1, 90000), *origin.time_bases]
    output = open_output(io.BytesIO(), container, bases, any_tags=origin.own_tags)
    picture = output.add_stream(SOFTWARE[HOLDS[container][0]])
    origin.join(output, picture)
    output.start_encoding()
    origin.begin(output)
    for _ in islice(origin.copy_until(output, None), _MOST_PACKETS):
        pass
    output.close()
    return {"copied": dict(origin.copied), "notes": list(origin.notes)}


def _what_works(arguments: dict[str, Any]) -> str:
    """Returns the first remedy that works when tried; "" if there is none."""
    ways = {
        "give the output a name that ends in .mkv": {"container": "matroska", "suffix": ".mkv"},
        f"use {option('audio', 'transcode')}": {"audio": "transcode"},
        f"leave the sound out with {option('audio', 'none')}": {"audio": "none"},
    }
    for way, changed in ways.items():
        if changed.items() <= arguments.items():
            continue
        with contextlib.suppress(Exception):
            _rehearsed(arguments | changed)
            return way
    return ""
