"""Writing frames to a file through segments and a join, for tests of what is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamdiffvsr.runtime.media.encoders import h264_format
from streamdiffvsr.runtime.media.info import VideoInfo
from streamdiffvsr.runtime.media.join import Joined, join
from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.runtime.media.writer import SegmentWriter

FAST = "ultrafast"


@contextmanager
def video(
    output: Path, size: tuple[int, int], *, like: VideoInfo | None = None, time_base=None, **quality
) -> Iterator[SegmentWriter]:
    """A writer of one segment, and at the end of the block the file that it is joined to."""
    folder = output.with_name(f"{output.name}.parts")
    folder.mkdir()
    format = h264_format(output, **{"preset": FAST, **quality})
    with SegmentWriter(folder, size=size, like=like, time_base=time_base, format=format) as writer:
        writer.begin("all")
        yield writer
    entries = [(folder, segment) for segment in writer.finished()]
    join(entries, output, like=like, format=format)


def copy(source_path, output, *, preset: str = FAST, **joining) -> tuple[SegmentWriter, Joined]:
    """Write the frames of a clip again, at their own size, and join its sound to them."""
    folder, format = output.with_name(f"{output.name}.parts"), h264_format(output, preset=preset)
    folder.mkdir()
    with FileSource(source_path) as source:
        info = source.info
        with SegmentWriter(folder, size=info.size, like=info, format=format) as writer:
            writer.begin("all")
            for frame in source:
                writer.write(frame.image, frame.pts, frame.time_base, frame.duration)
    entries = [(folder, segment) for segment in writer.finished()]
    return writer, join(entries, output, like=info, format=format, **joining)


def names(folder) -> set[str]:
    return {entry.name for entry in folder.iterdir()}
