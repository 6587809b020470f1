"""Joins finished segments and the source's other streams to the output file or image folder.

A rehearsal finds what the join will leave out or refuse, before any frame is upscaled.
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
from .info import Segment, VideoInfo


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of a join, or of its rehearsal.

    Attributes:
        bytes: Size of the output; 0 of a rehearsal.
        copied: Number of copied streams by kind: "audio", "subtitle", "data", "attachment",
            "cover", "chapter".
        notes: Lines on what was left out and why.
    """

    bytes: int
    copied: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def rehearse(
    source: str | PathLike[str],
    output: Path,
    form: VideoFormat,
    audio: str = "copy",
    *,
    deadline_s: float = DEADLINE_S,
) -> Joined:
    """Tries what an output takes over from its source.

    Args:
        source: The input file.
        output: The output, for its suffix in notes; it is not opened.
        form: The format of the output.
        audio: How to treat sound: "copy", "transcode" or "none".
        deadline_s: The longest it may take, in seconds.

    Raises:
        StreamDiffVSRError: The container cannot hold the sound, or the source cannot be read.
    """
    child = Child(
        "runtime.media.join_child",
        {
            "rehearsal": True,
            "source": str(Path(source).absolute()),
            "container": form.container,
            "codec": form.codec,
            "suffix": output.suffix,
            "audio": audio,
        },
        failure=f"could not read {str(source)!r}",
        deadline_s=deadline_s,
    )
    with contextlib.closing(child):
        done, _ = child.receive()
        return Joined(0, done["copied"], tuple(done["notes"]))


def publish_images(
    segments: Sequence[tuple[Path, Segment]], output: Path, *, overwrite: bool
) -> int:
    """Moves the images of (folder, segment) pairs to the folder ``output``; returns their bytes.

    An existing folder is replaced only if it contains nothing but such images.

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
    """Leaves exactly these files in the folder; an interrupted join may have moved some."""
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
    if output.exists():  # on Windows, even an empty folder is in the way
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

_STEP_S = 600.0  # writing an index, or gigabytes to a slow disk, takes minutes
_MEMORY_BYTES = 8 << 30


class JoinFailedError(StreamDiffVSRError):
    """All frames are complete, but sound or other streams could not be joined to them."""


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
    """Joins segments, in order, to the output. Images are moved, not copied.

    Args:
        segments: (the folder that was written into, segment) pairs; at least one.
        output: A file, or for images a folder.
        like: The source of copied streams; None if there is none.
        format: The format of the segments.
        audio: How to treat sound: "copy", "transcode" or "none".
        copy_rest: Whether to copy subtitles, covers, attachments, data and chapters, not only tags.
        shift: Seconds subtracted from all times, of the picture and of copied streams.
        span: (start, end) in seconds of the source, to which copied streams are cut.
        overwrite: Whether to replace an existing output.
        progress: Called with (frames done, frames in all); what it raises ends the join.

    Raises:
        JoinFailedError: Sound or other streams could not be joined to the picture, which was saved
            next to the output. Segments are kept.
        StreamDiffVSRError: A segment is missing or damaged, the disk is full, or the output
            appeared in the meantime. Segments are kept.
    """
    if not segments:
        raise ValueError("no segment to join")
    output = Path(output).absolute()
    if isinstance(format, ImageFormat):
        size = publish_images(segments, output, overwrite=overwrite)
        return Joined(bytes=size, notes=left_out_of_images(like) if like else ())
    arguments = {
        "container": format.container,
        "tag": format.tag,
        "codec": format.codec,
        "audio": audio,
        "copy_rest": copy_rest,
        "shift": pack(shift),
        "start": pack(span[0]),
        "end": pack(span[1]),
        "suffix": output.suffix,
        "rate": pack(like.average_rate if like else None),
        "source": str(like.path.absolute()) if like and like.holds_more else None,
    }
    return _join_video(segments, output, arguments, progress, overwrite=overwrite)


def _join_video(
    segments: Sequence[tuple[Path, Segment]],
    output: Path,
    arguments: Header,
    progress: Progress | None,
    *,
    overwrite: bool,
) -> Joined:
    failure = f"could not write {str(output)!r}"
    # In the folder of unfinished work, which is cleaned up after a crash.
    part = segments[0][0].absolute() / f".joined{output.suffix}"
    arguments = {**arguments, "part": str(part)}
    child = Child(
        "runtime.media.join_child", arguments, failure=failure, memory_bytes=_MEMORY_BYTES
    )
    try:
        listed = [(str(folder.absolute()), segment.to_json()) for folder, segment in segments]
        child.send({"kind": "segments"}, json.dumps(listed).encode())
        done = _follow(child, sum(segment.frames for _, segment in segments), progress)
        if "failed" in done:
            _save(part, output, failure, done)
        if not overwrite and output.exists():
            raise StreamDiffVSRError(failure, "a file of that name has come into being meanwhile")
        try:
            os.replace(part, output)
        except OSError as error:
            raise StreamDiffVSRError(failure, error.strerror or str(error)) from error
        durable.folder_to_disk(output.parent)
    except BaseException:
        child.close()
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    child.close()
    return Joined(done["bytes"], done["copied"], tuple(done["notes"]))


def _follow(child: Child, total: int, progress: Progress | None) -> Header:
    while True:
        answer, _ = child.receive(_STEP_S)
        if answer["kind"] == "done":
            return answer
        if progress and answer["kind"] == "beat":
            progress(answer["frames"], total)


def _save(part: Path, output: Path, failure: str, done: Header) -> NoReturn:
    """Saves a picture that could not become the output, and raises the error."""
    saved = next(path for path in _names_of_saved(output) if not path.exists())
    (why, remedy), what = done["failed"], "the finished picture"
    try:
        os.replace(part, saved)
    except OSError as error:
        why = f"{why}; {what} cannot be saved as {str(saved)!r} either"
        why += f": {error.strerror or error}"
        raise StreamDiffVSRError(failure, why, remedy) from error
    durable.folder_to_disk(saved.parent)
    kept = f"{what}, without sound, is" if done["alone"] else f"{what} and its sound are"
    kept += f" in {str(saved)!r}; {option('resume', True)} joins the frames again"
    kept += f", also with another {option('audio')}"
    raise JoinFailedError(failure, why, f"{remedy}; {kept}" if remedy else kept)


def _names_of_saved(output: Path) -> Iterator[Path]:
    """Yields names for a picture that could not become the output."""
    plain = output.with_suffix("")
    yield durable.beside(plain, after=".kept.mkv")
    for number in count(2):
        yield durable.beside(plain, after=f".kept-{number}.mkv")


def left_out_of_images(like: VideoInfo) -> tuple[str, ...]:
    """Returns a line on what images cannot hold of a source, or none."""
    kinds = sorted({str(other.kind) for other in like.others if other.kind != "video"})
    if like.chapters:
        kinds.append("chapters")
    return (f"{', '.join(kinds)} left out: images hold none",) if kinds else ()
