"""Writes frames in segments: each is whole on the disk before it counts.

Encoding runs in a child process.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError
from ...graphs.arrays import Image, Image16
from ..processes.child import DEADLINE_S, Child
from ..processes.messages import pack
from .encoders import CODECS, ImageFormat, VideoFormat
from .formats import encoder_arguments, memory_bytes
from .info import VideoInfo
from .segment import Segment

_SAVE_S = 600.0  # bringing gigabytes to a slow disk takes minutes
_IMAGE_MEMORY_BYTES = 8 << 30


class SegmentWriter:
    """Frames in, segments out: files of video that play by themselves, or images.

    A file has its name only when it is whole and on the disk; until then it ends in .part. Times
    are kept exactly. A segment of images is its images, in ``folder/frames``: that of frame k is
    %08d and the ending of its kind. Use it as a context manager: leaving it normally ends the last
    segment, leaving it by any exception removes what is not whole.

    Args:
        folder: Exists.
        size: (H, W) of the frames.
        like: The source: where time base, colour and pixel aspect come from. None if there is none.
        format: How they are encoded.
        time_base: Seconds per tick; that of the source if None. One of the two is given.
        first_index: k of the first frame written.
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
        format: VideoFormat | ImageFormat,
        time_base: Fraction | None = None,
        first_index: int = 0,
        after_pts: int | None = None,
        deadline_s: float = DEADLINE_S,
        failure: str | None = None,
        timed: bool = False,
    ) -> None:
        time_base = time_base or (like.time_base if like else None)
        if time_base is None:
            raise ValueError("SegmentWriter needs `like` or `time_base`")
        self.folder, self.size = Path(folder).absolute(), size
        self.frames = self.retimed = 0
        self.busy: list[tuple[float, float]] = []
        self._failure = failure or f"could not write into {str(self.folder)!r}"
        self._timed, self._closed, self._pending = timed, False, 0
        self._dtype = np.dtype(np.uint16 if format.deep else np.uint8)
        self._whole: list[Segment] = []
        self._begun: list[str] = []  # those that may not be whole yet
        task, arguments, memory = _task(size, time_base, like, format, first_index)
        self._child = Child(
            task,
            arguments | {"folder": str(self.folder), "after_pts": after_pts},
            failure=self._failure,
            deadline_s=deadline_s,
            memory_bytes=memory,
        )
        try:
            self._child.receive()
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> SegmentWriter:
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
        parts = [self.folder / f"{name}.part" for name in self._begun]
        for part in (*parts, *(self.folder / "frames").glob("*.part")):
            with contextlib.suppress(OSError):
                part.unlink()

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


def _task(
    size: tuple[int, int],
    time_base: Fraction,
    like: VideoInfo | None,
    format: VideoFormat | ImageFormat,
    first_index: int,
) -> tuple[str, dict[str, Any], int]:
    """Returns the module that the child runs, its arguments and the bytes that it may use."""
    if isinstance(format, ImageFormat):
        arguments = {
            "size": list(size),
            "time_base": pack(time_base),
            "suffix": format.suffix,
            "quality": format.quality,
            "deep": format.deep,
            "first_index": first_index,
        }
        return "runtime.media.image_writer_child", arguments, _IMAGE_MEMORY_BYTES
    container = CODECS[format.codec].segments
    kind = {"container": container, "suffix": f".{container}"}
    arguments = encoder_arguments(size, time_base, like, format) | kind
    return "runtime.media.writer_child", arguments, memory_bytes(size, format)
