"""A folder of finished images given its name: it appears whole or not at all.

It moves and removes files of the names it knows, and none other. It opens no image.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from ....errors import StreamDiffVSRError
from ... import disk
from ..segments.segment import Segment

IMAGE_NAME = re.compile(r"\d{8}\.(png|jpg|webp|tif)")


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
    disk.folder_to_disk(folder)


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
        old = disk.beside(output, ".", f".{secrets.token_hex(4)}.old")
        os.rename(output, old)
    try:
        os.rename(made, output)
    except BaseException:
        if old:
            os.rename(old, output)
        raise
    disk.folder_to_disk(output.parent)
    if old:
        for entry in old.iterdir():
            entry.unlink()
        with contextlib.suppress(OSError):
            old.rmdir()
