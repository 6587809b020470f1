"""What INPUT... and OUTPUT name: one job, or a batch of them.

Looks at names and folders only. What is in a file, and whether it can be read, is for whoever opens
it: a file that is missing or no video is a job here, and fails as one.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import StreamDiffVSRError, UsageError
from ..media import readable
from ..media.encoders import CONTAINERS
from ..media.preflight import check_input_name, check_output_name
from ..media.readable import VIDEO_ENDINGS
from .journal import SUFFIX

IMAGES = frozenset(readable.SUFFIXES)
KEPT_SUFFIXES = frozenset(CONTAINERS)  # endings that outputs have too
FALLBACK_SUFFIX = ".mkv"  # holds nearly everything


@dataclass(frozen=True, slots=True)
class InOut:
    """An input and the output that is made of it: the names of one job."""

    input: Path
    output: Path


@dataclass(frozen=True, slots=True)
class JobList:
    """The jobs of a command line.

    Attributes:
        folder: Where the outputs of a batch go; None for a single pair.
    """

    pairs: tuple[InOut, ...]
    folder: Path | None = None


def name_pairs(inputs: Sequence[str], output: str, *, images: bool = False) -> JobList:
    """The jobs that a command line names.

    One file, one folder of images, or one pattern of their numbers (``frame_%05d.png``) is a job
    whose output is OUTPUT. Several, a folder of videos,
    and a pattern are a batch: OUTPUT is then a folder, in which each gets the name of its input,
    with its ending if videos are written with it, and .mkv if not. An image folder becomes one
    there too.

    Args:
        inputs: Files, folders, or patterns (``*``, ``?``, ``[...]``, ``**``), which the shell may
            have left to us.
        output: As written, a separator at the end included.
        images: The outputs are folders of images, whatever the inputs are.

    Raises:
        StreamDiffVSRError: One names no file, a pattern matches nothing, a folder holds no video
            and no image or both, or OUTPUT lies among the inputs.
        UsageError: A batch's OUTPUT is a file, or two inputs would have one output.
    """
    for text in inputs:
        check_input_name(text)
    check_output_name(output)
    found, batch = _found(inputs)
    if not batch:
        return JobList((InOut(found[0], Path(output)),))
    folder = _folder(output, len(found))
    _refuse_single_images(found)
    pairs = tuple(InOut(path, folder / _name(path, images=images)) for path in found)
    _refuse_clashes(pairs)
    return JobList(pairs, folder)


def natural(name: str) -> list[tuple[int, int, str]]:
    """The key of an order in which "shot 2" comes before "shot 10", whatever the case."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _found(inputs: Sequence[str]) -> tuple[list[Path], bool]:
    """What is there, each once, and whether it is a batch."""
    found: dict[str, Path] = {}
    batch = len(inputs) > 1
    for text in inputs:
        paths, many = _named_by(text)
        batch = batch or many
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), batch


def _named_by(text: str) -> tuple[list[Path], bool]:
    path = Path(text)
    if path.is_dir():
        return _in_folder(path)
    if path.exists() or not glob.has_magic(text) or readable.is_numbered(path):
        return [path], False
    matches = [Path(match) for match in glob.glob(text, recursive=True)]
    media = [one for one in matches if _is_media(one)]
    if (
        not media and path.suffix and not glob.has_magic(path.suffix)
    ):  # an ending that others have as often
        media = [one for one in matches if one.suffix == path.suffix and one.is_file()]
    media.sort(key=lambda one: natural(str(one)))
    if not media:
        raise StreamDiffVSRError(
            f"could not read {text!r}", "no video and no folder of images matches that pattern"
        )
    return media, True


def _is_media(path: Path) -> bool:
    if path.is_dir():
        try:
            return not path.name.endswith(SUFFIX) and _in_folder(path) == ([path], False)
        except StreamDiffVSRError:
            return False
    return path.suffix.lower() in VIDEO_ENDINGS | IMAGES


def _in_folder(folder: Path) -> tuple[list[Path], bool]:
    """The folder itself, if it is a sequence of images, or its videos; not those below it."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise StreamDiffVSRError(
            f"could not read {str(folder)!r}", error.strerror or str(error)
        ) from error
    videos = _with_ending(entries, VIDEO_ENDINGS)
    pictures = _with_ending(entries, IMAGES)
    if videos and pictures:
        raise StreamDiffVSRError(
            f"could not read {str(folder)!r}",
            f"it is a folder with both videos and images ({videos[0].name}, {pictures[0].name})",
            f"name those you mean by a pattern, such as '{folder / ('*' + videos[0].suffix)}'",
        )
    if not videos and not pictures:
        raise StreamDiffVSRError(
            f"could not read {str(folder)!r}",
            "it is a folder, with neither videos nor images in it",
            "name a video, a folder of videos, or a folder with the images of one",
        )
    return (videos, True) if videos else ([folder], False)


def _with_ending(entries: Iterable[Path], endings: Iterable[str]) -> list[Path]:
    chosen = (entry for entry in entries if entry.suffix.lower() in endings and entry.is_file())
    return sorted(chosen, key=lambda one: natural(one.name))


def _folder(output: str, count: int) -> Path:
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        why = f"{count} inputs need a folder, and it is a file"
    elif (
        not folder.exists()
        and folder.suffix.lower() in VIDEO_ENDINGS | IMAGES
        and output[-1] not in "/\\"
    ):
        why = f"{count} inputs need a folder, and that is the name of a file"
    else:
        return folder
    raise UsageError(f"could not write {output!r}", why, "name a folder; it is made if missing")


def _name(path: Path, *, images: bool) -> str:
    if readable.is_numbered(path):
        return path.resolve().parent.name
    if images or path.is_dir():
        return path.resolve().name if path.is_dir() else path.stem
    return path.stem + (path.suffix if path.suffix.lower() in KEPT_SUFFIXES else FALLBACK_SUFFIX)


def _refuse_single_images(paths: Sequence[Path]) -> None:
    for path in paths:
        series = path.is_dir() or readable.is_numbered(path)
        if path.suffix.lower() in IMAGES and not series:
            raise UsageError(
                f"{str(path)!r} is one image among several inputs",
                "the images of a sequence are upscaled together, each with the help of the last",
                f"name their folder, {str(path.parent)!r}",
            )


def _refuse_clashes(pairs: Sequence[InOut]) -> None:
    taken: dict[str, Path] = {}
    for pair in pairs:
        # Not by case: there are disks to which A.mkv and a.mkv are one.
        other = taken.setdefault(str(pair.output).casefold(), pair.input)
        if other != pair.input:
            raise UsageError(
                f"{str(other)!r} and {str(pair.input)!r} would both become {str(pair.output)!r}",
                remedy="rename one, or give them folders of their own",
            )
        if os.path.realpath(pair.output) == os.path.realpath(pair.input):
            raise StreamDiffVSRError(
                f"could not write {str(pair.output)!r}",
                "it is the input file itself",
                "choose another folder",
            )
