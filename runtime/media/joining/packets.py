"""The packets of segments as those of one stream: exact times, and decoding times that advance.

Runs in the child. It opens one segment at a time and holds a few packets, whatever the length. It
knows nothing of sound, or of where the packets go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from ....errors import StreamDiffVSRError
from ...processes import wire
from ..segments.decoding_times import DecodingTimes
from ..segments.segment import LONGEST_TICKS, Segment

Entry = tuple[Path, Segment]


def read_entries(payload: memoryview) -> list[Entry]:
    """The (folder, segment) pairs that a parent sent."""
    import json

    told: list[tuple[str, wire.Header]] = json.loads(bytes(payload))
    return [(Path(folder), Segment.from_json(fields)) for folder, fields in told]


def open_segment(entry: Entry) -> InputContainer:
    """The file of a segment, its times as they were given to the muxer.

    Raises:
        StreamDiffVSRError: It is missing, or not what was written.
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
        first, end: When the first frame is shown, and when the last one no longer is.
        longest: No two packets that follow each other are decoded further apart, in ticks.
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
        """Packets with pts, dts and the duration they are shown, as far as that is known."""
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
                yield from self._of_segment(entry, source, is_last=entry is last)

    def _of_segment(self, entry: Entry, source: InputContainer, *, is_last: bool) -> Iterator[Any]:
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
            start = packet.pts if start is None else start  # the first one is shown first
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
    """When the last frame of a segment is shown, in ticks of its file."""
    with open_segment(entry) as source:
        shown = [packet.pts for packet in source.demux(video=0) if packet.pts is not None]
    return max(shown, default=None)


def _path(entry: Entry) -> Path:
    folder, segment = entry
    return folder / segment.files[0]


def _damaged(path: Path, why: str) -> StreamDiffVSRError:
    return StreamDiffVSRError(
        f"could not use the finished part {str(path)!r}", why, "begin anew with --overwrite"
    )
