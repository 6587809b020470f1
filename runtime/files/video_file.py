"""Writes a whole video from frames, in the way that upscaled videos are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from ...errors import StreamDiffVSRError
from ...graphs.spec import Size
from ..media.encoders import VideoFormat
from ..media.formats import check_size
from ..media.info import VideoInfo
from ..media.join import join
from ..media.preflight import check_output
from ..media.writer import SegmentWriter
from .journal import clear, locked


@contextmanager
def write_video(
    path: Path,
    *,
    size: Size,
    format: VideoFormat,
    like: VideoInfo | None = None,
    time_base: Fraction | None = None,
    overwrite: bool = False,
    timed: bool = False,
) -> Iterator[SegmentWriter]:
    """Gives the block a writer of frames; the file exists once the block has ended.

    The frames become one segment, from which :func:`join` makes the output with the tags of the
    source and without its sound. Any error, Ctrl-C included, leaves no file.

    Args:
        size: (H, W) of the frames.
        format: The encoding.
        like: The source of tags, colours and pixel aspect, if there is one.
        time_base: Seconds per tick; None for that of `like`. At least one of the two is needed.
        overwrite: Replace an existing file.
        timed: See `SegmentWriter`.

    Raises:
        StreamDiffVSRError: See :func:`check_output`; or the size cannot be encoded, there was no
            frame, the disk is full, or another program has created the output meanwhile.
    """
    failure = f"could not write {str(path)!r}"
    check_output(path, source=like.path if like else None, overwrite=overwrite)
    if path.is_dir():  # which `check_output` allows for images
        raise StreamDiffVSRError(failure, "it exists and is not a plain file")
    check_size(size, format.codec, failure)
    with locked(path) as folder:
        clear(folder)
        try:
            with SegmentWriter(
                folder,
                size=size,
                like=like,
                time_base=time_base,
                format=format,
                failure=failure,
                timed=timed,
            ) as writer:
                writer.begin("video")
                yield writer
            segments = [(folder, segment) for segment in writer.finished()]
            if not segments:
                raise StreamDiffVSRError(failure, "there was no frame to write")
            join(
                segments,
                path,
                like=like,
                format=format,
                audio="none",
                copy_rest=False,
                overwrite=overwrite,
            )
        finally:
            clear(folder)
