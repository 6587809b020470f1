"""One file in, one file out: source, upscaler and sink, in one loop.

Decoding, upscaling and encoding overlap, as source and sink each run in a process of their own. A
frame's time travels beside it, untouched. It knows nothing of engines: an upscaler is whatever has
the three members of :class:`FrameUpscaler`.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import StreamDiffVSRError
from ..media.preflight import check_output
from ..media.sink import FileSink
from ..media.source import FileSource, SourceFrame

SCALE = 4

Image = npt.NDArray[np.uint8]
Progress = Callable[[int, int | None], None]  # frames done, and in all where that is known


class FrameUpscaler(Protocol):
    """What this loop needs of an upscaler."""

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the LR frames it takes."""

    def initial_state(self, seed: int = 0) -> Any:
        """The state before the first frame."""

    def stream(self, frames: Iterable[Image], state: Any = None) -> Iterator[Image]:
        """One (4h, 4w, 3) uint8 RGB frame for each (h, w, 3) one, in order; may read ahead."""


@dataclass(frozen=True, slots=True)
class UpscaleReport:
    """What came of one file.

    Attributes:
        output: The file that was written.
        frames: How many frames it has.
        seconds: From opening the input to the finished output.
        fps: Frames per second of that time.
        input_size, output_size: (h, w) and (H, W).
        damaged: Packets of the input with any sign of damage.
        retimed: Frames whose time was not later than the one before, and was moved.
        audio_streams: Streams of sound that were copied.
    """

    output: Path
    frames: int
    seconds: float
    fps: float
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    damaged: int
    retimed: int
    audio_streams: int

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it; sizes as "WxH", as everywhere on the command line."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        fields["output"] = str(self.output)
        for name in ("input_size", "output_size"):
            height, width = fields[name]
            fields[name] = f"{width}x{height}"
        return fields


def upscale_file(
    input: str | PathLike[str],
    output: str | PathLike[str],
    upscaler: FrameUpscaler,
    *,
    seed: int = 0,
    overwrite: bool = False,
    max_frames: int | None = None,
    progress: Progress | None = None,
) -> UpscaleReport:
    """Upscale a video file 4x.

    Args:
        input: The LR video; a plain file, as its sound is read beside its picture.
        output: The HR video; its ending chooses the container.
        upscaler: Made for frames of the input's size.
        seed: Of the noise: the same seed gives the same output.
        overwrite: Replace an existing output.
        max_frames: Stop after that many; the sound then ends with them.
        progress: Called with the frames done and the estimate of all.

    Raises:
        StreamDiffVSRError: The input cannot be read or the output not written, the size does not
            fit the upscaler, or changes inside the input. No output is left then.
        ValueError: ``max_frames`` is less than one.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"{max_frames = }: at least one frame")
    started = time.perf_counter()
    check_output(output, source=input, overwrite=overwrite)
    _check_plain(Path(input))
    with ExitStack() as stack:
        source = stack.enter_context(FileSource(input))
        _check_size(source, upscaler)
        height, width = source.info.size
        sink = stack.enter_context(
            FileSink(
                output, size=(SCALE * height, SCALE * width), like=source.info, overwrite=overwrite
            )
        )
        _copy_frames(source, sink, upscaler, seed, max_frames, progress)
        sink.close(cut_sound=sink.frames == max_frames)
    return _report(source, sink, time.perf_counter() - started)


def _report(source: FileSource, sink: FileSink, seconds: float) -> UpscaleReport:
    return UpscaleReport(
        output=sink.path,
        frames=sink.frames,
        seconds=round(seconds, 3),
        fps=round(sink.frames / seconds, 3),
        input_size=source.info.size,
        output_size=sink.size,
        damaged=source.damaged,
        retimed=sink.retimed,
        audio_streams=sink.audio_streams,
    )


def _copy_frames(
    source: FileSource,
    sink: FileSink,
    upscaler: FrameUpscaler,
    seed: int,
    max_frames: int | None,
    progress: Progress | None,
) -> None:
    waiting: deque[SourceFrame] = deque()  # read by the upscaler, not yet given back
    total = source.info.frames
    if total is not None and max_frames is not None:
        total = min(total, max_frames)

    def images() -> Iterator[Image]:
        for frame in itertools.islice(source, max_frames):
            _check_same_size(frame, source)
            waiting.append(frame)
            yield frame.image

    outputs = upscaler.stream(images(), upscaler.initial_state(seed))
    try:
        for out in outputs:
            frame = waiting.popleft()
            sink.write(out, frame.pts, frame.time_base, frame.duration)
            if progress:
                progress(sink.frames, total)
    finally:
        close = getattr(outputs, "close", None)  # of a generator: ends what reads ahead
        if close:
            close()


def _check_plain(path: Path) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise StreamDiffVSRError(
            f"could not upscale {str(path)!r}",
            "it is not a plain file, and its sound has to be read beside its picture",
            "save it to a file first",
        )


def _check_size(source: FileSource, upscaler: FrameUpscaler) -> None:
    if source.info.size != tuple(upscaler.size):
        (height, width), (h, w) = source.info.size, upscaler.size
        raise StreamDiffVSRError(
            f"could not upscale {str(source.info.path)!r}",
            f"its frames are {width}x{height} and the engines are made for {w}x{h}",
            f"build engines with --size {width}x{height}",
        )


def _check_same_size(frame: SourceFrame, source: FileSource) -> None:
    height, width = frame.image.shape[:2]
    if (height, width) != source.info.size:
        raise StreamDiffVSRError(
            f"could not upscale {str(source.info.path)!r}",
            f"its frames change from {source.info.width}x{source.info.height} to {width}x{height} "
            f"at {frame.seconds:.2f} s",
            "cut the file there and upscale the parts",
        )
