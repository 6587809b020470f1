"""Writes frames with an object of a registered kind of sink, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import StreamDiffVSRError
from .frame import OutputFrame
from .sink_targets import FrameWriter, Target


class InProcess:
    """One opening of a target; it has the methods of a `SinkProcess`, and no deadlines.

    Args:
        target: The place to write to; its kind has `open`.
        size: The size (H, W) of the frames.
    """

    def __init__(self, target: Target, size: tuple[int, int]) -> None:
        self.size, self.path = size, Path(target.where)
        self._target = target
        self._writer: FrameWriter | None = None
        self._busy = threading.Lock()

    def open(self) -> str:
        """Opens the target; returns an empty string, as no encoder is in use.

        Raises:
            StreamDiffVSRError: It could not be opened.
        """
        opener: Callable[[Target], FrameWriter] | None = self._target.traits.open
        assert opener is not None
        with self._reporting():
            self._writer = opener(self._target)
        return ""

    def write(self, frame: OutputFrame, ticks: int) -> None:
        """Writes one frame.

        Raises:
            StreamDiffVSRError: It was not written.
        """
        with self._reporting():
            if self._writer is None:
                raise StreamDiffVSRError(self._target.failure, "it is closed")
            self._writer.write(frame)

    def finish(self) -> None:
        """Closes the target.

        Raises:
            StreamDiffVSRError: The output is not finished.
        """
        with self._reporting():
            self._close()

    def kill(self) -> None:
        """Closes the target, unless a call is under way, which nothing can end; never raises."""
        if self._busy.acquire(blocking=False):
            try:
                self._close()
            except Exception:  # the failure that led here is reported already
                self._writer = None
            finally:
                self._busy.release()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Holds the lock, and turns any failure into an error of the target."""
        with self._busy:
            try:
                yield
            except StreamDiffVSRError:
                raise
            except Exception as error:  # it is another package's code
                why = f"{type(error).__name__}: {error}"
                raise StreamDiffVSRError(self._target.failure, why) from error
