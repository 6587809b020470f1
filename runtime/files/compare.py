"""Quality metrics, and the comparison video and contact sheet of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

from ...durable import beside
from ...errors import StreamDiffVSRError, option
from ...graphs.arrays import Image
from ...graphs.spec import SCALE
from ..media.encoders import h264_format
from ..media.formats import check_size
from ..media.preflight import check_output
from ..media.reader import FileSource, SourceFrame
from .job import Job, Progress
from .job_report import clock
from .upscale import write_video

GAP = 8  # pixels around and between the columns
LINES = 16  # this many lines of text fill a picture's height: legible on a sheet shown small
MIN_LETTERS = 10  # the least height of letters in pixels
PAPER, INK, FRAME = (24, 24, 24), (240, 240, 240), (255, 208, 0)


@dataclass(frozen=True, slots=True)
class Panel:
    """One column: a picture, its name above it and a caption below it."""

    name: str
    picture: Image
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def bicubic(picture: Image, scale: int) -> Image:
    """Returns a bicubic upscale (a = -0.5), the baseline: (h, w, 3) -> (scale h, scale w, 3)."""
    height, width = picture.shape[:2]
    size = (scale * width, scale * height)
    return np.asarray(pillow.fromarray(picture).resize(size, pillow.Resampling.BICUBIC))


def psnr(picture: Image, truth: Image) -> float:
    """Returns the PSNR over all pixels and channels in dB; infinite for equal pictures."""
    if picture.shape != truth.shape:
        raise ValueError(f"{picture.shape = }, {truth.shape = }")
    error = float(np.mean((picture.astype(np.float64) - truth) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def contact_sheet(panels: Sequence[Panel], box: Box) -> Image:
    """Returns a column for each panel: name, picture, caption, and the magnified box.

    Pixels are magnified by repeating them, as often as the column's width allows.

    Args:
        panels: At least one; all pictures have one size.
        box: The part to magnify, within the pictures and marked in them.
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


def label(text: str, letters: int) -> Image:
    """Returns an image of a text on a dark ground, for a corner of a picture.

    Args:
        letters: The height of the letters in pixels.
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
    # Drawn around the box, so the line covers nothing that is compared.
    draw.rectangle(
        (box.left - 2, strip + box.top - 2, right + 1, strip + bottom + 1), None, FRAME, 2
    )
    part = picture.crop((box.left, box.top, right, bottom))
    large = part.resize((times * box.width, times * box.height), pillow.Resampling.NEAREST)
    column.paste(large, ((width - large.width) // 2, below))
    return column


def read_picture(path: Path) -> Image:
    """Returns the picture in a file as (h, w, 3) uint8 RGB.

    Raises:
        StreamDiffVSRError: The file is missing or is not a picture.
    """
    try:
        with pillow.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        why = error.strerror or str(error)
        raise StreamDiffVSRError(f"could not read the picture {str(path)!r}", why) from error


def write_png(path: Path, picture: Image) -> None:
    """Writes a picture as PNG; an existing file is replaced.

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


Mode: TypeAlias = Literal["side", "split"]

BEFORE, AFTER = "Bicubic", "Stream-DiffVSR"
LINE = (255, 208, 0)  # the colour of the line between the halves of a split picture
STILLS = 4  # the number of rows on the sheet
STILL = (720, 1280)  # of larger pictures, the sheet shows the part around the detail
DETAIL = 6  # the magnified part is a sixth as wide as what is shown


@dataclass(frozen=True, slots=True)
class Compared:
    """The files that `compare` wrote, and how many frames the video has."""

    video: Path
    sheet: Path
    frames: int


def sheet_of(video: Path) -> Path:
    """Returns the path of the sheet of stills for a comparison video."""
    return beside(video.with_suffix(""), after=".png")


def check_comparison(job: Job, video: Path, *, mode: Mode) -> None:
    """Checks, before hours of upscaling, that a comparison can be written.

    Raises:
        StreamDiffVSRError: The comparison cannot be written, or would be too wide.
    """
    overwrite = job.options.overwrite
    failure = f"could not write {str(video)!r}"
    check_output(video, source=job.input, overwrite=overwrite)
    h264_format(video)  # the only codec of a comparison
    if video.absolute() == job.output.absolute():
        raise StreamDiffVSRError(
            failure, "it is the output itself", f"choose another {option('compare')}"
        )
    sheet = sheet_of(video)
    if sheet.exists() and not overwrite:
        raise StreamDiffVSRError(
            f"could not write {str(sheet)!r}",
            f"the stills of {option('compare')} go there, and it already exists",
            f"choose another name, or {option('overwrite', True)}",
        )
    height, width = job.output_size
    check_size((height, 2 * width) if mode == "side" else (height, width), "h264", failure)


def compare(
    job: Job,
    video: Path,
    *,
    mode: Mode = "side",
    frames: int | None = None,
    progress: Progress | None = None,
) -> Compared:
    """Writes the comparison of a finished job's output with its input.

    Args:
        frames: The number of frames of the output, to spread the stills evenly over it.
        progress: Called with the number of frames done and of all frames.

    Raises:
        StreamDiffVSRError: Input or output cannot be read, or the comparison cannot be written.
    """
    wanted = _spread(frames)
    rows: list[Image] = []
    with ExitStack() as stack:
        before, after = (stack.enter_context(source) for source in (_input(job), _output(job)))
        timed = before if after.info.images else after
        height, width = after.info.size
        writer = stack.enter_context(
            write_video(
                video,
                size=(height, 2 * width if mode == "side" else width),
                format=h264_format(video),
                like=after.info,
                time_base=timed.info.time_base,
                overwrite=job.options.overwrite,
            )
        )
        draw = _Drawing(mode, after.info.size)
        for index, (small, large) in enumerate(_in_step(job, before, after)):
            enlarged = bicubic(small.image, SCALE)
            shown = small if timed is before else large
            picture = draw(enlarged, large.image)
            writer.write(picture, shown.pts, shown.time_base, shown.duration)
            if index in wanted:
                caption = f"frame {index}, {_time(small.seconds - float(job.first_seconds))}"
                rows.append(_row(enlarged, large.image, caption))
            if progress:
                progress(writer.frames, frames)
    write_png(sheet_of(video), np.vstack(rows))
    return Compared(video, sheet_of(video), writer.frames)


def _input(job: Job) -> FileSource:
    start, options = job.start_seconds, job.options
    begin = None if start is None else float(start)
    return FileSource(job.input, begin=begin, deinterlace=options.deinterlace, fps=options.fps)


def _output(job: Job) -> FileSource:
    return FileSource(job.output, fps=job.options.fps if job.output.is_dir() else None)


def _in_step(
    job: Job, before: FileSource, after: FileSource
) -> Iterator[tuple[SourceFrame, SourceFrame]]:
    """Yields each frame of the input with the output frame that was made of it."""
    start = job.start_seconds
    wanted = (one for one in before if start is None or one.pts * one.time_base >= start)
    return zip(wanted, after, strict=False)  # the input continues after --end


def _time(seconds: float) -> str:
    """Returns a time as h:mm:ss.ss, so that neighbouring frames have different ones."""
    whole, hundredths = divmod(round(100 * seconds), 100)
    return f"{clock(whole)}.{hundredths:02}"


def _spread(frames: int | None) -> set[int]:
    """Returns the indices of the stills: the middle frames of equal parts."""
    if not frames:
        return {0}
    return {(2 * part + 1) * frames // (2 * STILLS) for part in range(STILLS)}


class _Drawing:
    """Joins two pictures of one size, (H, W, 3) uint8 RGB, into one."""

    def __init__(self, mode: Mode, size: tuple[int, int]) -> None:
        self._side = mode == "side"
        height, width = size
        letters = max(10, height // 24)
        names = [label(name, letters)[:height, : width // 2] for name in (BEFORE, AFTER)]
        self._names: tuple[Image, ...] = tuple(names)
        self._line = max(1, width // 640)

    def __call__(self, before: Image, after: Image) -> Image:
        width = after.shape[1]
        left, right = self._names
        if self._side:
            picture = np.hstack([before, after])
            second = width
        else:
            picture = after.copy()
            middle = width // 2
            picture[:, :middle] = before[:, :middle]
            picture[:, middle - self._line : middle + self._line] = LINE
            second = width - right.shape[1]
        picture[: left.shape[0], : left.shape[1]] = left
        picture[: right.shape[0], second : second + right.shape[1]] = right
        return picture


def _row(before: Image, after: Image, caption: str) -> Image:
    """Returns both pictures side by side, each above the same magnified detail."""
    box = _detail(before)
    top, left, (height, width) = _window(after.shape[:2], box)
    parts = [one[top : top + height, left : left + width] for one in (before, after)]
    panels = [Panel(BEFORE, parts[0], caption), Panel(AFTER, parts[1])]
    return contact_sheet(panels, Box(box.top - top, box.left - left, box.height, box.width))


def _detail(picture: Image) -> Box:
    """Returns the part with the most detail: where neighbouring pixels differ most."""
    height, width = picture.shape[:2]
    high, wide = max(1, min(height, STILL[0]) // DETAIL), max(1, min(width, STILL[1]) // DETAIL)
    grey = picture.mean(axis=-1, dtype=np.float32)
    edges = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    rows, columns = max(1, edges.shape[0] // high), max(1, edges.shape[1] // wide)
    blocks = edges[: rows * high, : columns * wide].reshape(rows, -1, columns, wide)
    busiest = int(blocks.sum(axis=(1, 3)).argmax())
    return Box(busiest // columns * high, busiest % columns * wide, high, wide)


def _window(size: tuple[int, int], box: Box) -> tuple[int, int, tuple[int, int]]:
    """Returns top, left and size of the part to show: the whole picture, or around the box."""
    shown = min(size[0], STILL[0]), min(size[1], STILL[1])
    top = min(max(0, box.top + box.height // 2 - shown[0] // 2), size[0] - shown[0])
    left = min(max(0, box.left + box.width // 2 - shown[1] // 2), size[1] - shown[1])
    return top, left, shown
