"""A video through a pipe, from file to file: the job that the command line runs, seen from a node.

A VIDEO that is no file becomes one first, without loss.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..runtime.files.upscale import FileOptions, UpscaleReport, upscale_file
from ..runtime.frames import Image
from ..runtime.media.probe import probe
from . import host
from .lossless import write_lossless
from .pipe import Pipe
from .run import Settings, upscale_images
from .variant import GuidedUpscaler

__all__ = ["Span", "upscale_images", "upscale_video", "video_file"]


@dataclass(frozen=True, slots=True)
class Span:
    """Frames `first` to `last`, included; None: to the end.

    Raises:
        StreamDiffVSRError: There is none between them.
    """

    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if self.last is not None and self.last < self.first:
            raise StreamDiffVSRError(
                f"there is no frame from {self.first} to {self.last}",
                "end_frame is before start_frame",
                "set end_frame to -1 for all, or behind start_frame",
            )

    def of(self, images: Any) -> Any:
        """Those frames of an IMAGE.

        Raises:
            StreamDiffVSRError: It has none of them.
        """
        count = len(images)
        if self.first >= count:
            raise StreamDiffVSRError(
                f"there is no frame {self.first}", f"images has {count}", "lower start_frame"
            )
        return images[self.first : None if self.last is None else self.last + 1]

    def options(self, rate: Fraction | None) -> dict[str, Any]:
        """As options of a job: half a frame early, so that rounded times do not lose one."""
        count = None if self.last is None else self.last - self.first + 1
        early = Fraction(2 * self.first - 1, 2) / (rate or Fraction(25))
        return {"max_frames": count, "start": early if self.first else None}


def upscale_video(
    pipe: Pipe,
    source: Path,
    output: Path,
    settings: Settings,
    span: Span,
    asked: FileOptions,
    node: str | None,
) -> UpscaleReport:
    """Upscale a file; progress and Cancel are the node's. Nothing is left of a cancelled job.

    Args:
        asked: What the node itself asks for; the rest is of the settings.
    """
    info = probe(source)
    upscaler = pipe.upscaler(settings.engines_for(info.size), node)
    progress, last = host.Progress(info.frames or 1, node), list[Image]()

    def see(frame: Image) -> None:
        host.stop_if_cancelled()
        last[:] = [frame]

    def tell(done: int, total: int | None) -> None:
        progress.frames(done, total or done, last[0])

    variant = GuidedUpscaler(
        upscaler, strength=settings.strength, temporal=settings.temporal, see=see
    )
    options = replace(
        asked,
        seed=settings.seed,
        scene_cuts=settings.scene_cuts,
        keep_unfinished=False,
        **span.options(info.average_rate),
    )
    report = upscale_file(source, output, variant, options, progress=tell)
    for note in report.notes:
        progress.say(note)
    return report


@contextmanager
def video_file(video: Any) -> Iterator[Path]:
    """The file of a VIDEO, or a path as it is; one that had to be written is removed at the end."""
    if isinstance(video, Path):
        yield video
        return
    frames = host.frames_of(video)
    source: Any = None if frames is not None else video.get_stream_source()
    if isinstance(source, str) and host.is_whole(video, source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(dir=host.temporary_folder()) as folder:
        path = Path(folder, "video.mov")
        if frames is not None:
            write_lossless(path, frames.images, frames.frame_rate, frames.audio)
        elif isinstance(source, str):
            video.save_to(str(path))  # a part of a file: its packets, copied
        else:
            with path.open("wb") as file:
                shutil.copyfileobj(source, file)
        yield path
