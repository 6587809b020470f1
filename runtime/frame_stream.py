"""Sessions and streams of frames of an Upscaler, which continue from a state, and scene cuts.

An upscaled frame carries its source and the state after it, so a source that is read ahead of the
outputs has nothing to remember.

Scene cuts are found on LR frames as they arrive, from earlier frames alone. Two frames belong
together if one, shifted a little, looks like the other. Thumbnails are compared by their normalised
cross-correlation (Lewis, 1995), so a flash or a fade, which changes only brightness and contrast,
is not a cut. Where that leaves doubt, each quarter is searched for by itself, in colour: what no
motion explains is another scene. A reset too many costs the guidance of one frame; a reset too few
leaves ghosts.
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
from ..graphs.arrays import Array
from ..graphs.arrays import Image as Image
from ..graphs.spec import Size
from .ring import Run
from .state import StreamState

if TYPE_CHECKING:
    from .upscaler import Upscaler

Check = Callable[[Image, StreamState], None]  # raises if a frame or state does not fit
# Returns whether a frame begins a new epoch; called once with each, in order, as it is taken.
Cuts = Callable[[Image], bool]


class Source(Protocol):
    """The source of an upscaled frame."""

    @property
    def image(self) -> Image:
        """The LR image, (h, w, 3) uint8 RGB."""
        ...

    @property
    def cut(self) -> bool:
        """Returns whether it begins a new epoch, so that the frame before it does not guide it."""
        ...


S = TypeVar("S", bound=Source)
SourceT = TypeVar("SourceT", bound=Source, covariant=True)


@dataclass(frozen=True, slots=True)
class MarkedImage:
    """The simplest source: an image, and whether it begins a new epoch."""

    image: Image
    cut: bool = False


def mark_images(images: Iterable[Image], cuts: Cuts | None = None) -> Iterator[MarkedImage]:
    """Yields each image with the answer of `cuts`; without `cuts`, none is a cut.

    Raises:
        RuntimeError: `cuts` raised StopIteration, which would end the stream without an error.
    """
    for image in images:
        try:
            cut = cuts is not None and cuts(image)
        except StopIteration as error:
            raise RuntimeError("cuts has no answer for a frame") from error
        yield MarkedImage(image, cut)


@dataclass(frozen=True, slots=True, eq=False)
class Upscaled(Generic[SourceT]):
    """An upscaled frame.

    Attributes:
        source: The source that it was made of, as the caller gave it.
        image: The output, (4h, 4w, 3) uint8 RGB.
        state: The state after the frame.
    """

    source: SourceT
    image: Image
    state: StreamState

    def raw(self) -> Array:
        """Returns the raw output (1, 3, 4h, 4w), nominally in [-1, 1], copied from a GPU."""
        hr = self.state.previous_hr
        assert hr is not None
        return hr


class UpscaledStream(Protocol[SourceT]):
    """An iterator of upscaled frames, in order; it may take sources ahead of its outputs."""

    def __iter__(self) -> Iterator[Upscaled[SourceT]]: ...

    def __next__(self) -> Upscaled[SourceT]: ...

    def close(self) -> None:
        """Stops before the frames end."""
        ...


class FrameStream:
    """An iterator of output images, (4h, 4w, 3) uint8 RGB.

    Attributes:
        state: The state after the last frame that was returned.
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
        """Stops before the frames end; the state stays readable."""
        self._frames.close()


class Session:
    """Upscales frames one at a time, and keeps the state between them.

    Attributes:
        state: The state that the next frame continues from; it may be replaced between frames.

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
        """Upscales the next frame: (h, w, 3) uint8 RGB -> (4h, 4w, 3) uint8 RGB.

        Args:
            cut: Whether to begin a new epoch with it.

        Raises:
            StreamDiffVSRError: The frame or the state does not have the engines' size.
        """
        before = self.state.reset() if cut else self.state
        times = self._upscaler.stage_times
        times.take()  # drops the times of other users of the Upscaler
        out, self.state = self._upscaler.step(image, before, guidance_scale=self._guidance_scale)
        self._stage_ms = times.take()
        return out

    def upscale(self, frames: Iterable[S]) -> Generator[Upscaled[S], None, None]:
        """Upscales frames on demand; each is taken after the one before it was returned."""
        for frame in frames:
            yield Upscaled(frame, self.step(frame.image, cut=frame.cut), self.state)

    def stage_ms(self) -> dict[str, float]:
        """Returns the ms of each graph in the last frame; empty if a GPU runs them by itself."""
        return self._stage_ms

    def close(self) -> None:
        """Frees the buffers and streams of its Upscaler; another frame makes new ones."""
        self._upscaler.close()


class OverlappedFrames(Generic[S]):
    """Upscales frames in the slots of an Upscaler; `run.ahead` frames are begun early.

    An error of the source is raised in its turn, after the frames that came before it.
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
            with self._run.whole_or_closed():  # a frame taken but not begun would be lost
                self._take()
        if self._closed or (self._ended and not self._run.in_flight):
            self._raise_end()
        source = self._taken[-self._run.in_flight]
        return Upscaled(source, self._run.finish(), self._run.state)

    def pause(self) -> None:
        """Finishes what was begun, so that the device is free until the next frame."""
        self._run.give_way()

    def close(self) -> None:
        """Finishes what was begun, and returns no more frames."""
        self._ended = self._closed = True
        self._error = None
        with contextlib.suppress(StreamDiffVSRError):  # the device has failed, as was raised before
            self._run.give_way()

    def _take(self) -> None:
        """Begins the source's next frame, or notes how the source ended."""
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
        """Notes an error without this iterator's own lines at the start of its traceback."""
        rest = error.__traceback__ and error.__traceback__.tb_next
        self._ended, self._error = True, error.with_traceback(rest)

    def _raise_end(self) -> NoReturn:
        """Raises the error of the source, once, or else StopIteration."""
        error, self._error = self._error, None
        try:
            raise StopIteration if error is None else error
        finally:
            del error


Thumbnail = npt.NDArray[np.float32]  # (rows, columns, channels)

ROWS, COLUMNS = 27, 48
REACH = 5  # the search goes a fifth of the frame each way
UNLIKE, ALIKE = 0.5, 0.75  # correlations beyond doubt: another scene below, the same above
EXPLAINED = 0.52  # between them: the least correlation of the quarters, in both directions
FLAT = 3.0  # standard deviation in levels: below it a frame shows noise and no scene
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


class CutDetector:
    """Decides for each frame whether it begins a new scene."""

    def __init__(self) -> None:
        self._last: Thumbnail | None = None  # of the last frame that shows anything

    def is_cut(self, image: Image) -> bool:
        """Returns whether a frame, (h, w, 3) uint8 RGB, shows another scene than the last one.

        A frame with a flat middle (a flash, black between scenes) is never a cut: the frame after
        it is compared with the one before it.
        """
        now = thumbnail_of(image)
        if (_middle_of(now) @ _LUMA).std() < FLAT:
            return False
        last, self._last = self._last, now
        if last is None:
            return False
        alike = likeness(last @ _LUMA, now @ _LUMA)
        if not UNLIKE <= alike < ALIKE:
            return alike < UNLIKE
        return min(explained(last, now), explained(now, last)) < EXPLAINED

    @property
    def memory(self) -> Thumbnail | None:
        """The thumbnail of the last frame that shows anything; never changed, only replaced."""
        return self._last

    @memory.setter
    def memory(self, thumbnail: Thumbnail | None) -> None:
        self._last = thumbnail

    def reset(self) -> None:
        """Forgets the last frame, at the start of an epoch."""
        self._last = None


def thumbnail_of(image: Image) -> Thumbnail:
    """Returns the mean colour of each of ROWS x COLUMNS cells, or each pixel of a smaller image."""
    # Every second pixel of a large frame: enough for a mean, and a quarter of the work.
    step = 2 if min(image.shape[0] // ROWS, image.shape[1] // COLUMNS) >= 4 else 1
    pixels = image[::step, ::step]
    rows, columns = (
        np.linspace(0, side, min(cells, side) + 1).astype(int)
        for side, cells in zip(pixels.shape[:2], (ROWS, COLUMNS), strict=True)
    )
    sums = np.add.reduceat(pixels, rows[:-1], axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns[:-1], axis=1)
    counts = np.outer(np.diff(rows), np.diff(columns))[:, :, None]
    cells: Thumbnail = (sums / counts).astype(np.float32)
    return cells


def likeness(last: Thumbnail, now: Thumbnail) -> float:
    """Returns the largest correlation, in [-1, 1], of `now` with the middle of `last`, shifted."""
    return _found(_middle_of(last), now)


def explained(last: Thumbnail, now: Thumbnail) -> float:
    """Returns the same for the quarters of the middle, each shifted by itself: a mean by contrast.

    One minus its square is about the share of `now` that remains after `last` is moved block by
    block and its brightness and contrast are fitted: a residual of motion, without the flow.
    """
    down, across = last.shape[0] // REACH, last.shape[1] // REACH
    weights, found = [], []
    for rows in _halves(_middle(last.shape[0])):
        for columns in _halves(_middle(last.shape[1])):
            quarter = last[rows, columns]
            weights.append(float(quarter.std()) + 1e-3)
            found.append(_found(quarter, now[_wider(rows, down), _wider(columns, across)]))
    return float(np.average(found, weights=weights))


def _middle_of(thumbnail: Thumbnail) -> Thumbnail:
    return thumbnail[_middle(thumbnail.shape[0]), _middle(thumbnail.shape[1])]


def _middle(side: int) -> slice:
    return slice(side // REACH, side - side // REACH)


def _halves(whole: slice) -> tuple[slice, slice]:
    half = (whole.start + whole.stop) // 2
    return slice(whole.start, half), slice(half, whole.stop)


def _wider(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop + by)


def _found(part: Thumbnail, where: Thumbnail) -> float:
    """Returns the largest correlation of a part with any window of its size, means removed."""
    windows = np.lib.stride_tricks.sliding_window_view(where, part.shape[:2], axis=(0, 1))
    windows = windows.reshape(-1, part.shape[2], part[..., 0].size)  # (shifts, channels, cells)
    centred = np.moveaxis(part - part.mean(axis=(0, 1)), 2, 0).reshape(-1)
    spread = np.sqrt(windows.var(axis=2).sum(axis=1) * windows.shape[2])
    products = windows.reshape(len(windows), -1) @ centred
    return float((products / np.maximum(spread * np.linalg.norm(centred), 1e-6)).max())
