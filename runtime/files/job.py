"""Describes a job: its input, its output, and the options by which one is made of the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from ...errors import StreamDiffVSRError, option
from ...graphs.spec import SCALE, Size, format_size
from ..frame_stream import S, UpscaledStream
from ..media.encoders import ImageFormat, VideoFormat
from ..media.formats import choose_format
from ..media.info import VideoInfo
from ..media.join import left_out_of_images, rehearse
from ..media.preflight import check_input_name
from ..media.readable import is_numbered, numbered_images
from ..media.reader import Deinterlace, FileSource, SourceFrame, deinterlace_mode, probe
from ..state import StreamState

AUDIO = ("copy", "transcode", "none")
Progress = Callable[[int, int | None], None]  # frames done, and of all frames if known


class FrameUpscaler(Protocol):
    """The interface that a job needs of an upscaler."""

    @property
    def size(self) -> Size:
        """LR size (h, w) of the frames that it takes."""
        ...

    @property
    def identity(self) -> str:
        """The same for upscalers that make the same frames: only such a one may resume a job."""
        ...

    def stream_frames(
        self, frames: Iterable[S], state: StreamState | None = None
    ) -> UpscaledStream[S]:
        """Upscales frames; see `Upscaler.stream_frames`. It may read ahead."""
        ...


@dataclass(frozen=True, slots=True)
class FileOptions:
    """The options of a job; the defaults keep all that the input has.

    Attributes:
        seed: The seed of the noise: the same seed gives the same output.
        overwrite: Whether to replace an existing output, and start an unfinished one over.
        resume: Whether to go on with what an interrupted run has left, if anything.
        max_frames: The most frames to make; sound and all other streams end with them.
        start, end: The span of time to take, in seconds from the first frame, without `end`. The
            output begins when the input did.
        scene_cuts: Whether to forget the previous frame at a scene cut.
        deinterlace: See `FileSource`.
        fps: The frame rate of an image folder.
        audio: Whether sound is copied ("copy"), re-encoded ("transcode") or left out ("none").
        codec, encoder, crf, preset, images: See `choose_format`.
        keep_unfinished: Whether to keep finished segments when the job fails or is stopped.
    """

    seed: int = 0
    overwrite: bool = False
    resume: bool = False
    max_frames: int | None = None
    start: Fraction | None = None
    end: Fraction | None = None
    scene_cuts: bool = True
    deinterlace: Deinterlace = "auto"
    fps: Fraction | None = None
    audio: str = "copy"
    codec: str = "auto"
    encoder: str = "auto"
    crf: int | None = None
    preset: str | None = None
    images: str | None = None
    keep_unfinished: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "deinterlace", deinterlace_mode(self.deinterlace))
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"{self.max_frames = }: at least one frame")
        if self.start is not None and self.start < 0:
            raise ValueError(f"{self.start = }: not before the first frame")
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"{self.end = } is not after {self.start = }")
        if self.audio not in AUDIO:
            raise ValueError(f"{self.audio = }: one of {', '.join(AUDIO)}")

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON can carry them."""
        fields = asdict(self)
        for name in ("start", "end", "fps"):
            fields[name] = None if fields[name] is None else str(fields[name])
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> FileOptions:
        """Returns the options that `to_json` wrote."""
        exact = {n: Fraction(fields[n]) for n in ("start", "end", "fps") if fields[n] is not None}
        return cls(**{**fields, **exact})


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is ready to run.

    Attributes:
        info: The properties of the input.
        format: The format of the output.
        input_state: The input's bytes and modification time in ns, from when it was opened.
    """

    input: Path
    output: Path
    options: FileOptions
    info: VideoInfo
    format: VideoFormat | ImageFormat
    input_state: tuple[int, int]

    @classmethod
    def of(cls, input: Path, output: Path, options: FileOptions) -> Job:
        """Opens the input and chooses how the output is written.

        Raises:
            StreamDiffVSRError: The input cannot be read, or the output cannot be written as asked.
        """
        _check_plain(input)
        info = probe(input, fps=options.fps)
        size = SCALE * info.height, SCALE * info.width
        chosen = choose_format(
            output,
            info=info,
            size=size,
            codec=options.codec,
            encoder=options.encoder,
            crf=options.crf,
            preset=options.preset,
            images=options.images,
        )
        return cls(input, output, options, info, chosen, _state(input))

    def renewed(self) -> Job:
        """Returns the job as its input is now, which is opened again only if it has changed.

        Raises:
            StreamDiffVSRError: See `of` and `left_out`.
        """
        with contextlib.suppress(OSError, ValueError):  # it is gone, which `of` reports
            if _state(self.input) == self.input_state:
                return self
        job = Job.of(self.input, self.output, self.options)
        job.left_out()
        return job

    def to_json(self) -> dict[str, Any]:
        """Returns the job as JSON can carry it to another process."""
        return {
            "input": str(self.input.absolute()),
            "output": str(self.output.absolute()),
            "options": self.options.to_json(),
            "info": self.info.to_wire(),
            "format": asdict(self.format),
            "input_state": self.input_state,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Job:
        """Returns the job that `to_json` wrote."""
        of_format = VideoFormat if "codec" in fields["format"] else ImageFormat
        return cls(
            Path(fields["input"]),
            Path(fields["output"]),
            FileOptions.from_json(fields["options"]),
            VideoInfo.from_wire(fields["info"]),
            of_format(**fields["format"]),
            tuple(fields["input_state"]),
        )

    @property
    def output_size(self) -> Size:
        """Size (H, W) of the output's frames."""
        return SCALE * self.info.height, SCALE * self.info.width

    @property
    def first_seconds(self) -> Fraction:
        """The time of the input's first frame in seconds."""
        return self.info.start_time * self.info.time_base

    @property
    def start_seconds(self) -> Fraction | None:
        """The time in the input from which frames are taken; None means from the first."""
        return None if not self.options.start else self.first_seconds + self.options.start

    @property
    def end_seconds(self) -> Fraction | None:
        """The time in the input before which frames are taken; None means to the last."""
        return None if self.options.end is None else self.first_seconds + self.options.end

    @property
    def estimate(self) -> int | None:
        """The approximate number of frames, for progress only; None if unknown."""
        total, rate = self.info.frames, self.info.average_rate
        if total is not None and rate and (self.options.start or self.options.end):
            begin, end = self.options.start or Fraction(0), self.options.end
            total = max(0, min(total, round(end * rate) if end else total) - round(begin * rate))
        if self.options.max_frames is not None:
            return min(total or self.options.max_frames, self.options.max_frames)
        return total

    def is_end(self, count: int, frame: SourceFrame) -> bool:
        """Returns whether the job ends before this frame, given the count of frames before it."""
        end = self.end_seconds
        if end is not None and frame.pts * frame.time_base >= end:
            return True
        return self.options.max_frames is not None and count >= self.options.max_frames

    def open(self, begin: float | None) -> FileSource:
        """Opens the input at a frame at or before `begin` seconds; None for its first frame."""
        return FileSource(
            self.input,
            depth=16 if self.format.deep else 8,
            begin=begin,
            deinterlace=self.options.deinterlace,
            fps=self.options.fps,
        )

    def identity(self, upscaler: str, parts: int) -> dict[str, Any]:
        """Returns what must be the same for a run to resume another."""
        asked = replace(self.options, overwrite=False, resume=False, keep_unfinished=True)
        return {
            "input": [str(self.input.absolute()), *_state(self.input)],
            "engines": upscaler,
            "options": asked.to_json(),
            "format": asdict(self.format),
            "chunks": parts,
        }

    def left_out(self) -> tuple[str, ...]:
        """Returns what the output will lack of the input, found by a trial; a line each.

        Raises:
            StreamDiffVSRError: The output cannot hold the sound.
        """
        if isinstance(self.format, ImageFormat):
            return left_out_of_images(self.info)
        if not self.info.others and not self.info.chapters:
            return ()
        return rehearse(self.input, self.output, self.format, self.options.audio).notes

    def check_size(self, size: Size) -> None:
        """Raises StreamDiffVSRError unless engines of this size (h, w) take the input's frames."""
        if self.info.size != tuple(size):
            wanted = format_size(self.info.size)
            raise StreamDiffVSRError(
                f"could not upscale {str(self.input)!r}",
                f"its frames are {wanted} and the engines are made for {format_size(size)}",
                f"build engines with {option('size', self.info.size)}",
            )


def _state(path: Path) -> tuple[int, int]:
    """Returns the bytes and the modification time in ns; of a pattern, the sum and the newest."""
    files = numbered_images(path) if is_numbered(path) else [path]
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def _check_plain(path: Path) -> None:
    check_input_name(str(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        raise StreamDiffVSRError(
            f"could not upscale {str(path)!r}",
            "it is not a plain file, and sound and picture have to be read separately",
            "save it to a file first",
        )
