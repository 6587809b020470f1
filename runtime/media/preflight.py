"""Checks the names of inputs and outputs before any work; opens and creates nothing."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path

from ...durable import is_too_long
from ...errors import Bare, StreamDiffVSRError, command, option
from .encoders import CONTAINERS, IMAGE_NAME, is_image_folder
from .redact import redact_address

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def check_input_name(text: str) -> None:
    """Checks an input name as the user wrote it, since a path would change an address.

    Raises:
        StreamDiffVSRError: It is an address, too long, or stands for standard input.
    """
    failure = f"could not read {redact_address(text)!r}"
    if text == "-":
        raise StreamDiffVSRError(
            failure,
            "it stands for standard input, and sound has to be read beside the picture",
            "save it to a file first, and name that",
        )
    if is_too_long(Path(text)):
        raise StreamDiffVSRError(failure, "its name is too long for any file to have it")
    if _ADDRESS.match(text) and not Path(text).exists():
        raise StreamDiffVSRError(
            failure,
            "it is an address, and upscale reads files",
            "name the file's path"
            if text.lower().startswith("file:")
            else "download it first, or upscale it as it comes: streamdiffvsr live ADDRESS",
        )


def check_output_name(text: str) -> None:
    """Checks an output name as the user wrote it.

    Raises:
        StreamDiffVSRError: It is an address, too long, or stands for standard output.
    """
    failure = f"could not write {redact_address(text)!r}"
    if is_too_long(Path(text)):
        raise StreamDiffVSRError(
            failure, "its name is too long for the disk", "choose a shorter one"
        )
    if text == "-":
        raise StreamDiffVSRError(
            failure,
            "it stands for standard output, and an output is put together on a disk",
            "name a file, such as out.mkv",
        )
    if _ADDRESS.match(text):
        raise StreamDiffVSRError(
            failure,
            "it is an address, and upscale writes files",
            f"name a file; {command('live SOURCE', to=Bare('ADDRESS'))} sends a stream",
        )


def check_output(
    output: str | PathLike[str],
    *,
    source: str | PathLike[str] | None = None,
    overwrite: bool,
    images: str | None = None,
) -> None:
    """Checks, before any work, that the output can be written.

    Args:
        output: The file, or the folder for images.
        source: The input, if any.
        overwrite: Whether an existing output may be replaced.
        images: As in `choose_format`.

    Raises:
        StreamDiffVSRError: Its folder is missing or not writable, its suffix is unknown, it exists
            and ``overwrite`` is off, it is no plain file, or it is the source itself; a folder for
            images has other files in it.
    """
    path = Path(output)
    failure = f"could not write {str(output)!r}"
    check_output_name(str(output))
    if not is_image_folder(path, images) and path.suffix.lower() not in CONTAINERS:
        why = f"no video file is written with the ending {path.suffix!r}"
        raise StreamDiffVSRError(failure, why, f"use one of {', '.join(CONTAINERS)}")
    check_folder(path.absolute().parent, failure)
    if not path.exists():
        return
    if is_image_folder(path, images):
        _check_images(path, failure, source, overwrite=overwrite)
        return
    if not path.is_file():
        raise StreamDiffVSRError(failure, "it exists and is not a plain file")
    if source is not None and Path(source).exists() and path.samefile(source):
        raise StreamDiffVSRError(failure, "it is the input file itself", "choose another name")
    if not overwrite:
        raise already_there(failure)


def check_folder(folder: Path, failure: str) -> None:
    """Raises `StreamDiffVSRError`, which begins with `failure`, unless a folder can be written."""
    if not folder.exists():
        raise StreamDiffVSRError(failure, f"there is no folder {str(folder)!r}", "create it first")
    if not folder.is_dir():
        raise StreamDiffVSRError(failure, f"{str(folder)!r} is not a folder")
    if not os.access(folder, os.W_OK):
        raise StreamDiffVSRError(failure, f"no permission to write in {str(folder)!r}")


def already_there(failure: str) -> StreamDiffVSRError:
    """Returns the error for an output that exists and may not be replaced."""
    remedy = f"choose another name, or {option('overwrite', True)}"
    return StreamDiffVSRError(failure, "it already exists", remedy)


def _check_images(
    path: Path, failure: str, source: str | PathLike[str] | None, *, overwrite: bool
) -> None:
    """Checks that an existing folder holds only numbered images, and may be replaced."""
    if source is not None and Path(source).exists() and path.samefile(source):
        raise StreamDiffVSRError(failure, "it is the input itself", "choose another name")
    names = [entry.name for entry in path.iterdir()]
    others = [name for name in names if not IMAGE_NAME.fullmatch(name)]
    if others:
        why = f"the folder holds {others[0]!r}, which is none of its frames"
        raise StreamDiffVSRError(failure, why, "choose a new folder")
    if names and not overwrite:
        raise already_there(failure)
