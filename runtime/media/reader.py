"""Reads a video file or a folder of images as an iterator of RGB frames with their times.

Decoding runs in a child process, one frame ahead of the caller, as the pipe is the bounded queue.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from ...errors import StreamDiffVSRError
from ...graphs.arrays import Image, Image16
from ..processes.child import DEADLINE_S, Child
from ..processes.messages import pack
from .info import VideoInfo

__all__ = ["VideoInfo", "probe", "receive_info", "start_reader"]

READER_MEMORY_BYTES = 8 << 30  # 8K H.264 with all its references needs about 2 GiB


def probe(
    path: str | PathLike[str], *, deadline_s: float = DEADLINE_S, fps: Fraction | None = None
) -> VideoInfo:
    """Describes a video file, an image file or a folder of images.

    Args:
        path: As in ``FileSource``.
        deadline_s: The longest it may take, in seconds.
        fps: Frames per second of images.

    Raises:
        StreamDiffVSRError: It is missing, a folder without images, empty, unreadable, cut off, not
            a video, sound only, too large, or gave no answer within ``deadline_s`` seconds.
    """
    with closing(start_reader(path, deadline_s=deadline_s, frames=False, fps=fps)) as child:
        return receive_info(child, path, deadline_s)


def start_reader(
    path: str | PathLike[str],
    *,
    deadline_s: float,
    frames: bool,
    depth: int = 8,
    begin: float | None = None,
    deinterlace: str = "auto",
    fps: Fraction | None = None,
) -> Child:
    """Starts a child that describes the file and then, if ``frames``, sends its frames."""
    return Child(
        "runtime.media.reader_child",
        {
            "path": str(Path(path).absolute()),
            "shown": str(path),
            "frames": frames,
            "depth": depth,
            "begin": begin,
            "deinterlace": deinterlace,
            "fps": pack(fps),
        },
        failure=f"could not read {str(path)!r}",
        deadline_s=deadline_s,
        memory_bytes=READER_MEMORY_BYTES,
    )


def receive_info(child: Child, path: str | PathLike[str], deadline_s: float) -> VideoInfo:
    """Returns the description, a reader's first message after its signs of life.

    Raises:
        StreamDiffVSRError: As in :func:`probe`; the child is closed then.
    """
    due = time.monotonic() + deadline_s
    left = deadline_s
    try:
        while left > 0:
            header, _ = child.receive(left)
            if header["kind"] != "beat":
                return VideoInfo.from_wire(header["info"])
            left = due - time.monotonic()
    except BaseException:
        child.close()
        raise
    child.close()
    raise StreamDiffVSRError(
        f"could not read {str(path)!r}", f"no frame of it was found within {deadline_s:g} s"
    )


Deinterlace: TypeAlias = Literal["auto", "on", "off", "tff", "bff"]


def deinterlace_mode(asked: Deinterlace | bool) -> Deinterlace:
    """Returns the mode of an option in which True means "auto" and False "off".

    Raises:
        ValueError: There is no such mode.
    """
    mode = {True: "auto", False: "off"}[asked] if isinstance(asked, bool) else asked
    if mode not in get_args(Deinterlace):
        raise ValueError(f"{asked = !r}: one of {', '.join(get_args(Deinterlace))}")
    return mode  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One decoded LR frame.

    Attributes:
        image: (h, w, 3) uint8 RGB [0, 255], C-contiguous, memory of its own, upright.
        pts: When it is shown, in ticks of ``time_base``; derived from the frame rate where the file
            has no times.
        time_base: Seconds per tick.
        duration: How long it is shown, in ticks; None if the file does not say.
        index: Number of the frame; 0 for the first.
        busy: Start and end of its decoding, in seconds of `time.perf_counter`, which processes
            share.
        deep: (h, w, 3) uint16 RGB [0, 65535] of the same picture, if requested.
    """

    image: Image
    pts: int
    time_base: Fraction
    duration: int | None
    index: int
    busy: tuple[float, float] = (0.0, 0.0)
    deep: Image16 | None = None

    @property
    def seconds(self) -> float:
        """The time it is shown, in seconds."""
        return float(self.pts * self.time_base)


class FileSource:
    """The frames of a video file or of a series of images, once, in order of display.

    ``damaged`` counts the packets so far with any sign of damage; the frames around them may be
    wrong, and the source continues after them. Frames are turned upright, so outputs need no
    rotation. A change of size inside the file shows as frames of another shape. Transparent pixels
    are blended onto black, as players show them. HDR values are not mapped.

    Args:
        path: The file, which is read by content, not by extension; an image; or a folder of images
            (png, jpg, jpeg, webp, tif, tiff), in the natural order of their names.
        deadline_s: The longest the file may take to give a frame, in seconds.
        depth: 16 also gives frames their ``deep``; ``image`` is the same either way.
        begin: Seconds, like `SourceFrame.seconds`: the frames begin with the last one at or before
            that time, and equal those of a run from the start. Seeking is fast in .mp4, .mov, .mkv
            and .webm; other files are decoded from the start. Times that jump back inside the file
            make it ambiguous. ``index`` counts from the first frame given.
        deinterlace: How to make one progressive picture of each frame of two fields. "auto": where
            a frame or the container declares fields; "on": every frame, by the declared order, else
            upper field first; "tff" and "bff": every frame, upper or lower field first; "off": not
            at all. Images are left as they are.
        fps: Frames per second of images (24 if None), and of a video without times of its own.

    Raises:
        StreamDiffVSRError: As in :func:`probe`, at once; or while iterating, if the reader crashes
            or takes too long.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        deadline_s: float = DEADLINE_S,
        depth: Literal[8, 16] = 8,
        begin: float | None = None,
        deinterlace: Deinterlace | bool = "auto",
        fps: Fraction | None = None,
    ) -> None:
        self.damaged = 0
        self._index = 0
        self._ended = False
        self._deep: memoryview | None = None  # of the frame whose image comes next
        self._child = start_reader(
            path,
            deadline_s=deadline_s,
            frames=True,
            depth=depth,
            begin=None if begin is None else float(begin),
            deinterlace=deinterlace_mode(deinterlace),
            fps=fps,
        )
        self.info = receive_info(self._child, path, deadline_s)

    def __iter__(self) -> Iterator[SourceFrame]:
        return self

    def __next__(self) -> SourceFrame:
        while not self._ended:
            try:
                header, payload = self._child.receive()
            except StreamDiffVSRError:
                if self._ended:  # closed by another thread while this one waited
                    break
                raise
            if header["kind"] == "beat":
                continue
            if header["kind"] == "deep":
                self._deep = payload
                continue
            self.damaged = header["damaged"]
            if header["kind"] == "end":
                self.close()
                break
            return self._frame(header, payload)
        raise StopIteration

    def _frame(self, header: dict[str, Any], payload: memoryview) -> SourceFrame:
        shape = (header["height"], header["width"], 3)
        deep, self._deep = self._deep, None
        started, ended = header["busy"]
        frame = SourceFrame(
            image=np.frombuffer(payload, np.uint8).reshape(shape),
            pts=header["pts"],
            time_base=self.info.time_base,
            duration=header["duration"],
            index=self._index,
            busy=(started, ended),
            deep=None if deep is None else np.frombuffer(deep, np.uint16).reshape(shape),
        )
        self._index += 1
        return frame

    def close(self) -> None:
        """Stops decoding. Safe at any point, from any thread, and more than once."""
        self._ended = True
        self._child.close()

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
