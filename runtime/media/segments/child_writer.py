"""What writers of segments share: a child that does the work, and its answers.

The child is one message behind whoever writes: each message is sent when the one before is done.
What the child makes of frames is not known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....errors import StreamDiffVSRError
from ...processes.child import Child
from ...processes.wire import pack
from ..closing import ClosesOrAborts
from .segment import Segment

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_SAVE_S = 600.0  # bringing gigabytes to a slow disk takes minutes


class WritesSegments(ClosesOrAborts):
    """Frames in, segments out; a subclass starts the child."""

    _whole: list[Segment]

    def begin(self, name: str) -> None:
        """Let the following frames go into a segment of that name; ends the running one.

        Raises:
            StreamDiffVSRError: As :meth:`write`.
        """
        self._begun.append(name)
        self._send({"kind": "begin", "name": name})

    def write(
        self,
        image: Image,
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
            failure=f"could not write into {str(self.folder)!r}",
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
            raise StreamDiffVSRError(f"could not write into {str(self.folder)!r}", "it was closed")
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
