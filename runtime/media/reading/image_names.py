"""Which files are the images of a folder or a pattern, and in what order they follow one another.

By names only: it opens nothing, and does not know what an image is made of.
"""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jls", ".webp", ".avif", ".tif", ".tiff"),
    *(".bmp", ".dib", ".tga", ".icb", ".vda", ".vst", ".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".dpx", ".qoi", ".pcx", ".sgi", ".psd"),
    *(".dds", ".ras"),
)
DEFAULT_FPS = 24  # of images that nobody named a rate for
_NUMBER = re.compile(r"(\d+)")
_PLACE = re.compile(r"%(?:0(\d{1,2}))?d")


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


def is_numbered(path: Path) -> bool:
    """Whether it names a series of images by a pattern such as ``frame_%05d.png``.

    It does not where there is a file or a folder of just that name.
    """
    one_place = len(_PLACE.findall(path.name.replace("%%", ""))) == 1
    return one_place and path.suffix.lower() in SUFFIXES and not path.exists()


def numbered_images(pattern: Path) -> list[Path]:
    """The files that C's ``printf`` would name like that, by their numbers; some may be missing.

    Raises:
        OSError: The folder cannot be read.
    """
    before, digits, behind = _PLACE.split(pattern.name.replace("%%", "\0"))
    width = int(digits or 1)
    number = rf"(\d{{{width}}}|[1-9]\d{{{width},}})" if width > 1 else r"(0|[1-9]\d*)"
    name = re.compile("".join((_escaped(before), number, _escaped(behind))))
    found = ((name.fullmatch(path.name), path) for path in pattern.parent.iterdir())
    images = [(int(match[1]), path) for match, path in found if match and path.is_file()]
    return [path for _, path in sorted(images)]


def _escaped(text: str) -> str:
    return re.escape(text.replace("\0", "%"))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """What names are sorted by: numbers in them by value, case only where all else is equal."""
    parts = _NUMBER.split(name.lower())  # text, number, text, ...
    key = [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
    return key, name
