"""Frames of an Upscaler from a state on: a session makes one at a time, a stream as they come.

An upscaled frame carries the source that it was made of and the state after it, so who reads ahead
of the outputs has nothing to remember.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import StreamDiffVSRError
from ..graphs.spec import Size
from .ring import Run
from .state import StreamState

if TYPE_CHECKING:
    from .upscaler import Upscaler

Array = npt.NDArray[Any]
Image = npt.NDArray[np.uint8]
Check = Callable[[Image, StreamState], None]  # raises if a frame or state does not fit
# Whether a frame begins a new epoch; asked of each once, in order, as it is taken.
Cuts = Callable[[Image], bool]


class Source(Protocol):
    """What a frame is made of."""

    @property
    def image(self) -> Image:
        """(h, w, 3) uint8 RGB."""
        ...

    @property
    def cut(self) -> bool:
        """Whether it begins a new epoch: the frame before it does not guide it."""
        ...


S = TypeVar("S", bound=Source)
SourceT = TypeVar("SourceT", bound=Source, covariant=True)


@dataclass(frozen=True, slots=True)
class MarkedImage:
    """The simplest source: an image, and whether it begins a new epoch."""

    image: Image
    cut: bool = False


def mark_images(images: Iterable[Image], cuts: Cuts | None = None) -> Iterator[MarkedImage]:
    """Ask `cuts` of each image, as `CutDetector.is_cut` answers; without it none is a cut.

    Raises:
        RuntimeError: `cuts` raised StopIteration, which would end the stream as if it were whole.
    """
    for image in images:
        try:
            cut = cuts is not None and cuts(image)
        except StopIteration as error:
            raise RuntimeError("cuts has no answer for a frame") from error
        yield MarkedImage(image, cut)


@dataclass(frozen=True, slots=True, eq=False)
class Upscaled(Generic[SourceT]):
    """A frame that was made.

    Attributes:
        source: What it was made of, as the caller gave it.
        image: (4h, 4w, 3) uint8 RGB.
        state: The state after it.
    """

    source: SourceT
    image: Image
    state: StreamState

    def raw(self) -> Array:
        """The raw output (1, 3, 4h, 4w), nominally in [-1, 1]; on a GPU it is copied from there."""
        hr = self.state.previous_hr
        assert hr is not None
        return hr


class UpscaledStream(Protocol[SourceT]):
    """An iterator of upscaled frames, in order; it may take sources ahead of what it gives."""

    def __iter__(self) -> Iterator[Upscaled[SourceT]]: ...

    def __next__(self) -> Upscaled[SourceT]: ...

    def close(self) -> None:
        """Stop before the frames end."""
        ...


class FrameStream:
    """An iterator of output images, (4h, 4w, 3) uint8 RGB.

    Attributes:
        state: The state after the last frame that was given.
    """

    def __init__(self, frames: UpscaledStream[Any], state: StreamState) -> None:
        self._frames, self.state = frames, state

    def __iter__(self) -> FrameStream:
        return self

    def __next__(self) -> Image:
        frame = next(self._frames)
        self.state = frame.state
        return frame.image

    def close(self) -> None:
        """Stop before the frames end; the state stays readable."""
        self._frames.close()


class Session:
    """Frames from a state on, each made when it is asked for.

    Attributes:
        state: What the next frame goes on from; another state may be put there between frames.

    Args:
        guidance_scale: The strength of the ControlNet; 0 makes each frame without its previous one.
    """

    def __init__(self, upscaler: Upscaler, state: StreamState, guidance_scale: float = 1.0) -> None:
        self._upscaler, self.state, self._guidance_scale = upscaler, state, guidance_scale
        self._stage_ms: dict[str, float] = {}

    @property
    def size(self) -> Size:
        """LR size (h, w) of its frames."""
        return self._upscaler.size

    def step(self, image: Image, *, cut: bool = False) -> Image:
        """Upscale the next frame: (h, w, 3) uint8 RGB -> (4h, 4w, 3) uint8 RGB.

        Args:
            cut: Begin a new epoch with it.

        Raises:
            StreamDiffVSRError: The frame or the state is of another size than the engines.
        """
        before = self.state.reset() if cut else self.state
        times = self._upscaler.stage_times
        times.take()  # drops what other users of the Upscaler have left
        out, self.state = self._upscaler.step(image, before, guidance_scale=self._guidance_scale)
        self._stage_ms = times.take()
        return out

    def upscale(self, frames: Iterable[S]) -> Generator[Upscaled[S], None, None]:
        """Make frames as they are asked for; each is taken when the one before it was given."""
        for frame in frames:
            yield Upscaled(frame, self.step(frame.image, cut=frame.cut), self.state)

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds of each graph in the last frame; empty where a GPU runs them by itself."""
        return self._stage_ms

    def close(self) -> None:
        """Give back the buffers and streams of its Upscaler; another frame makes new ones."""
        self._upscaler.close()


class OverlappedFrames(Generic[S]):
    """Frames through the slots of an Upscaler: as many are begun early as the run is ahead.

    What the source raises is raised in its turn, after the frames that came before it.
    """

    def __init__(
        self, run: Run, check: Check, frames: Iterable[S], guidance_scale: float = 1.0
    ) -> None:
        self._run, self._check, self._frames, self._start = run, check, iter(frames), run.state
        self._guidance_scale = guidance_scale
        self._taken: deque[S] = deque(maxlen=run.ahead + 1)  # the last ones; some are in flight
        self._ended = self._closed = False
        self._error: Exception | None = None  # of the source, until its turn comes

    def __iter__(self) -> OverlappedFrames[S]:
        return self

    def __next__(self) -> Upscaled[S]:
        while not self._ended and self._run.in_flight <= self._run.ahead:
            with self._run.whole_or_closed():  # a frame that was taken and not begun would be lost
                self._take()
        if self._closed or (self._ended and not self._run.in_flight):
            self._raise_end()
        source = self._taken[-self._run.in_flight]
        return Upscaled(source, self._run.finish(), self._run.state)

    def pause(self) -> None:
        """Let what was begun be made: nothing of it is on the device until the next frame."""
        self._run.give_way()

    def close(self) -> None:
        """Let what was begun end, and give no more."""
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
            self._check(frame.image, self._start)
        except Exception as error:
            self._end_with(error)
            return
        self._run.begin(frame.image, guidance_scale=self._guidance_scale, cut=frame.cut)
        self._taken.append(frame)

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
