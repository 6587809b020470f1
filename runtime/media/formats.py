"""Chooses container, codec, pixel format and encoder options for an output.

A build of libav may name an encoder whose driver or chip is missing, and a driver may crash or
hang, so hardware encoders are tried, on a frame of the actual size, in a process of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError, UsageError, option
from ..processes.child import Child
from ..processes.messages import Header, pack
from .colour import FULL, LIMITED, RGB, Colour, with_mastering
from .encoders import (
    CODECS,
    CONTAINERS,
    DEEP_IMAGES,
    HARDWARE,
    HOLDS,
    IMAGES,
    OF_ENCODER,
    SOFTWARE,
    ImageFormat,
    VideoFormat,
    either,
    is_image_folder,
    live_options,
    live_pixel_format,
    options,
)
from .info import VideoInfo

ATTEMPT_S = 15.0  # an idle driver may take seconds to wake up

_answers: dict[tuple[int, int], LiveEncoder] = {}
_asking = threading.Lock()


@dataclass(frozen=True, slots=True)
class LiveEncoder:
    """The encoder to use for live video, and one line on why the preferred ones were refused."""

    name: str
    why: str


def live_encoder(size: tuple[int, int]) -> LiveEncoder:
    """Returns the H.264 encoder for live frames of (H, W): one in hardware that works, else x264.

    The first answer for a size takes a second or so; it is kept while this process runs.
    """
    with _asking:
        if size not in _answers:
            _answers[size] = _ask(size)
        return _answers[size]


def live_candidate(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the message by which a child tries an encoder as live video opens it."""
    options = live_options(name, size, Fraction(30), 23)
    return {"encoder": name, "pixel_format": live_pixel_format(name), "options": options}


def first_that_works(formats: Sequence[VideoFormat], size: tuple[int, int]) -> VideoFormat:
    """Returns the first format whose encoder can encode a frame of (H, W).

    Raises:
        StreamDiffVSRError: None can; the message has the reason of each.
    """
    refused = _refused(
        [
            {"encoder": one.encoder, "pixel_format": one.pixel_format, "options": one.options}
            for one in formats
        ],
        size,
    )
    if len(refused) < len(formats):
        return formats[len(refused)]
    if len(formats) == 1:
        what, why = f"{formats[0].encoder} does not work here", refused[0]
    else:
        reasons = zip(formats, refused, strict=True)
        what = "no encoder in hardware works here"
        why = "; ".join(f"{one.encoder}: {reason}" for one, reason in reasons)
    raise StreamDiffVSRError(what, why, f"use {option('encoder', 'software')}")


def _ask(size: tuple[int, int]) -> LiveEncoder:
    names = HARDWARE["h264"]
    refused = _refused([live_candidate(name, size) for name in names], size)
    reasons = zip(names, refused, strict=False)
    why = "; ".join(f"{name}: {' '.join(reason.split())}" for name, reason in reasons)
    return LiveEncoder([*names, SOFTWARE["h264"]][len(refused)], why)


def _refused(candidates: Sequence[dict[str, Any]], size: tuple[int, int]) -> list[str]:
    """Returns the reason of each failing candidate before the first one that works."""
    refused: list[str] = []
    while len(refused) < len(candidates):
        if _one_works(candidates[len(refused) :], size, refused):
            break
    return refused


def _one_works(
    candidates: Sequence[dict[str, Any]], size: tuple[int, int], refused: list[str]
) -> bool:
    """Tries candidates in one process until one works; adds the reason of each failure."""
    task = "runtime.media.encoder_trial_child"
    order = {"candidates": list(candidates), "size": list(size), "attempt_s": ATTEMPT_S}
    try:
        with closing(Child(task, order, failure="it failed", deadline_s=ATTEMPT_S)) as child:
            for _ in candidates:
                answer, _ = child.receive()
                if not answer["why"]:
                    return True
                refused.append(answer["why"])
    except StreamDiffVSRError as error:  # it crashed or hung: another process tries the rest
        refused.append(error.why or error.what)
    return False


def check_size(size: tuple[int, int], codec: str, failure: str) -> None:
    """Checks that a codec can encode frames of (H, W); ``failure`` begins the message.

    Raises:
        StreamDiffVSRError: They are too large, too small, or odd where chroma is subsampled.
    """
    height, width = size
    row = CODECS[codec]
    tallest, widest = row.largest
    if height > tallest or width > widest:
        raise StreamDiffVSRError(
            failure,
            f"its frames would be {width}x{height}, and {codec} goes up to {widest}x{tallest}",
            "scale the input down first, or write a folder of images",
        )
    if min(size) < row.smallest:
        raise StreamDiffVSRError(
            failure,
            f"its frames would be {width}x{height}, "
            f"and {codec} is encoded from {row.smallest} a side",
            "use h264",
        )
    if row.even and (height % 2 or width % 2):
        raise StreamDiffVSRError(
            failure, f"frames of {width}x{height} cannot be {codec}: both must be even"
        )


_BASE_MEMORY_BYTES = 4 << 30


def encoder_arguments(
    size: tuple[int, int], time_base: Fraction, info: VideoInfo | None, format: VideoFormat
) -> Header:
    """Returns the arguments of `VideoEncoder`, as JSON types."""
    colour = _colour(size, info, format)
    return {
        "size": list(size),
        "time_base": pack(time_base),
        "rate": pack(info.average_rate if info else None),
        "sample_aspect": pack(info.sample_aspect if info else Fraction(1)),
        "colour": [colour.matrix, colour.range, colour.primaries, colour.transfer],
        "encoder": format.encoder,
        "pixel_format": format.pixel_format,
        "options": with_mastering(format.encoder, format.options, info.mastering if info else None),
        "deep": format.deep,
        "tag": format.tag,
    }


def memory_bytes(size: tuple[int, int], format: VideoFormat) -> int:
    """Returns how much address space the child may use."""
    height, width = size
    frame = height * width * 3 // 2 * (2 if "10" in format.pixel_format else 1)
    return _BASE_MEMORY_BYTES + CODECS[format.codec].memory_frames * frame


def _colour(size: tuple[int, int], info: VideoInfo | None, format: VideoFormat) -> Colour:
    colour = (info.colour if info else Colour()).resolved(size[0])
    matrix, range_ = colour.matrix, colour.range
    if CODECS[format.codec].rgb:
        matrix, range_ = RGB, FULL
    elif not CODECS[format.codec].full_range:
        range_ = LIMITED
    return Colour(matrix, range_, colour.primaries, colour.transfer)


def choose_format(
    output: Path,
    *,
    info: VideoInfo,
    size: tuple[int, int],
    codec: str = "auto",
    encoder: str = "auto",
    crf: int | None = None,
    preset: str | None = None,
    images: str | None = None,
) -> VideoFormat | ImageFormat:
    """Chooses how an output of that name is made.

    Args:
        output: A file, or a folder for images: one that exists, has no ending, or ends with a
            separator (which only a string keeps: pass ``images`` for such a name).
        info: The input; its depth decides that of the output.
        size: (H, W) of the frames to write.
        codec: One of CODECS, or "auto": H.264, H.265 for more than 8 bits, AV1 in .webm.
        encoder: "auto" or "software", "hardware" (the first that works here), or libav's name.
        crf: Quality, lower is better; None for one that looks like its input.
        preset: Speed, in the encoder's own words; the profile of ProRes.
        images: One of IMAGES, for a folder; None for png.

    Raises:
        UsageError: A name is unknown, or a number is out of range.
        StreamDiffVSRError: The container cannot hold the codec, or the encoder does not work here.
    """
    if is_image_folder(output, images):
        form = _image_format(output, info, images)
        if (codec, encoder, crf, preset) != ("auto", "auto", None, None):
            raise UsageError("images have no codec, encoder, CRF or preset", "", "leave them out")
        return form
    failure = f"could not write {str(output)!r}"
    container = CONTAINERS.get(output.suffix.lower())
    if container is None:
        why = f"no video file is written with the ending {output.suffix!r}"
        raise StreamDiffVSRError(failure, why, f"use one of {', '.join(CONTAINERS)}")
    chosen = _codec(container, info, size, codec, encoder)
    if chosen not in HOLDS[container]:
        raise StreamDiffVSRError(failure, *_why_not_held(container, output.suffix, chosen))
    check_size(size, chosen, failure)
    name = _encoder(chosen, encoder)
    pixels, deep, note = _pixels(chosen, name, info, preset)
    names = CODECS[chosen].hardware if encoder == "hardware" else (name,)
    made = [
        VideoFormat(container, chosen, each, pixels, options(each, crf, preset), deep, note)
        for each in names
    ]
    return made[0] if name == CODECS[chosen].software else first_that_works(made, size)


def _image_format(output: Path, info: VideoInfo, images: str | None) -> ImageFormat:
    kind = {"jpeg": "jpg", "tiff": "tif"}.get(images or "png", images or "png")
    if kind not in IMAGES:
        raise UsageError(
            f"{images!r} is no kind of image that is written", "", f"use one of {', '.join(IMAGES)}"
        )
    if output.suffix.lower() in CONTAINERS and not output.is_dir():
        raise UsageError(f"images need a folder, and {str(output)!r} is named like a video")
    return ImageFormat(f".{kind}", deep=info.depth > 8 and kind in DEEP_IMAGES)


def _codec(container: str, info: VideoInfo, size: tuple[int, int], codec: str, encoder: str) -> str:
    named = OF_ENCODER.get(encoder)
    if codec != "auto" and codec not in CODECS:
        raise UsageError(f"there is no codec {codec!r} here", "", f"use one of {', '.join(CODECS)}")
    if encoder not in ("auto", "software", "hardware") and named is None:
        known = ", ".join(sorted(OF_ENCODER))
        raise UsageError(f"there is no encoder {encoder!r} here", "", f"use one of {known}")
    if named and codec not in ("auto", named):
        raise UsageError(f"the encoder {encoder} makes {named}, not {codec}")
    if named:
        return named
    if codec != "auto":
        return codec
    if container == "webm":
        return "av1"
    deep = info.depth > 8 and min(size) >= CODECS["h265"].smallest
    return "h265" if deep else "h264"


def _why_not_held(container: str, suffix: str, codec: str) -> tuple[str, str]:
    held = ", ".join(HOLDS[container])
    endings = ", ".join(end for end, name in CONTAINERS.items() if codec in HOLDS[name])
    return f"{suffix} cannot hold {codec} video, but {held}", f"{endings} can hold {codec}"


def _encoder(codec: str, encoder: str) -> str:
    if encoder in ("auto", "software"):
        return CODECS[codec].software
    if encoder != "hardware":
        return encoder
    if not CODECS[codec].hardware:
        able = either(name for name, row in CODECS.items() if row.hardware)
        raise StreamDiffVSRError(
            f"no encoder in hardware makes {codec}", "", f"use {able}, or software"
        )
    return CODECS[codec].hardware[0]


def _pixels(codec: str, encoder: str, info: VideoInfo, preset: str | None) -> tuple[str, bool, str]:
    """Returns the pixel format, whether frames are uint16, and a note for the user."""
    row, deep = CODECS[codec], info.depth > 8
    if encoder == row.software:
        return row.pixels(info.depth, preset), deep, row.note_10bit if deep else ""
    if deep and not row.hardware_10bit:
        return "nv12", False, f"{encoder} makes 8 bits of the input's {info.depth}"
    return ("p010le" if deep else "nv12"), deep, ""
