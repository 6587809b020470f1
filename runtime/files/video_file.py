"""Writes a whole video from frames that are at hand, as an upscaled one is written."""

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
    """Gives the block a writer of frames; the file is there once the block has ended.

    It holds one segment, which :func:`join` makes the output: with the tags of the source, and
    without its sound. Any error in the block or behind it, Ctrl-C included, leaves nothing behind.

    Args:
        size: (H, W) of the frames.
        format: How they are encoded.
        like: The source of tags, colours and pixel aspect, if there is one.
        time_base: Seconds per tick; that of the source if None. One of the two is given.
        overwrite: Replace an existing file.
        timed: As of `SegmentWriter`.

    Raises:
        StreamDiffVSRError: As :func:`check_output`; the size cannot be encoded, there was no frame,
            the disk is full, or the output has come into being meanwhile.
    """
    failure = f"could not write {str(path)!r}"
    check_output(path, source=like.path if like else None, overwrite=overwrite)
    if path.is_dir():  # a place for images, which are none of this
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
