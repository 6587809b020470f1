"""The choice of how an output is written: from its name, the input's depth and what the user asks.

It opens nothing, but for the one trial of an encoder in hardware, and knows nothing of frames.

An encoder's number of threads is part of the choice, never the machine's: with a fixed one, the
same frames give the same packets wherever and however often they are encoded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ....errors import StreamDiffVSRError, UsageError
from ..info import VideoInfo
from . import options as encoder_options
from .kinds import (
    CODECS,
    CONTAINERS,
    DEEP_IMAGES,
    HOLDS,
    IMAGES,
    ImageFormat,
    VideoFormat,
    is_image_folder,
)
from .options import HARDWARE, OF_ENCODER, SOFTWARE
from .sizes import SMALLEST, check_size


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
    """How an output of that name is made.

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
        UsageError: A name or number that means nothing.
        StreamDiffVSRError: The container cannot hold it, or the encoder does not work here.
    """
    if is_image_folder(output, images):
        return _image_format(output, info, images, codec, encoder, crf, preset)
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
    options = encoder_options.options(name, crf=crf, preset=preset)
    made = VideoFormat(container, chosen, name, pixels, options, deep, note)
    if name in SOFTWARE.values():
        return made
    return _tried(made, size, hardware=encoder == "hardware", crf=crf, preset=preset)


def _image_format(
    output: Path,
    info: VideoInfo,
    images: str | None,
    codec: str,
    encoder: str,
    crf: int | None,
    preset: str | None,
) -> ImageFormat:
    kind = {"jpeg": "jpg", "tiff": "tif"}.get(images or "png", images or "png")
    if kind not in IMAGES:
        raise UsageError(
            f"{images!r} is no kind of image that is written", "", f"use one of {', '.join(IMAGES)}"
        )
    if output.suffix.lower() in CONTAINERS and not output.is_dir():
        raise UsageError(f"images need a folder, and {str(output)!r} is named like a video")
    if (codec, encoder, crf, preset) != ("auto", "auto", None, None):
        raise UsageError("images have no codec, encoder, CRF or preset", "", "leave them out")
    return ImageFormat(f".{kind}", deep=_depth(info) > 8 and kind in DEEP_IMAGES)


def _depth(info: VideoInfo) -> int:
    return info.depth


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
    deep = _depth(info) > 8 and min(size) >= SMALLEST["h265"]
    return "h265" if deep else "h264"


def _why_not_held(container: str, suffix: str, codec: str) -> tuple[str, str]:
    held = ", ".join(HOLDS[container])
    endings = ", ".join(end for end, name in CONTAINERS.items() if codec in HOLDS[name])
    return f"{suffix} cannot hold {codec} video, but {held}", f"{endings} can hold {codec}"


def _encoder(codec: str, encoder: str) -> str:
    if encoder in ("auto", "software"):
        return SOFTWARE[codec]
    if encoder != "hardware":
        return encoder
    if not HARDWARE.get(codec):
        raise StreamDiffVSRError(
            f"no encoder in hardware makes {codec}", "", "use h264, h265 or av1, or software"
        )
    return HARDWARE[codec][0]


def _pixels(codec: str, encoder: str, info: VideoInfo, preset: str | None) -> tuple[str, bool, str]:
    """Pixel format, whether frames are uint16, and a note."""
    depth = _depth(info)
    deep = depth > 8
    if codec == "ffv1":
        bits = next(bits for bits in (8, 10, 12, 16) if bits >= min(depth, 16))
        return ("bgr0" if bits == 8 else f"gbrp{bits}le"), deep, ""
    if codec == "prores":
        return encoder_options.prores_pixels(preset), deep, ""
    if encoder not in SOFTWARE.values():
        if deep and encoder.startswith("h264"):
            return "nv12", False, f"{encoder} makes 8 bits of the input's {depth}"
        return ("p010le" if deep else "nv12"), deep, ""
    note = ""
    if deep and codec == "h264":
        note = "10-bit H.264 (High 10) plays in few players; h265 is safer"
    return ("yuv420p10le" if deep else "yuv420p"), deep, note


def _tried(
    first: VideoFormat,
    size: tuple[int, int],
    *,
    hardware: bool,
    crf: int | None,
    preset: str | None,
) -> VideoFormat:
    """The encoder in hardware that works here, by a frame of that size.

    Raises:
        StreamDiffVSRError: None does, or not the one named.
    """
    from .trial import first_that_works

    names = HARDWARE[first.codec] if hardware else (first.encoder,)
    made = [
        replace(first, encoder=name, options=encoder_options.options(name, crf=crf, preset=preset))
        for name in names
    ]
    return first_that_works(made, size)
