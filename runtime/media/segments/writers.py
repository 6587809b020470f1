"""Frames written in segments: files of their own, each whole on the disk or not there at all.

The parent's side. What a segment is called and when one ends is the job's to say; this knows
nothing of scenes, of journals or of the upscaler.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from ...processes.child import DEADLINE_S
from ...processes.wire import pack
from ..formats.arguments import encoder_arguments, memory_bytes
from ..formats.kinds import ImageFormat, VideoFormat
from ..info import VideoInfo
from .child_writer import Image, WritesSegments
from .segment import Segment

__all__ = ["Image", "ImageSegmentWriter", "Segment", "SegmentWriter"]

_IMAGE_MEMORY_BYTES = 8 << 30


class SegmentWriter(WritesSegments):
    """Video segments in a folder, each a file that plays by itself.

    A file has its name only when it is whole and on the disk; until then it is NAME.part. Times
    are kept exactly. Use it as a context manager: leaving it normally ends the last segment,
    leaving it by any exception removes what is not whole.

    Args:
        folder: Exists.
        size: (H, W) of the frames.
        like: The source: where time base, colour and pixel aspect come from.
        format: How they are encoded.
        after_pts: The last frame of the segments before was shown at this tick; none is placed at
            or before it.
        deadline_s: The longest the encoder may take for one frame.
        timed: Note when the encoder works; of short files, as it is kept for every frame.

    Attributes:
        frames: How many were written.
        retimed: How many of those were moved behind the one before; complete after ``close``.
        busy: From when to when each frame was encoded, in seconds of `time.perf_counter`.

    Raises:
        StreamDiffVSRError: The process cannot be started.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        size: tuple[int, int],
        like: VideoInfo,
        format: VideoFormat,
        after_pts: int | None = None,
        deadline_s: float = DEADLINE_S,
        timed: bool = False,
    ) -> None:
        container = "mov" if format.codec == "prores" else "mp4"  # what keeps times exactly
        arguments = encoder_arguments(size, like.time_base, like, format) | {
            "container": container,
            "suffix": f".{container}",
            "after_pts": after_pts,
        }
        memory = memory_bytes(size, format)
        self._set_up(folder, size, deep=format.deep, timed=timed)
        self._start("runtime.media.segments.encoding", arguments, deadline_s, memory)


class ImageSegmentWriter(SegmentWriter):
    """Images in ``folder/frames``: that of frame k is %08d and the ending of its kind.

    The same surface as that of video; a segment is its images, each of which is whole or not there.

    Args:
        folder: Exists.
        size: (H, W) of the frames.
        like: The source: where the time base comes from.
        format: The kind of image.
        first_index: k of the first frame written.
        after_pts: As of :class:`SegmentWriter`.
        deadline_s: The longest one image may take.
        timed: As of :class:`SegmentWriter`.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        size: tuple[int, int],
        like: VideoInfo,
        format: ImageFormat,
        first_index: int = 0,
        after_pts: int | None = None,
        deadline_s: float = DEADLINE_S,
        timed: bool = False,
    ) -> None:
        arguments = {
            "size": list(size),
            "time_base": pack(like.time_base),
            "suffix": format.suffix,
            "quality": format.quality,
            "deep": format.deep,
            "first_index": first_index,
            "after_pts": after_pts,
        }
        self._set_up(folder, size, deep=format.deep, timed=timed)
        self._start(
            "runtime.media.segments.image_encoding", arguments, deadline_s, _IMAGE_MEMORY_BYTES
        )

    def _parts(self) -> Iterable[Path]:
        return (self.folder / "frames").glob("*.part")
