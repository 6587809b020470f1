"""How many bytes an output will take, and whether the disk has them, before a frame is made.

How well a picture compresses is only known when it is done: what is reckoned with is a detailed
film. A job is refused only where even a small part of that is not there, for the frames that were
found in the file and not for those that it claims; and told where it is tight.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....errors import StreamDiffVSRError
from ...footprint import MIB
from ...media.formats.kinds import ImageFormat, VideoFormat
from ...memory import size as in_words
from ..journal import folder_of

# Bits for a pixel of a detailed film at quality `AT`; six steps of crf halve them.
LOSSY_BITS = {"h264": 0.22, "h265": 0.15, "av1": 0.12}
REFERENCE_CRF = {"h264": 17, "h265": 18, "av1": 24}
DEFAULT_BITS = 0.25
PRORES_BITS = 3.6  # of the HQ profile, which changes little with the picture
COMPRESSED = 0.5  # of lossless frames
IMAGE_BITS = {".jpg": 2.5, ".webp": 2.0, ".png": 12.0, ".tif": 24.0}
DEEP_IMAGE_BITS = {".png": 36.0, ".tif": 48.0}
SOUND_BITS = 256_000  # a second, of each stream
# The least share of an estimate that may turn out: titles on black are far smaller than a film.
LEAST_LOSSY, LEAST_LOSSLESS = 0.1, 0.3
COPIES = 2  # the segments, and the file that they are joined to before they go


@dataclass(frozen=True, slots=True)
class Disk:
    """What a job writes and what its disk has, in bytes.

    Attributes:
        needed: At most at one time, beyond what an interrupted run has left; None where the number
            of frames is not known.
        least: A lower bound of it.
        output: Of that, the finished output.
        free: For this user, on the disk of the output; None if it cannot be told.
    """

    needed: int | None
    least: int
    output: int | None
    free: int | None

    @property
    def tight(self) -> bool:
        """Whether it may not be enough."""
        return self.needed is not None and self.free is not None and self.needed > self.free

    def describe(self) -> str:
        """One line for the user."""
        have = "" if self.free is None else f" of {shown(self.free)} free"
        if self.needed is None or self.output is None:
            return f"disk: the length is not known{have.replace(' of ', '; ')}"
        doubt = "; that may not be enough" if self.tight else ""
        end = shown(self.output)
        return f"disk: {_about(self.needed)}{have} while it runs, {end} at the end{doubt}"

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def look_at_disk(
    output: Path,
    form: VideoFormat | ImageFormat,
    *,
    size: tuple[int, int],
    frames: int | None,
    least_frames: int | None = None,
    sound_seconds: float = 0.0,
) -> Disk:
    """What writing an output takes, beside what is free where it goes.

    Args:
        size: (H, W).
        frames: How many; None if it is not known.
        least_frames: How many there surely are; None: all of them.
        sound_seconds: Of all streams of sound together.
    """
    free = _free(output)
    if frames is None:
        return Disk(None, 0, None, free)
    picture = frames * size[0] * size[1] * bits_per_pixel(form) / 8
    sound = sound_seconds * SOUND_BITS / 8
    video = isinstance(form, VideoFormat)
    lossy = form.codec in LOSSY_BITS if isinstance(form, VideoFormat) else form.suffix != ".tif"
    needed = (COPIES if video else 1) * picture + sound
    there = bytes_of(folder_of(output))
    sure = 1 if least_frames is None else min(1, least_frames / max(1, frames))
    least = (LEAST_LOSSY if lossy else LEAST_LOSSLESS) * sure * needed
    return Disk(max(0, int(needed) - there), max(0, int(least) - there), int(picture + sound), free)


def check_disk(disk: Disk, output: Path) -> None:
    """Refuse a job that cannot fit.

    Raises:
        StreamDiffVSRError: What it takes at least and what is free.
    """
    if disk.free is None or disk.least <= disk.free:
        return
    raise StreamDiffVSRError(
        f"could not write {str(output)!r}",
        f"it takes at least {shown(disk.least)}, probably {shown(disk.needed or 0)}, and "
        f"{shown(disk.free)} are free there",
        "free some space, use another disk or a higher --crf, or begin anyway: --no-disk-check",
    )


def bits_per_pixel(form: VideoFormat | ImageFormat) -> float:
    """Of a detailed film, bits for each HR pixel."""
    if isinstance(form, ImageFormat):
        deep = DEEP_IMAGE_BITS.get(form.suffix) if form.deep else None
        return deep or IMAGE_BITS.get(form.suffix, max(IMAGE_BITS.values()))
    if form.codec == "prores":
        return PRORES_BITS
    if form.codec in LOSSY_BITS:
        quality = form.options.get("crf") or form.options.get("cq") or form.options.get("qp")
        crf = (
            int(quality) if quality and quality.lstrip("-").isdigit() else REFERENCE_CRF[form.codec]
        )
        return float(LOSSY_BITS[form.codec] * 2 ** ((REFERENCE_CRF[form.codec] - crf) / 6))
    samples = 1.5 if "420" in form.pixel_format else 2 if "422" in form.pixel_format else 3
    return COMPRESSED * samples * (12 if form.deep else 8)


def bytes_of(folder: Path) -> int:
    """Of all files in and below a folder; 0 if there is none."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def _about(count: int) -> str:
    return f"about {shown(count)}" if count >= MIB else shown(count)


def shown(count: int) -> str:
    """Bytes as a user reads them."""
    return in_words(count) if count >= MIB else f"{-(-count // 1024)} KiB"


def _free(output: Path) -> int | None:
    """On the disk of the nearest folder that is there."""
    for folder in output.absolute().parents:
        if folder.is_dir():
            try:
                return shutil.disk_usage(folder).free
            except OSError:
                return None
    return None
