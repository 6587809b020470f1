"""One file of the corpus through reader, writer and join, with engines that repeat pixels."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from streamdiffvsr import StreamDiffVSRError
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.media.reader import FileSource, probe
from streamdiffvsr.tests.files.doubles import Nearest

from . import checks, limits
from .checks import Expected, Fault
from .making import make_apart
from .pictures import Pixels
from .reader import Seen, copied_by_ffmpeg, pixels, see, sound_bytes, whole_frames
from .recipes import Recipe
from .stills import seen_still

_EXACT = ("mp4", "mov")  # say how long each packet is
_ENDS_IN_AN_ERROR = ("smjpeg",)  # its demuxer takes the end of the file for a damaged chunk
_SOUND = re.compile(r"sound|audio")


def faults_of(made: Recipe, folder: Path) -> list[Fault]:
    """All that is wrong with what is read, and made, of the file of a recipe."""
    source = make_apart(made, folder)
    seen, stored = seen_still(made, source) if made.still else _seen(made, source)
    wanted = checks.expected(made, seen, stored)
    why = checks.unfit(made, wanted, seen, stored)
    if why:
        return [Fault("file", "unfit", why)]
    faults = _read(made, source, wanted)
    return faults + _made(made, source, seen, wanted, folder)


def _seen(made: Recipe, source: Path) -> tuple[Seen, list[Pixels]]:
    seen = see(source)
    fields = "bff" if made.suffix == "dv" else made.fields
    return seen, whole_frames(source, seen, fields) if fields else pixels(source, seen)


def _read(made: Recipe, source: Path, wanted: Expected) -> list[Fault]:
    try:
        with FileSource(source) as reader:
            info, frames = reader.info, list(reader)
            damaged = reader.damaged
    except StreamDiffVSRError as error:
        return [Fault("read", "refused", str(error))]
    images = [frame.image for frame in frames]
    times = [frame.pts * frame.time_base for frame in frames]
    faults = checks.same_count("read", len(frames), wanted)
    faults += checks.same_numbers("read", images, wanted)
    faults += checks.same_size("read", info.size, info.sample_aspect, wanted)
    faults += checks.same_times("read", times, wanted.times)
    if wanted.pixels:
        faults += checks.same_pixels("read", images, wanted.pixels)
    if damaged > (made.suffix in _ENDS_IN_AN_ERROR):
        faults.append(Fault("read", "damage", f"{damaged} packets of a whole file told as damaged"))
    length = (wanted.end or wanted.times[-1]) - wanted.times[0]
    return faults + checks.honest_plan(info.frames, info.duration_seconds, length, wanted)


def _made(made: Recipe, source: Path, seen: Seen, wanted: Expected, folder: Path) -> list[Fault]:
    images = made.output == "png"
    suffix, _, codec = made.output.partition(" ")
    output = folder / f"made_{made.number}{'' if images else suffix}"
    preset = {".webm": "6"}.get(suffix, None if codec or images else "ultrafast")
    options = FileOptions(codec=codec or "auto", preset=preset, images="png" if images else None)
    try:
        report = upscale_file(source, output, Nearest(probe(source).size), options)
    except StreamDiffVSRError as error:
        return _refused(error, source, seen, output)
    faults = []
    if report.frames != len(wanted.numbers):
        faults.append(Fault("made", "report", f"{report.frames} frames told"))
    if images:
        return faults + _images_made(output, wanted)
    return faults + _video_made(made, source, seen, wanted, output)


def _refused(error: StreamDiffVSRError, source: Path, seen: Seen, output: Path) -> list[Fault]:
    """Right only where plain ffmpeg cannot copy the sound either."""
    if seen.sounds and _SOUND.search(str(error)):
        trial = output.with_name(f"trial{output.suffix}")
        if not copied_by_ffmpeg(source, trial):
            return []
        return [Fault("made", "sound refused", f"ffmpeg copies it: {error}")]
    return [Fault("made", "refused", str(error))]


def _images_made(output: Path, wanted: Expected) -> list[Fault]:
    files = sorted(output.iterdir())
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    faults = checks.same_count("made", len(images), wanted)
    faults += checks.same_numbers("made", images, wanted)
    if wanted.pixels and not faults:
        large = [one.repeat(4, 0).repeat(4, 1) for one in wanted.pixels]
        faults += checks.same_pixels("made", images, large)
    return faults


def _video_made(
    made: Recipe, source: Path, seen: Seen, wanted: Expected, output: Path
) -> list[Fault]:
    after = see(output)
    images = pixels(output, after)
    faults = checks.same_count("made", len(images), wanted)
    faults += checks.same_numbers("made", images, wanted)
    told = replace(wanted, aspect=limits.kept_aspect(made.output, wanted.aspect))
    faults += checks.same_size("made", after.size, after.aspect, told, scale=4)
    if after.matrix not in (None, (1, 0, 0, 1)):
        faults.append(Fault("made", "orientation", f"still to be turned by {after.matrix}"))
    start = _start(output, seen, after, wanted)
    moved = start - wanted.times[0]
    tick = after.time_base
    due = checks.moved_apart([at + moved for at in wanted.times], max(tick, wanted.tick))
    faults += checks.same_times("made", after.times, due, tick)
    if wanted.end is not None and output.suffix in (".mp4", ".mov", ".mkv"):
        end = after.end if output.suffix == ".mkv" else after.claimed_end
        faults += checks.same_end("made", end, wanted.end + moved, tick)
    length = made.timing.end - made.timing.seconds[0]
    faults += checks.honest_length("made", after, start + length + wanted.tick)
    if wanted.pixels:
        faults += checks.near_pixels("made", images, wanted.pixels)
    if after.pixel_format.startswith("yuv") and seen.pixel_format.startswith(("yuv", "nv", "uy")):
        faults += checks.same_colour("made", after.colour, seen.colour, after.size[0])
    if seen.title and output.suffix in (".mp4", ".mov", ".mkv") and after.title != seen.title:
        faults.append(Fault("made", "tags", f"title {after.title!r}, not {seen.title!r}"))
    same = [_same_bytes(source, output, n) for n in range(min(len(seen.sounds), len(after.sounds)))]
    exact_ends = made.suffix in _EXACT and output.suffix[1:] in _EXACT
    return faults + checks.same_sounds(
        "made", after.sounds, seen.sounds, moved, tick, same, exact_ends
    )


def _start(output: Path, seen: Seen, after: Seen, wanted: Expected) -> Fraction:
    """Returns when the output must begin: with the input; a TS file when its muxer says.

    Matroska holds no time below zero: all that is in it is moved by what would be.
    """
    if output.suffix == ".ts" and after.times:
        return after.times[0]
    start = max(wanted.times[0], Fraction(0))
    if output.suffix not in (".mkv", ".webm"):
        return start
    return start - min(Fraction(0), *(sound.packets[0][0] for sound in seen.sounds), Fraction(0))


def _same_bytes(source: Path, output: Path, number: int) -> bool:
    return sound_bytes(source, number) == sound_bytes(output, number)
