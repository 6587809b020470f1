"""Writing segments and joining them, for tests of what is written."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from streamdiffvsr.runtime.media.encoders import VideoFormat
from streamdiffvsr.runtime.media.formats import choose_format
from streamdiffvsr.runtime.media.info import Segment, VideoInfo
from streamdiffvsr.runtime.media.join import Joined, join
from streamdiffvsr.runtime.media.writer import SegmentWriter
from streamdiffvsr.tests.media.clips import moving, see

Entry = tuple[Path, Segment]


def written(
    folder: Path, info: VideoInfo, format: VideoFormat, begins: Sequence[int], **options: Any
) -> list[Entry]:
    """The frames of a clip in segments of their own size; `begins` are their first indices."""
    seen = see(info.path)
    with SegmentWriter(folder, size=info.size, like=info, format=format, **options) as writer:
        for index, (frame, time) in enumerate(zip(seen.images, seen.times, strict=True)):
            if index in begins:
                writer.begin(f"part{index:03d}")
            pts = round(time / info.time_base)
            writer.write(frame.to_ndarray(format="rgb24"), pts, info.time_base, frame.duration)
    return [(folder, segment) for segment in writer.finished()]


def bars(
    folder: Path, info: VideoInfo, format: VideoFormat, count: int, first: int = 0
) -> list[Entry]:
    """Writes `count` frames of the moving bar, 25 a second, in segments of twelve."""
    with SegmentWriter(folder, size=(48, 64), like=info, format=format) as writer:
        for index in range(count):
            if index % 12 == 0:
                writer.begin(f"bars{index:03d}")
            writer.write(moving(index, 48, 64), first + index, Fraction(1, 25), 1)
    return [(folder, segment) for segment in writer.finished()]


def joined(
    info: VideoInfo, output: Path, begins: Sequence[int] = (0, 5, 10, 11), **asked: Any
) -> tuple[list[Entry], Joined]:
    """Write a clip again, in segments, and join them."""
    format = choose_format(output, info=info, size=info.size, **asked)
    assert isinstance(format, VideoFormat)
    entries = written(output.parent, info, format, begins)
    return entries, join(entries, output, like=info, format=format)
