"""Writing a clip again, for tests of what is written."""

from streamdiffvsr.runtime.media.reader import FileSource
from streamdiffvsr.runtime.media.sink import FileSink

FAST = "ultrafast"


def copy(source_path, output, **options) -> FileSink:
    """Write the frames of a clip again, at their own size."""
    with FileSource(source_path) as source:
        options = {"like": source.info, "preset": FAST, **options}
        with FileSink(output, size=source.info.size, **options) as sink:
            for frame in source:
                sink.write(frame.image, frame.pts, frame.time_base, frame.duration)
    return sink


def names(folder) -> set[str]:
    return {entry.name for entry in folder.iterdir()}
