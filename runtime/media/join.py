"""Joins finished segments and the source's other streams to the output file or image folder.

What the join will leave out or refuse is found before the first frame is made.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from os import PathLike
from pathlib import Path
from typing import NoReturn

from ... import durable
from ...errors import StreamDiffVSRError, option
from ..processes.child import DEADLINE_S, Child
from ..processes.messages import Header, pack
from .encoders import IMAGE_NAME, ImageFormat, VideoFormat
from .info import VideoInfo
from .segment import Segment


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a join will do.

    Attributes:
        copied: How many streams of each kind, such as {"audio": 1}.
        notes: What will be left out and why; a line each.
    """

    copied: dict[str, int]
    notes: tuple[str, ...]


def rehearse(
    source: str | PathLike[str],
    output: Path,
    form: VideoFormat,
    audio: str = "copy",
    *,
    deadline_s: float = DEADLINE_S,
) -> Rehearsed:
    """Try what an output takes over from its source.

    Args:
        output: Its ending is named in what is told; it is not opened.
        form: Of the output.
        audio: What becomes of the sound: "copy", "transcode" or "none".

    Raises:
        StreamDiffVSRError: The container cannot hold the sound, or the source cannot be read.
    """
    child = Child(
        "runtime.media.rehearsal_child",
        {
            "source": str(Path(source).absolute()),
            "container": form.container,
            "codec": form.codec,
            "suffix": output.suffix,
            "audio": audio,
        },
        failure=f"could not read {str(source)!r}",
        deadline_s=deadline_s,
    )
    try:
        told, _ = child.receive()
        return Rehearsed(told["copied"], tuple(told["notes"]))
    finally:
        child.close()


def publish_images(
    segments: Sequence[tuple[Path, Segment]], output: Path, *, overwrite: bool
) -> int:
    """Make the images of (folder, segment) pairs the folder ``output``; their bytes.

    An existing folder is replaced only if nothing but such images is in it.

    Raises:
        StreamDiffVSRError: An image is missing, the output is in the way, or the disk refuses.
    """
    failure = f"could not write {str(output)!r}"
    files = [folder / name for folder, segment in segments for name in segment.files]
    gathered = files[0].parent
    try:
        _gather(files, gathered)
        _check_replaceable(output, failure, overwrite=overwrite)
        _replace(gathered, output)
    except OSError as error:
        raise StreamDiffVSRError(failure, error.strerror or str(error)) from error
    return sum(segment.bytes for _, segment in segments)


def _gather(files: Sequence[Path], folder: Path) -> None:
    """Leave exactly these in the folder. A join that was interrupted may have moved some."""
    for file in files:
        if not (folder / file.name).exists() or (file.parent != folder and file.exists()):
            os.replace(file, folder / file.name)
    wanted = {file.name for file in files}
    for entry in folder.iterdir():
        if entry.name not in wanted:
            entry.unlink()
    durable.folder_to_disk(folder)


def _check_replaceable(output: Path, failure: str, *, overwrite: bool) -> None:
    if not output.exists():
        return
    names = [entry.name for entry in output.iterdir()]
    if names and not overwrite:
        raise StreamDiffVSRError(failure, "a folder of that name has come into being meanwhile")
    for name in names:
        if not IMAGE_NAME.fullmatch(name):
            why = f"the folder holds {name!r}, which is none of its frames"
            raise StreamDiffVSRError(failure, why, "choose a new folder")


def _replace(made: Path, output: Path) -> None:
    old: Path | None = None
    if output.exists():  # a folder that is there, even an empty one, is in the way on Windows
        old = durable.beside(output, ".", f".{secrets.token_hex(4)}.old")
        os.rename(output, old)
    try:
        os.rename(made, output)
    except BaseException:
        if old:
            os.rename(old, output)
        raise
    durable.folder_to_disk(output.parent)
    if old:
        for entry in old.iterdir():
            entry.unlink()
        with contextlib.suppress(OSError):
            old.rmdir()


Progress = Callable[[int, int], None]

_STEP_S = 600.0  # a file's index, or bringing gigabytes to a slow disk, takes minutes
_MEMORY_BYTES = 8 << 30


class JoinFailedError(StreamDiffVSRError):
    """All frames are there, and what the input holds beside them could not be joined to them."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a join has made.

    Attributes:
        bytes: Of the output.
        copied: How many streams of each kind were taken over: "audio", "subtitle", "data",
            "attachment", "cover", "chapter".
        notes: What was left out, and why; a line each.
    """

    bytes: int
    copied: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


def join(
    segments: Sequence[tuple[Path, Segment]],
    output: str | PathLike[str],
    *,
    like: VideoInfo | None,
    format: VideoFormat | ImageFormat,
    audio: str = "copy",
    copy_rest: bool = True,
    shift: Fraction = Fraction(0),
    span: tuple[Fraction | None, Fraction | None] = (None, None),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Joined:
    """Make the output of segments, in order. Those of images are used up by it.

    Args:
        segments: (the folder that was written into, segment) pairs; at least one.
        output: A file, or for images a folder.
        like: The source: what is copied comes from it. None if there is none.
        format: As the segments were written.
        audio: What becomes of the sound: "copy", "transcode" or "none".
        copy_rest: Whether subtitles, covers, attachments, data and chapters are copied; tags are.
        shift: Seconds subtracted from every time, of picture and all else.
        span: (start, end) in seconds of the source: what is kept of sound and all else copied.
        overwrite: Replace an existing output.
        progress: Called with (frames done, frames in all); what it raises ends the join.

    Raises:
        JoinFailedError: The sound or the like could not be joined to the picture, which was saved
            beside the output. Segments are kept.
        StreamDiffVSRError: A segment is missing or damaged, the disk is full, or the output has
            come into being meanwhile. Segments are kept.
    """
    if not segments:
        raise ValueError("no segment to join")
    output = Path(output).absolute()
    if isinstance(format, ImageFormat):
        size = publish_images(segments, output, overwrite=overwrite)
        return Joined(bytes=size, notes=left_out_of_images(like) if like else ())
    join_ = _Join(segments, output, like, overwrite)
    options = {
        "container": format.container,
        "tag": format.tag,
        "codec": format.codec,
        "audio": audio,
        "copy_rest": copy_rest,
        "shift": pack(shift),
        "start": pack(span[0]),
        "end": pack(span[1]),
    }
    return join_.run(options, progress)


class _Join:
    def __init__(
        self,
        segments: Sequence[tuple[Path, Segment]],
        output: Path,
        like: VideoInfo | None,
        overwrite: bool,
    ) -> None:
        self._segments, self._output, self._like = segments, output, like
        self._overwrite = overwrite
        self._failure = f"could not write {str(output)!r}"
        # In the folder of what is unfinished: what a crash leaves is cleared away with the rest.
        self._part = segments[0][0].absolute() / f".joined{output.suffix}"

    def run(self, options: Header, progress: Progress | None) -> Joined:
        like = self._like
        arguments = options | {
            "part": str(self._part),
            "suffix": self._output.suffix,
            "rate": pack(like.average_rate if like else None),
            "source": str(like.path.absolute()) if like and like.holds_more else None,
        }
        child = Child(
            "runtime.media.join_child",
            arguments,
            failure=self._failure,
            memory_bytes=_MEMORY_BYTES,
        )
        try:
            child.send({"kind": "segments"}, self._told())
            done = self._follow(child, progress)
            if "failed" in done:
                self._save(done)
            self._publish()
        except BaseException:
            child.close()
            with contextlib.suppress(OSError):
                self._part.unlink()
            raise
        child.close()
        return Joined(done["bytes"], done["copied"], tuple(done["notes"]))

    def _told(self) -> bytes:
        return json.dumps(
            [(str(folder.absolute()), segment.to_json()) for folder, segment in self._segments]
        ).encode()

    def _follow(self, child: Child, progress: Progress | None) -> Header:
        total = sum(segment.frames for _, segment in self._segments)
        while True:
            told, _ = child.receive(_STEP_S)
            if told["kind"] == "done":
                return told
            if progress and told["kind"] == "beat":
                progress(told["frames"], total)

    def _save(self, done: Header) -> NoReturn:
        """Give the picture that could not become the output a name of its own, and say so."""
        saved = next(path for path in _beside(self._output) if not path.exists())
        (why, remedy), what = done["failed"], "the finished picture"
        try:
            os.replace(self._part, saved)
        except OSError as error:
            told = f"{what} cannot be saved as {str(saved)!r} either"
            why = f"{why}; {told}: {error.strerror or error}"
            raise StreamDiffVSRError(self._failure, why, remedy) from error
        durable.folder_to_disk(saved.parent)
        told = f"{what}, without sound, is" if done["alone"] else f"{what} and its sound are"
        told += f" in {str(saved)!r}; {option('resume', True)} joins the frames anew, also with "
        told += f"another {option('audio')}"
        raise JoinFailedError(self._failure, why, f"{remedy}; {told}" if remedy else told)

    def _publish(self) -> None:
        if not self._overwrite and self._output.exists():
            raise StreamDiffVSRError(
                self._failure, "a file of that name has come into being meanwhile"
            )
        try:
            os.replace(self._part, self._output)
        except OSError as error:
            raise StreamDiffVSRError(self._failure, error.strerror or str(error)) from error
        durable.folder_to_disk(self._output.parent)


def _beside(output: Path) -> Iterator[Path]:
    """Names for what is not the output."""
    plain = output.with_suffix("")
    yield durable.beside(plain, after=".kept.mkv")
    for number in count(2):
        yield durable.beside(plain, after=f".kept-{number}.mkv")


def left_out_of_images(like: VideoInfo) -> tuple[str, ...]:
    """What of a source goes into no image, in one line or none."""
    kinds = sorted({str(other.kind) for other in like.others if other.kind != "video"})
    if like.chapters:
        kinds.append("chapters")
    return (f"{', '.join(kinds)} left out: images hold none",) if kinds else ()
