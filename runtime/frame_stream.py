"""Iterators over upscaled frames: one by one, or overlapped; both carry their state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import StreamDiffVSRError
from .ring import Run
from .state import StreamState

Image = npt.NDArray[np.uint8]
Step = Callable[[Image, StreamState], tuple[Image, StreamState]]
Check = Callable[[Image, StreamState], None]  # raises if a frame or state does not fit
# Whether a frame begins a new epoch; asked of each once, in order, as it is taken.
Cuts = Callable[[Image], bool]


class FrameStream(Protocol):
    """An iterator of output frames, (4h, 4w, 3) uint8 RGB."""

    @property
    def state(self) -> StreamState:
        """After the last frame that was given."""
        ...

    def __iter__(self) -> FrameStream: ...

    def __next__(self) -> Image: ...

    def close(self) -> None:
        """Stop before the frames end."""
        ...


class SteppedFrames:
    """The plain loop: a frame is taken when the one before it has been given."""

    def __init__(
        self, step: Step, frames: Iterable[Image], state: StreamState, cuts: Cuts | None = None
    ) -> None:
        self._step, self._frames, self.state, self._cuts = step, iter(frames), state, cuts

    def __iter__(self) -> SteppedFrames:
        return self

    def __next__(self) -> Image:
        frame = next(self._frames)
        before = self.state.reset() if _begins(self._cuts, frame) else self.state
        out, self.state = self._step(frame, before)
        return out

    def close(self) -> None:
        """Give nothing more."""
        self._frames = iter(())


class OverlappedFrames:
    """Frames through the slots of an Upscaler: as many are begun early as the run is ahead.

    What the source raises is raised in its turn, after the frames that came before it.
    """

    def __init__(
        self,
        run: Run,
        check: Check,
        frames: Iterable[Image],
        cuts: Cuts | None = None,
    ) -> None:
        self._run, self._check, self._frames, self._start = run, check, iter(frames), run.state
        self._cuts = cuts
        self._ended = self._closed = False
        self._error: Exception | None = None  # of the source, until its turn comes

    def __iter__(self) -> OverlappedFrames:
        return self

    def __next__(self) -> Image:
        while not self._ended and self._run.in_flight <= self._run.ahead:
            with self._run.whole_or_closed():  # a frame that was taken and not begun would be lost
                self._take()
        if self._closed or (self._ended and not self._run.in_flight):
            self._raise_end()
        return self._run.finish()

    @property
    def state(self) -> StreamState:
        """After the last frame that was given."""
        return self._run.state

    def pause(self) -> None:
        """Let what was begun be made: nothing of it is on the device until the next frame."""
        self._run.give_way()

    def close(self) -> None:
        """Let what was begun end, and give no more; the state stays readable."""
        self._ended = self._closed = True
        self._error = None
        with contextlib.suppress(StreamDiffVSRError):  # of a device that has failed before
            self._run.give_way()

    def _take(self) -> None:
        """Begin the source's next frame, or note how the source ended."""
        try:
            frame = next(self._frames)
        except StopIteration:
            self._ended = True
            return
        except Exception as error:
            self._end_with(error)
            return
        try:
            self._check(frame, self._start)
            cut = _begins(self._cuts, frame)
        except Exception as error:
            self._end_with(error)
            return
        self._run.begin(frame, cut=cut)

    def _end_with(self, error: Exception) -> None:
        """Note an error, without the lines of this iterator that its traceback begins with."""
        behind = error.__traceback__ and error.__traceback__.tb_next
        self._ended, self._error = True, error.with_traceback(behind)

    def _raise_end(self) -> NoReturn:
        """Raise what the source has raised, once, or that there are no more frames."""
        error, self._error = self._error, None
        try:
            raise StopIteration if error is None else error
        finally:
            del error


def _begins(cuts: Cuts | None, frame: Image) -> bool:
    """Whether a frame begins a new epoch.

    Raises:
        RuntimeError: `cuts` raised StopIteration, which would end the stream as if it were whole.
    """
    try:
        return cuts is not None and cuts(frame)
    except StopIteration as error:
        raise RuntimeError("cuts has no answer for a frame") from error
