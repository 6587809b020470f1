"""Pictures beside each other, whole and magnified: what an upscaler did, at a glance.

A picture here is (H, W, 3) uint8 RGB. Knows no video and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

from ...errors import StreamDiffVSRError

Picture = npt.NDArray[np.uint8]

GAP = 8  # pixels around and between the columns
LINES = 16  # of text would fill a picture's height: legible when the sheet is shown small
MIN_LETTERS = 10  # pixels
PAPER, INK, FRAME = (24, 24, 24), (240, 240, 240), (255, 208, 0)


@dataclass(frozen=True, slots=True)
class Panel:
    """One column: a picture, its name above it and a caption below it."""

    name: str
    picture: Picture
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def bicubic(picture: Picture, scale: int) -> Picture:
    """(h, w, 3) -> (scale h, scale w, 3): what any other upscale is measured against (a = -0.5)."""
    height, width = picture.shape[:2]
    size = (scale * width, scale * height)
    return np.asarray(pillow.fromarray(picture).resize(size, pillow.Resampling.BICUBIC))


def psnr(picture: Picture, truth: Picture) -> float:
    """Peak signal to noise over all pixels and channels, in dB; infinite for equal pictures."""
    if picture.shape != truth.shape:
        raise ValueError(f"{picture.shape = }, {truth.shape = }")
    error = float(np.mean((picture.astype(np.float64) - truth) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def contact_sheet(panels: Sequence[Panel], box: Box) -> Picture:
    """A column for each panel: name, picture, caption, and the box of the picture magnified.

    Magnified means pixels repeated, as often as fits the column: what is seen is in the picture.

    Args:
        panels: With pictures of one size.
        box: Lies within the pictures; marked in them.
    """
    height, width = panels[0].picture.shape[:2]
    if any(panel.picture.shape != (height, width, 3) for panel in panels):
        raise ValueError(f"{[panel.picture.shape for panel in panels] = }: one size is needed")
    if not (0 <= box.top <= box.top + box.height <= height and box.height > 0):
        raise ValueError(f"{box = } is not within {height = }")
    if not (0 <= box.left <= box.left + box.width <= width and box.width > 0):
        raise ValueError(f"{box = } is not within {width = }")
    columns = [_column(panel, box) for panel in panels]
    gap = pillow.new("RGB", (GAP, columns[0].height), PAPER)
    strips = [np.asarray(part) for column in columns for part in (column, gap)]
    return np.hstack([np.asarray(gap), *strips])


def label(text: str, letters: int) -> Picture:
    """Words on a dark ground, to be laid into a corner of a picture.

    Args:
        letters: Their height in pixels.
    """
    font = ImageFont.load_default(letters)
    left, top, right, bottom = font.getbbox(text)
    space = letters // 2
    size = (int(right - left) + 2 * space, int(bottom - top) + 2 * space)
    ground = pillow.new("RGB", size, PAPER)
    ImageDraw.Draw(ground).text((space - left, space - top), text, INK, font)
    return np.asarray(ground)


def _column(panel: Panel, box: Box) -> pillow.Image:
    height, width = panel.picture.shape[:2]
    line = max(MIN_LETTERS, height // LINES)
    strip, times = 2 * line, width // box.width
    below = strip + height + strip
    column = pillow.new("RGB", (width, below + times * box.height + GAP), PAPER)
    draw = ImageDraw.Draw(column)
    font = ImageFont.load_default(line)
    draw.text((0, line // 3), panel.name, INK, font)
    draw.text((0, strip + height + line // 3), panel.caption, INK, font)
    picture = pillow.fromarray(panel.picture)
    column.paste(picture, (0, strip))
    right, bottom = box.left + box.width, box.top + box.height
    # Around the box, not on it: the line covers nothing that is compared.
    draw.rectangle(
        (box.left - 2, strip + box.top - 2, right + 1, strip + bottom + 1), None, FRAME, 2
    )
    part = picture.crop((box.left, box.top, right, bottom))
    large = part.resize((times * box.width, times * box.height), pillow.Resampling.NEAREST)
    column.paste(large, ((width - large.width) // 2, below))
    return column


def read_picture(path: Path) -> Picture:
    """The picture in a file.

    Raises:
        StreamDiffVSRError: It is missing or no picture.
    """
    try:
        with pillow.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        why = error.strerror or str(error)
        raise StreamDiffVSRError(f"could not read the picture {str(path)!r}", why) from error


def write_png(path: Path, picture: Picture) -> None:
    """Write the picture; an existing file is replaced.

    Raises:
        StreamDiffVSRError: The file cannot be written.
    """
    try:
        pillow.fromarray(picture).save(path, format="PNG")
    except OSError as error:
        why = error.strerror or str(error)
        raise StreamDiffVSRError(
            f"could not write {str(path)!r}", why, "choose a writable folder"
        ) from error
