"""The options that `upscale` alone has: of its output, of the part that is taken, of long jobs.

Knows how users write them; what a codec or container can do is for `runtime` to say.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from ..runtime.media.encoders import CODECS, IMAGES, either

PART, OUTPUT, LONG, COMPARISON = "What is taken", "How it is written", "Long jobs", "Comparison"

CompareMode = Literal["side", "split"]
DeinterlaceMode = Literal["auto", "on", "off", "tff", "bff"]
AudioChoice = Literal["copy", "transcode", "none"]

# Not required here: of one name, click would say that INPUT is missing where OUTPUT is.
Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help="A video, a folder of images, a folder of videos, or a pattern such as '*.mp4'.",
        show_default=False,
    ),
]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT",
        help="The video at 4x: .mp4, .mov, .mkv, .webm, .m4v or .ts; or a folder: of its frames as "
        "images, or of the outputs of several inputs.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", metavar="", help="Replace what is there already.")
]
Plan = Annotated[
    bool, typer.Option("--plan", metavar="", help="Say what would be done and needed, and stop.")
]

Start = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="From when: seconds, or [HH:]MM:SS[.fff].", rich_help_panel=PART
    ),
]
End = Annotated[
    str | None, typer.Option(metavar="TIME", help="Until when, not included.", rich_help_panel=PART)
]
MaxFrames = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Stop after N frames.", rich_help_panel=PART),
]
Fps = Annotated[
    str | None,
    typer.Option(
        metavar="R",
        help="Of a folder of images: 25, 29.97 or 30000/1001.",
        show_default="24",
        rich_help_panel=PART,
    ),
]
Deinterlace = Annotated[
    DeinterlaceMode,
    typer.Option(
        metavar="HOW",
        help="auto: where frames or container say so; on: every frame; tff, bff: every frame, "
        "upper or lower field first; off.",
        rich_help_panel=PART,
    ),
]
NoSceneCuts = Annotated[
    bool,
    typer.Option(
        "--no-scene-cuts",
        metavar="",
        help="Do not start anew at scene cuts.",
        rich_help_panel=PART,
    ),
]

Codec = Annotated[
    str,
    typer.Option(metavar="C", help=f"auto, {either(CODECS)}.", rich_help_panel=OUTPUT),
]
Encoder = Annotated[
    str,
    typer.Option(
        metavar="E",
        help="auto (software), hardware, or libav's name of one, such as h264_nvenc.",
        rich_help_panel=OUTPUT,
    ),
]
Crf = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Quality: lower is better and larger.",
        show_default="by codec",
        rich_help_panel=OUTPUT,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="P",
        help="Speed against size, as the encoder names it: fast, slow, ...",
        show_default="by codec",
        rich_help_panel=OUTPUT,
    ),
]
Audio = Annotated[
    AudioChoice,
    typer.Option(
        "--audio",
        help="Copy sound as it is, encode it anew (AAC, Opus or FLAC), or leave it out.",
        rich_help_panel=OUTPUT,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help=f"Write a folder of images: {either(IMAGES)}.",
        rich_help_panel=OUTPUT,
    ),
]

Resume = Annotated[
    bool,
    typer.Option(
        "--resume", metavar="", help="Go on where it was interrupted.", rich_help_panel=LONG
    ),
]
Chunks = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, max=64, help="Processes that share one video.", rich_help_panel=LONG
    ),
]
NoDiskCheck = Annotated[
    bool,
    typer.Option(
        "--no-disk-check",
        metavar="",
        help="Begin although the disk looks too small.",
        rich_help_panel=LONG,
    ),
]

Compare = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write bicubic beside the output as a video, and a sheet of stills.",
        rich_help_panel=COMPARISON,
    ),
]
Mode = Annotated[
    CompareMode,
    typer.Option(
        "--compare-mode",
        help="Side by side, or one picture split by a line.",
        rich_help_panel=COMPARISON,
    ),
]


def parse_time(text: str | None, option: str) -> Fraction | None:
    """Seconds, or [HH:]MM:SS, either with a fraction -> exact seconds."""
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
    """Both times in exact seconds.

    Raises:
        UsageError: One is no time, or nothing lies between them.
    """
    first, last = parse_time(start, "--start"), parse_time(end, "--end")
    if last is not None and last <= (first or 0):
        raise UsageError(f"--end {end} is not after --start {start or 0}")
    return first, last


def parse_rate(text: str | None, option: str) -> Fraction | None:
    """Frames a second: a number, or a ratio such as 30000/1001."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(?:/(\d{1,9}))?", text.strip())
    rate = Fraction(match[1]) / int(match[2] or 1) if match and match[2] != "0" else Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(
            f"{option} {text!r:.60} is not a frame rate", remedy="write 25, 29.97 or 30000/1001"
        )
    return rate
