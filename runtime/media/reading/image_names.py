"""Which files of a folder are its images, and in what order they follow one another.

By names only: it opens nothing, and does not know what an image is made of.
"""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
DEFAULT_FPS = 24  # of images that nobody named a rate for
_NUMBER = re.compile(r"(\d+)")


def images_in(folder: Path) -> list[Path]:
    """Its images in the natural order of their names: ``2.png`` comes before ``10.png``.

    Hidden files are left out, and folders inside it are not looked into.

    Raises:
        OSError: The folder cannot be read.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(found, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """What names are sorted by: numbers in them by value, case only where all else is equal."""
    parts = _NUMBER.split(name.lower())  # text, number, text, ...
    key = [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
    return key, name
