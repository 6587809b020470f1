"""Writes frames in segments, each of which is reported once it is complete on the disk.

Encoding runs in a child process.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError
from ...graphs.arrays import Image, Image16
from ..processes.child import DEADLINE_S, Child
from ..processes.messages import pack
from .encoders import CODECS, ImageFormat, VideoFormat
from .formats import encoder_arguments, memory_bytes
from .info import Segment, VideoInfo

_SAVE_S = 600.0  # bringing gigabytes to a slow disk takes minutes
_IMAGE_MEMORY_BYTES = 8 << 30


class SegmentWriter:
    """Writes frames as segments: video files that play by themselves, or images.

    A file has its name only when it is complete and on the disk; until then it ends in .part. Times
    are kept exactly. Images are in ``folder/frames``; frame k is named %08d with the suffix of its
    kind. Use it as a context manager: leaving it normally ends the last segment, leaving it by any
    exception removes incomplete files.

    Args:
        folder: An existing folder.
        size: (H, W) of the frames.
        like: The source of time base, colour and pixel aspect; None if there is none.
        format: How frames are encoded.
        time_base: Seconds per tick; None for that of ``like``. One of the two is needed.
        first_index: k of the first frame written.
        after_pts: The tick of the last frame of earlier segments; frames are placed after it.
        deadline_s: The longest the encoder may take for one frame, in seconds.
        failure: The beginning of error messages; None for that of a failed write.
        timed: Whether to record in ``busy`` when the encoder works; only for short files.

    Attributes:
        folder: The absolute path of the folder.
        size: (H, W) of the frames.
        frames: Number of frames written.
        retimed: Number of frames moved after the previous one; complete after ``close``.
        busy: Start and end of each frame's encoding, in seconds of `time.perf_counter`.

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
        self._begun: list[str] = []  # those that may be incomplete
        arguments, memory = _arguments(size, time_base, like, format, first_index)
        self._child = Child(
            "runtime.media.writer_child",
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

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            self.abort()

    def begin(self, name: str) -> None:
        """Starts a segment of that name for the following frames; ends the current one.

        Raises:
            StreamDiffVSRError: As in :meth:`write`.
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
        """Encodes one frame; the array may be reused afterwards.

        Args:
            image: (H, W, 3) RGB: uint8 [0, 255], or uint16 [0, 65535] where the format is deep.
            pts: When it is shown. A frame not later than the last is moved one tick after it.
            time_base: Seconds per tick of ``pts`` and ``duration``; the source's if None.
            duration: How long it is shown, in ticks; only matters for the last frame.

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
        """Returns segments newly known to be complete and on the disk, without waiting.

        A segment is known once the message after its last frame was sent; all are after
        :meth:`close`.
        """
        whole, self._whole = self._whole, []
        return whole

    def close(self) -> None:
        """Ends the last segment and waits until all are complete. Further calls do nothing.

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
        """Stops and removes incomplete files. Safe at any point, and more than once."""
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
        """Waits until the previous message is done."""
        try:
            answer: dict[str, Any] = {"kind": "beat"}
            while self._pending:
                answer, _ = self._child.receive(_SAVE_S if answer["kind"] == "saving" else None)
                if answer["kind"] == "done":
                    self._pending -= 1
                    self._note(answer)
        except BaseException:
            self.abort()
            raise

    def _note(self, answer: dict[str, Any]) -> None:
        self.retimed = answer["retimed"]
        if self._timed and answer["busy"]:
            started, ended = answer["busy"]
            self.busy.append((started, ended))
        if answer["whole"]:
            segment = Segment.from_json(answer["whole"])
            self._whole.append(segment)
            self._begun.remove(segment.name)


def _arguments(
    size: tuple[int, int],
    time_base: Fraction,
    like: VideoInfo | None,
    format: VideoFormat | ImageFormat,
    first_index: int,
) -> tuple[dict[str, Any], int]:
    """Returns the child's arguments and the bytes of memory that it may use."""
    if isinstance(format, ImageFormat):
        arguments = {
            "images": True,
            "size": list(size),
            "time_base": pack(time_base),
            "suffix": format.suffix,
            "quality": format.quality,
            "deep": format.deep,
            "first_index": first_index,
        }
        return arguments, _IMAGE_MEMORY_BYTES
    container = CODECS[format.codec].segments
    kind = {"images": False, "container": container, "suffix": f".{container}"}
    return encoder_arguments(size, time_base, like, format) | kind, memory_bytes(size, format)
