"""Defines the options of `upscale` alone, and parses times and frame rates.

Only the notation of values is checked here; `runtime` knows what a codec or container can do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from ..runtime.media.encoders import CODECS, IMAGES, either, encoder_of
from .options import default, flag

PART, OUTPUT, LONG, COMPARISON = (
    "Reading the input",
    "Writing the output",
    "Long jobs",
    "Comparison",
)
CRFS = {name: encoder_of(codec.software).crf for name, codec in CODECS.items()}
PRESETS = {name: encoder_of(codec.software).preset for name, codec in CODECS.items()}


def _by_codec(values: Mapping[str, object]) -> str:
    """Returns the defaults of those codecs that have one: "17 for h264, 18 for h265"."""
    return ", ".join(f"{value} for {name}" for name, value in values.items() if value)


CompareMode = Literal["side", "split"]
DeinterlaceMode = Literal["auto", "on", "off", "tff", "bff"]
AudioChoice = Literal["copy", "transcode", "none"]

# Not required here: given one name, click would report INPUT as missing instead of OUTPUT.
Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help="One or more inputs: a video, a folder of images, a folder of videos, or a pattern "
        "such as '*.mp4'.",
        show_default=False,
    ),
]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT",
        help="Always the last argument: the video to write (.mp4, .mov, .mkv, .webm, .m4v or .ts), "
        "or a folder, which receives the frames of a single input as images, or one output for "
        "each of several inputs.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool,
    flag(
        "--overwrite",
        "Replace existing outputs, and start unfinished ones over; with --resume, continue the "
        "unfinished ones instead.",
    ),
]
Plan = Annotated[
    bool, flag("--plan", "Show what would be done and what it would need, without doing it.")
]

Start = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Start at this time of the input: seconds, or [HH:]MM:SS[.fff]."
        + default("the first frame"),
        rich_help_panel=PART,
    ),
]
End = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Stop before the frame at this time of the input, written like --start."
        + default("the end"),
        rich_help_panel=PART,
    ),
]
MaxFrames = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Stop after N frames of each input." + default("no limit"),
        rich_help_panel=PART,
    ),
]
Fps = Annotated[
    str | None,
    typer.Option(
        metavar="R",
        help="Frames per second of an input that is a folder of images, such as 25, 29.97 or "
        "30000/1001." + default("24"),
        rich_help_panel=PART,
    ),
]
Deinterlace = Annotated[
    DeinterlaceMode,
    typer.Option(
        metavar="HOW",
        help="Deinterlace: auto (only frames that are marked as interlaced), on (every frame), tff "
        "or bff (every frame, with the upper or lower field first), or off. The number of frames "
        "stays the same.",
        rich_help_panel=PART,
    ),
]
NoSceneCuts = Annotated[
    bool,
    flag(
        "--no-scene-cuts",
        "Do not look for scene cuts: let the last frame of a scene guide the next scene, too.",
        PART,
    ),
]

Codec = Annotated[
    str,
    typer.Option(
        metavar="C",
        help=f"Video codec: {', '.join(CODECS)}, or auto (av1 for .webm; otherwise h264, or h265 "
        "if the input has more than 8 bits).",
        rich_help_panel=OUTPUT,
    ),
]
Encoder = Annotated[
    str,
    typer.Option(
        metavar="E",
        help="Video encoder: auto (the codec's software encoder), hardware (its first GPU encoder "
        "that works), or an encoder by its libav name, such as h264_nvenc.",
        rich_help_panel=OUTPUT,
    ),
]
Crf = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Quality, 0 to 51 (63 for av1): a lower number is better and makes a larger file."
        + default(f"{_by_codec(CRFS)}, 19 for GPU encoders"),
        rich_help_panel=OUTPUT,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="P",
        help="Preset, as the encoder names it: ultrafast to placebo (slower makes smaller files) "
        "for h264 and h265, 0 (slowest, smallest files) to 13 for av1, a profile for prores."
        + default(_by_codec(PRESETS)),
        rich_help_panel=OUTPUT,
    ),
]
Audio = Annotated[
    AudioChoice,
    typer.Option(
        "--audio",
        help="Sound: copy it unchanged, transcode it to AAC, Opus or FLAC (whichever suits the "
        "output), or none.",
        rich_help_panel=OUTPUT,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help=f"Write frames as images of this kind into the folder OUTPUT: {either(IMAGES)}."
        + default("png if OUTPUT is a folder and there is one input"),
        rich_help_panel=OUTPUT,
    ),
]

Resume = Annotated[
    bool,
    flag(
        "--resume",
        "Continue the unfinished outputs of an interrupted run; skip finished ones, unless "
        "--overwrite is given.",
        LONG,
    ),
]
Chunks = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        max=64,
        help="Split each video at scene cuts into up to N parts, upscaled at the same time; takes "
        "N times the memory.",
        rich_help_panel=LONG,
    ),
]
NoDiskCheck = Annotated[
    bool,
    flag(
        "--no-disk-check", "Start even if the free disk space looks too small for the output.", LONG
    ),
]

Compare = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also write a video that compares bicubic with the output, and a .png of stills with "
        "the same name.",
        rich_help_panel=COMPARISON,
    ),
]
Mode = Annotated[
    CompareMode,
    typer.Option(
        "--compare-mode",
        help="Layout of the comparison: two pictures next to each other (side), or one picture "
        "whose left half is bicubic (split).",
        rich_help_panel=COMPARISON,
    ),
]


def parse_time(text: str | None, option: str) -> Fraction | None:
    """Returns the exact seconds of a time in seconds or [HH:]MM:SS, either with a fraction."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(?:(\d{1,4}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d{1,9})?)", text.strip())
    if match is None:
        raise UsageError(
            f"{option} {text!r:.60} is not a time", remedy="write seconds, or HH:MM:SS.fff"
        )
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    if match[2] is not None and (seconds >= 60 or (match[1] is not None and minutes >= 60)):
        raise UsageError(f"{option} {text!r:.60} is not a time", "minutes and seconds end at 59")
    return 3600 * hours + 60 * minutes + seconds


def parse_span(start: str | None, end: str | None) -> tuple[Fraction | None, Fraction | None]:
    """Returns both times in exact seconds, None for one that is not given.

    Raises:
        UsageError: One is not a time, or the end is not after the start.
    """
    first, last = parse_time(start, "--start"), parse_time(end, "--end")
    if last is not None and last <= (first or 0):
        raise UsageError(f"--end {end} is not after --start {start or 0}")
    return first, last


def parse_rate(text: str | None, option: str) -> Fraction | None:
    """Returns frames per second, written as a number or a ratio such as 30000/1001."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(?:/(\d{1,9}))?", text.strip())
    rate = Fraction(match[1]) / int(match[2] or 1) if match and match[2] != "0" else Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(
            f"{option} {text!r:.60} is not a frame rate", remedy="write 25, 29.97 or 30000/1001"
        )
    return rate
