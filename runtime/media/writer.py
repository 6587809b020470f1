"""Writes frames in segments: each is whole on the disk before it counts.

Encoding runs in a child process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from ...errors import StreamDiffVSRError
from ...graphs.arrays import Image, Image16
from ..processes.child import DEADLINE_S, Child
from ..processes.messages import pack
from .encoders import CODECS, ImageFormat, VideoFormat
from .formats import encoder_arguments, memory_bytes
from .info import VideoInfo
from .segment import Segment

_Writer = TypeVar("_Writer", bound="WritesSegments")

_SAVE_S = 600.0  # bringing gigabytes to a slow disk takes minutes


class WritesSegments:
    """Frames in, segments out; a subclass starts the child.

    As a context manager, it is closed at the end of the block, and aborted if the block raised.
    """

    _whole: list[Segment]
    _closed: bool

    def __enter__(self: _Writer) -> _Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            self.abort()

    def begin(self, name: str) -> None:
        """Let the following frames go into a segment of that name; ends the running one.

        Raises:
            StreamDiffVSRError: As :meth:`write`.
        """
        self._begun.append(name)
        self._send({"kind": "begin", "name": name})

    def write(
        self,
        image: Image | Image16,
        pts: int,
        time_base: Fraction | None = None,
        duration: int | None = None,
    ) -> None:
        """Encode one frame; the array may be reused when it returns.

        Args:
            image: (H, W, 3) RGB: uint8 [0, 255], or uint16 [0, 65535] where the format is deep.
            pts: When it is shown. One that is not later than the last is moved one tick behind it.
            time_base: Seconds per tick of ``pts`` and ``duration``; the source's if None.
            duration: How long it is shown, in ticks; matters for the last frame.

        Raises:
            ValueError: The image has another shape or type, or no segment was begun.
            StreamDiffVSRError: The disk is full, or the encoder failed or took too long.
        """
        if not self._begun:
            raise ValueError("no segment was begun")
        if image.shape != (*self.size, 3) or image.dtype != self._dtype:
            raise ValueError(
                f"{image.shape = }, {image.dtype = }, not {self._dtype} {(*self.size, 3)}"
            )
        header = {"kind": "frame", "pts": pts, "time_base": pack(time_base), "duration": duration}
        self._send(header, np.ascontiguousarray(image).data.cast("B"))
        self.frames += 1

    def finished(self) -> list[Segment]:
        """Segments that are known to be whole and on the disk since the last call.

        Never waits. One is known once the message behind its last frame was sent, and all are
        after :meth:`close`.
        """
        whole, self._whole = self._whole, []
        return whole

    def close(self) -> None:
        """End the last segment and wait till all are whole. Does nothing after the first time.

        Raises:
            StreamDiffVSRError: The disk is full, or the encoder failed or took too long.
        """
        if self._closed:
            return
        self._send({"kind": "end"})
        self._wait()
        self._closed = True
        self._child.close()

    def abort(self) -> None:
        """Stop; what is not whole is removed. Safe at any point, and twice."""
        self._closed = True
        self._child.close()
        for part in self._parts():
            with contextlib.suppress(OSError):
                part.unlink()

    def _parts(self) -> Iterable[Path]:
        """Files that a killed child may have left."""
        return [self.folder / f"{name}.part" for name in self._begun]

    def _set_up(
        self, folder: str | PathLike[str], size: tuple[int, int], *, deep: bool, timed: bool
    ) -> None:
        self.folder, self.size = Path(folder).absolute(), size
        self._failure = f"could not write into {str(self.folder)!r}"
        self.frames = self.retimed = 0
        self.busy: list[tuple[float, float]] = []
        self._timed, self._closed, self._pending = timed, False, 0
        self._dtype = np.dtype(np.uint16 if deep else np.uint8)
        self._whole = []
        self._begun: list[str] = []  # those that may not be whole yet

    def _start(self, task: str, arguments: dict[str, Any], deadline_s: float, memory: int) -> None:
        self._child = Child(
            task,
            arguments | {"folder": str(self.folder)},
            failure=self._failure,
            deadline_s=deadline_s,
            memory_bytes=memory,
        )
        try:
            self._child.receive()
        except BaseException:
            self.abort()
            raise

    def _send(self, header: dict[str, Any], payload: memoryview | bytes = b"") -> None:
        if self._closed:
            raise StreamDiffVSRError(self._failure, "it was closed")
        try:
            self._wait()
            self._child.send(header, payload)
            self._pending += 1
        except BaseException:
            self.abort()
            raise

    def _wait(self) -> None:
        """Until the message before is done."""
        try:
            told: dict[str, Any] = {"kind": "beat"}
            while self._pending:
                told, _ = self._child.receive(_SAVE_S if told["kind"] == "saving" else None)
                if told["kind"] == "done":
                    self._pending -= 1
                    self._note(told)
        except BaseException:
            self.abort()
            raise

    def _note(self, told: dict[str, Any]) -> None:
        self.retimed = told["retimed"]
        if self._timed and told["busy"]:
            started, ended = told["busy"]
            self.busy.append((started, ended))
        if told["whole"]:
            segment = Segment.from_json(told["whole"])
            self._whole.append(segment)
            self._begun.remove(segment.name)


__all__ = ["ImageSegmentWriter", "Segment", "SegmentWriter"]

_IMAGE_MEMORY_BYTES = 8 << 30


class SegmentWriter(WritesSegments):
    """Video segments in a folder, each a file that plays by itself.

    A file has its name only when it is whole and on the disk; until then it is NAME.part. Times
    are kept exactly. Use it as a context manager: leaving it normally ends the last segment,
    leaving it by any exception removes what is not whole.

    Args:
        folder: Exists.
        size: (H, W) of the frames.
        like: The source: where time base, colour and pixel aspect come from. None if there is none.
        format: How they are encoded.
        time_base: Seconds per tick; that of the source if None. One of the two is given.
        after_pts: The last frame of the segments before was shown at this tick; none is placed at
            or before it.
        deadline_s: The longest the encoder may take for one frame.
        failure: What could not be done, should it fail; None: that it could not write there.
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
        like: VideoInfo | None,
        format: VideoFormat,
        time_base: Fraction | None = None,
        after_pts: int | None = None,
        deadline_s: float = DEADLINE_S,
        failure: str | None = None,
        timed: bool = False,
    ) -> None:
        container = CODECS[format.codec].segments
        time_base = time_base or (like.time_base if like else None)
        if time_base is None:
            raise ValueError("SegmentWriter needs `like` or `time_base`")
        arguments = encoder_arguments(size, time_base, like, format) | {
            "container": container,
            "suffix": f".{container}",
            "after_pts": after_pts,
        }
        memory = memory_bytes(size, format)
        self._set_up(folder, size, deep=format.deep, timed=timed)
        self._failure = failure or self._failure
        self._start("runtime.media.writer_child", arguments, deadline_s, memory)


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
        self._start("runtime.media.image_writer_child", arguments, deadline_s, _IMAGE_MEMORY_BYTES)

    def _parts(self) -> Iterable[Path]:
        return (self.folder / "frames").glob("*.part")
