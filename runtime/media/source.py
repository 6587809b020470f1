"""A video file as an iterator of RGB frames with their times.

Decoding runs in a child process, one frame ahead of whoever reads: the pipe between them is the
bounded queue. It knows nothing of the upscaler, and it does not seek.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import StreamDiffVSRError
from .child import DEADLINE_S
from .info import VideoInfo
from .probe import start_reader


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One decoded LR frame.

    Attributes:
        image: (h, w, 3) uint8 RGB [0, 255], C-contiguous, memory of its own, upright.
        pts: When it is shown, in ticks of ``time_base``; made up from the frame rate where the
            file has none.
        time_base: Seconds per tick.
        duration: How long it is shown, in ticks; None if the file does not say.
        index: 0 for the first frame.
        busy: From when to when it was read and decoded, in seconds of `time.perf_counter`, which
            processes share.
    """

    image: npt.NDArray[np.uint8]
    pts: int
    time_base: Fraction
    duration: int | None
    index: int
    busy: tuple[float, float] = (0.0, 0.0)

    @property
    def seconds(self) -> float:
        """When it is shown, in seconds."""
        return float(self.pts * self.time_base)


class FileSource:
    """The frames of a video file, once, in order of display.

    ``damaged`` counts the packets so far with any sign of damage; the frames around them may be
    wrong, and the source goes on behind them. Frames are turned upright by the file's rotation, so
    what is written from them needs none. A change of size inside the file shows as frames of
    another shape.

    Args:
        path: The file; its content counts, not its extension.
        deadline_s: The longest the file may take to give a frame.

    Raises:
        StreamDiffVSRError: As :func:`probe`, at once; or while iterating, if the reader crashes or
            takes too long.
    """

    def __init__(self, path: str | PathLike[str], *, deadline_s: float = DEADLINE_S) -> None:
        self.damaged = 0
        self._index = 0
        self._ended = False
        self._child = start_reader(path, deadline_s=deadline_s, frames=True)
        try:
            header, _ = self._child.receive()
            self.info = VideoInfo.from_wire(header["info"])
        except BaseException:
            self._child.close()
            raise

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
            self.damaged = header["damaged"]
            if header["kind"] == "end":
                self.close()
                break
            return self._frame(header["height"], header["width"], header, payload)
        raise StopIteration

    def _frame(
        self, height: int, width: int, header: dict[str, Any], payload: memoryview
    ) -> SourceFrame:
        image = np.frombuffer(payload, np.uint8).reshape(height, width, 3)
        started, ended = header["busy"]
        frame = SourceFrame(
            image,
            header["pts"],
            self.info.time_base,
            header["duration"],
            self._index,
            (started, ended),
        )
        self._index += 1
        return frame

    def close(self) -> None:
        """Stop decoding. Safe at any point, from any thread, and twice."""
        self._ended = True
        self._child.close()

    def __enter__(self) -> FileSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
