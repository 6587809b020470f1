"""Estimates of disk space, process memory and duration of a job."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from statistics import median

import numpy as np

from ...errors import StreamDiffVSRError, option
from ...graphs.spec import MIB, Size, format_bytes
from ..frame_stream import MarkedImage
from ..media.encoders import CODECS, ENCODERS, ImageFormat, VideoFormat, encoder_of
from .job import FrameUpscaler
from .journal import folder_of

HALF_CRF = 6  # CRF steps that halve what a lossy encoder writes
COMPRESSED = 0.5  # the share that a lossless codec leaves
IMAGE_BITS = {".jpg": 2.5, ".webp": 2.0, ".png": 12.0, ".tif": 24.0}
DEEP_IMAGE_BITS = {".png": 36.0, ".tif": 48.0}
SOUND_BITS = 256_000  # per second and stream
# The least share of an estimate that may be needed: titles on black are far smaller than a film.
LEAST_LOSSY, LEAST_LOSSLESS = 0.1, 0.3
COPIES = 2  # the segments, and the file that they are joined to before they are deleted


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk space that a job needs and that is free, in bytes.

    Attributes:
        needed: The most at one time, beyond what an interrupted run has left; None if the number
            of frames is unknown.
        least: A lower bound of `needed`.
        output: The size of the finished output; None if the number of frames is unknown.
        free: The space free for this user on the output's disk; None if unknown.
    """

    needed: int | None
    least: int
    output: int | None
    free: int | None

    @property
    def tight(self) -> bool:
        """Returns whether the free space may not be enough."""
        return self.needed is not None and self.free is not None and self.needed > self.free

    def describe(self) -> str:
        """Returns a line for the user."""
        have = "" if self.free is None else f" of {shown(self.free)} free"
        if self.needed is None or self.output is None:
            return f"disk: the length is not known{have.replace(' of ', '; ')}"
        doubt = "; that may not be enough" if self.tight else ""
        end = shown(self.output)
        return f"disk: {_about(self.needed)}{have} while it runs, {end} at the end{doubt}"


def look_at_disk(
    output: Path,
    form: VideoFormat | ImageFormat,
    *,
    size: tuple[int, int],
    frames: int | None,
    least_frames: int | None = None,
    sound_seconds: float = 0.0,
) -> Disk:
    """Returns the disk space that an output needs, and that is free where it goes.

    Args:
        size: (H, W) of the output.
        frames: The number of frames; None if unknown.
        least_frames: The number of frames that there are at least; None means all of them.
        sound_seconds: The duration of all streams of sound together.
    """
    free = _free(output)
    if frames is None:
        return Disk(None, 0, None, free)
    picture = frames * size[0] * size[1] * bits_per_pixel(form) / 8
    sound = sound_seconds * SOUND_BITS / 8
    video = isinstance(form, VideoFormat)
    lossy = _crf_of(form) is not None if isinstance(form, VideoFormat) else form.suffix != ".tif"
    needed = (COPIES if video else 1) * picture + sound
    kept = bytes_of(folder_of(output))
    sure = 1 if least_frames is None else min(1, least_frames / max(1, frames))
    least = (LEAST_LOSSY if lossy else LEAST_LOSSLESS) * sure * needed
    return Disk(max(0, int(needed) - kept), max(0, int(least) - kept), int(picture + sound), free)


def check_disk(disk: Disk, output: Path) -> None:
    """Checks that a job can fit on the disk.

    Raises:
        StreamDiffVSRError: It needs more than is free, even by the lower bound.
    """
    if disk.free is None or disk.least <= disk.free:
        return
    raise StreamDiffVSRError(
        f"could not write {str(output)!r}",
        f"it takes at least {shown(disk.least)}, probably {shown(disk.needed or 0)}, and "
        f"{shown(disk.free)} are free there",
        f"free some space, use another disk or a higher {option('crf')}, or begin anyway: "
        f"{option('disk_check', False)}",
    )


def bits_per_pixel(form: VideoFormat | ImageFormat) -> float:
    """Returns the bits that an HR pixel of a detailed film takes."""
    if isinstance(form, ImageFormat):
        deep = DEEP_IMAGE_BITS.get(form.suffix) if form.deep else None
        return deep or IMAGE_BITS.get(form.suffix, max(IMAGE_BITS.values()))
    bits, crf = CODECS[form.codec].bits_per_pixel, _crf_of(form)
    if bits is not None and crf is not None:
        quality = form.options.get("crf") or form.options.get("cq") or form.options.get("qp") or ""
        asked = int(quality) if quality.lstrip("-").isdigit() else crf
        return float(bits * 2 ** ((crf - asked) / HALF_CRF))
    if bits is not None:
        return bits
    samples = 1.5 if "420" in form.pixel_format else 2 if "422" in form.pixel_format else 3
    return COMPRESSED * samples * (12 if form.deep else 8)


def _crf_of(form: VideoFormat) -> int | None:
    """Returns the CRF to which the codec's `bits_per_pixel` applies; None if it has none."""
    return ENCODERS[CODECS[form.codec].software].crf


def bytes_of(folder: Path) -> int:
    """Returns the bytes of all files in and below a folder; 0 if it does not exist."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def _about(count: int) -> str:
    return f"about {shown(count)}" if count >= MIB else shown(count)


def shown(count: int) -> str:
    """Returns a number of bytes as text for a user."""
    return format_bytes(count) if count >= MIB else f"{-(-count // 1024)} KiB"


def _free(output: Path) -> int | None:
    """Returns the free bytes on the disk of the nearest existing folder, or None."""
    for folder in output.absolute().parents:
        if folder.is_dir():
            try:
                return shutil.disk_usage(folder).free
            except OSError:
                return None
    return None


DECODER = (38 * MIB, 20)  # H.264 with a few references; then bytes per input pixel
IMAGE_WRITER = (50 * MIB, 12)
COMMAND = 30 * MIB  # the command line, and finding engines
FRAMES_BETWEEN = 3  # RGB frames of output size between the engines and the encoder


@dataclass(frozen=True, slots=True)
class Processes:
    """The host memory in bytes that a job takes in addition to its engines."""

    decode: int
    encode: int
    between: int
    command: int = COMMAND

    @property
    def total(self) -> int:
        """The sum of all."""
        return self.decode + self.encode + self.between + self.command


def processes(size: Size, output_size: Size, form: VideoFormat | ImageFormat) -> Processes:
    """Returns the host memory that decoding, encoding and the command will take.

    Args:
        size: (h, w) of the input.
        output_size: (H, W) of the output.
    """
    small, large = size[0] * size[1], output_size[0] * output_size[1]
    wide = scale = 2 if form.deep else 1
    base, a_pixel = IMAGE_WRITER
    if isinstance(form, VideoFormat):
        encoder = encoder_of(form.encoder)
        base, a_pixel = encoder.memory
        scale = 1 if encoder.depthless else wide
    return Processes(
        decode=DECODER[0] + DECODER[1] * small * wide,
        encode=base + a_pixel * large * scale,
        between=FRAMES_BETWEEN * 3 * large * wide,
    )


WORTH_FRAMES = 40  # a shorter job ends soon, and measuring would be a noticeable part of it
TIMED = 3  # frames after the first, which has no previous frame and includes warming up
ENOUGH_S = 1.5  # fewer frames are timed if they take longer than this


def seconds_per_frame(upscaler: FrameUpscaler, frames: int | None) -> float | None:
    """Measures the seconds per frame, as the median of a few; None if the job is too short.

    Args:
        frames: The number of frames of the job; None if unknown.
    """
    if frames is not None and frames < WORTH_FRAMES:
        return None
    grey = MarkedImage(np.full((*upscaler.size, 3), 128, np.uint8))
    frames_in = repeat(grey, TIMED + 2)  # a stream may take one more than it gives back
    ends = []
    with closing(upscaler.stream_frames(frames_in)) as outputs:  # some may be begun ahead
        for _ in outputs:
            ends.append(time.perf_counter())
            if len(ends) > TIMED or (len(ends) > 1 and ends[-1] - ends[0] > ENOUGH_S):
                break
    return median(later - earlier for earlier, later in pairwise(ends))
