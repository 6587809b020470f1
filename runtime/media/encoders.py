"""Codecs, containers and encoders: a codec is a row of CODECS, an encoder one of ENCODERS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ...errors import StreamDiffVSRError, UsageError
from ...graphs.spec import MIB

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
}
IMAGES = ("png", "jpg", "webp", "tif")
IMAGE_NAME = re.compile(rf"\d{{8}}\.({'|'.join(IMAGES)})")  # of a frame in a folder of images
DEEP_IMAGES = ("png", "tif")
_LOSSY_QUALITY = 95  # of 100, for .jpg and .webp


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """The format of a video file.

    Attributes:
        container: libav's name of the muxer, such as ``matroska``.
        codec: One of CODECS.
        encoder: libav's name of the encoder, such as ``libx264``.
        pixel_format: The encoder's input, such as ``yuv420p10le``.
        options: The options that the encoder is opened with.
        deep: Whether frames are to be written as uint16.
        note: A note for the user about this choice, or "".
    """

    container: str
    codec: str
    encoder: str
    pixel_format: str
    options: dict[str, str]
    deep: bool
    note: str = ""

    @property
    def tag(self) -> str:
        """The four-character code that players want on the stream, or ""."""
        return CODECS[self.codec].mp4_tag if self.container in ("mp4", "mov") else ""

    @property
    def stores_aspect(self) -> bool:
        """Returns whether pixels may be other than square; in Matroska the codec decides that."""
        return self.container not in ("matroska", "webm") or CODECS[self.codec].stores_aspect


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """The format of the images that frames are written as.

    Attributes:
        suffix: ".png", ".jpg", ".webp" or ".tif".
        deep: Whether frames are to be written as uint16.
        quality: Quality of .jpg and .webp, 1 to 100; the others are lossless.
    """

    suffix: str
    deep: bool
    quality: int = _LOSSY_QUALITY


def is_image_folder(output: Path, images: str | None = None) -> bool:
    """Returns whether the output is a folder of images, not a file."""
    return images is not None or output.is_dir() or not output.suffix


_THREADS = "16"  # not the number of cores: some encoders' results depend on it


@dataclass(frozen=True, slots=True)
class Encoder:
    """A software encoder, or one vendor's hardware encoders.

    Attributes:
        options: Returns the options of libav for (quality, speed).
        crf: The default quality; None if it has no such setting.
        crf_limit: The lowest quality, on a scale that begins at 0.
        presets: Its speeds or profiles; empty if it has none.
        preset: The default preset.
        memory: Bytes that it takes, and further bytes for each pixel of an 8-bit frame: lookahead,
            references in several forms, and the work of its threads.
        depthless: Whether frames of 8 bits take as much as those of 10.
    """

    options: Callable[[str, str], dict[str, str]]
    crf: int | None = None
    crf_limit: int = 51
    presets: Sequence[str] = ()
    preset: str = ""
    memory: tuple[int, int] = (100 * MIB, 60)  # hardware keeps most frames elsewhere
    depthless: bool = False


_X26X_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast", "medium"),
    *("slow", "slower", "veryslow", "placebo"),
)
ENCODERS = {
    "libx264": Encoder(
        lambda quality, speed: {"crf": quality, "preset": speed, "threads": _THREADS},
        crf=17,
        presets=_X26X_PRESETS,
        preset="medium",
        memory=(60 * MIB, 205),
    ),
    "libx265": Encoder(
        # By default, workers and frame threads depend on the machine's cores.
        lambda quality, speed: {
            "crf": quality,
            "preset": speed,
            "x265-params": "pools=16:frame-threads=4:log-level=error",
        },
        crf=18,
        presets=_X26X_PRESETS,
        preset="medium",
        memory=(170 * MIB, 190),
    ),
    "libsvtav1": Encoder(
        lambda quality, speed: {"crf": quality, "preset": speed, "svtav1-params": "lp=5"},
        crf=24,
        crf_limit=63,
        presets=[str(number) for number in range(14)],
        preset="7",
        memory=(135 * MIB, 550),
    ),
    "prores_ks": Encoder(
        lambda quality, profile: {"profile": profile, "vendor": "apl0", "threads": _THREADS},
        presets=("proxy", "lt", "standard", "hq", "4444", "4444xq"),
        preset="hq",
        memory=(52 * MIB, 30),
        depthless=True,
    ),
    "ffv1": Encoder(
        lambda quality, speed: {"level": "3", "g": "1", "slicecrc": "1", "threads": _THREADS},
        memory=(50 * MIB, 100),
    ),
    "nvenc": Encoder(
        lambda quality, speed: {"preset": speed, "rc": "constqp", "qp": quality},
        crf=19,
        presets=[f"p{number}" for number in range(1, 8)],
        preset="p5",
    ),
    "videotoolbox": Encoder(
        lambda quality, speed: {"flags": "+qscale", "global_quality": str(65 * 118)}  # 65 of 100
    ),
    "qsv": Encoder(
        lambda quality, speed: {"preset": speed, "global_quality": quality},
        crf=19,
        presets=_X26X_PRESETS[2:9],
        preset="slow",
    ),
    "amf": Encoder(
        lambda quality, speed: {"quality": speed, "rc": "cqp", "qp_i": quality, "qp_p": quality},
        crf=19,
        presets=("speed", "balanced", "quality"),
        preset="quality",
    ),
}


def _yuv420(depth: int, preset: str | None) -> str:
    return "yuv420p10le" if depth > 8 else "yuv420p"


def _prores(depth: int, profile: str | None) -> str:
    return "yuv444p10le" if profile in ("4444", "4444xq") else "yuv422p10le"


def _lossless_rgb(depth: int, preset: str | None) -> str:
    bits = next(bits for bits in (8, 10, 12, 16) if bits >= min(depth, 16))
    return "bgr0" if bits == 8 else f"gbrp{bits}le"


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec that videos are written in.

    Attributes:
        software: The software encoder, one of ENCODERS.
        hardware: The hardware encoders by preference; a name ends in one of ENCODERS.
        containers: libav's names of the muxers that hold it.
        pixels: Returns the software encoder's pixel format for (the input's bits, the preset).
        bits_per_pixel: The rate of a detailed film at the default quality; None if lossless, where
            the pixel format decides.
        largest: The largest frame, (H, W).
        smallest: The smallest side of a frame.
        even: Whether both sides have to be even, as chroma is subsampled.
        rgb: Whether it holds RGB, not YUV by the tags of the source.
        full_range: Whether it can mark values as full range.
        hardware_10bit: Whether hardware encoders support more than 8 bits.
        note_10bit: A note for the user about more than 8 bits, or "".
        stores_aspect: Whether the codec itself stores the pixel aspect.
        mp4_tag: The four-character code that players want in .mp4 and .mov; "" for libav's own.
        segments: The muxer of segments, which keeps times exactly.
        memory_frames: The most frames that an encoder may hold: lookahead and references.
    """

    software: str
    hardware: tuple[str, ...]
    containers: tuple[str, ...]
    pixels: Callable[[int, str | None], str] = _yuv420
    bits_per_pixel: float | None = None
    largest: tuple[int, int] = (16384, 16384)
    smallest: int = 1
    even: bool = True
    rgb: bool = False
    full_range: bool = True
    hardware_10bit: bool = True
    note_10bit: str = ""
    stores_aspect: bool = False
    mp4_tag: str = ""
    segments: str = "mp4"
    memory_frames: int = 300


CODECS = {
    "h264": Codec(
        "libx264",
        ("h264_nvenc", "h264_videotoolbox", "h264_qsv", "h264_amf"),
        ("mp4", "mov", "matroska", "mpegts"),
        bits_per_pixel=0.22,
        hardware_10bit=False,
        note_10bit="10-bit H.264 (High 10) plays in few players; h265 is safer",
        stores_aspect=True,
    ),
    "h265": Codec(
        "libx265",
        ("hevc_nvenc", "hevc_videotoolbox", "hevc_qsv", "hevc_amf"),
        ("mp4", "mov", "matroska", "mpegts"),
        bits_per_pixel=0.15,
        smallest=16,
        stores_aspect=True,
        mp4_tag="hvc1",
        memory_frames=450,
    ),
    "av1": Codec(
        "libsvtav1",
        ("av1_nvenc", "av1_qsv", "av1_amf"),
        ("mp4", "mov", "matroska", "webm"),
        bits_per_pixel=0.12,
        largest=(8704, 16384),
        memory_frames=900,
    ),
    "prores": Codec(
        "prores_ks",
        (),
        ("mov", "matroska"),
        pixels=_prores,
        bits_per_pixel=3.6,  # of the HQ profile; depends little on the picture
        full_range=False,
        segments="mov",
    ),
    "ffv1": Codec(
        "ffv1",
        (),
        ("mp4", "matroska"),
        pixels=_lossless_rgb,
        largest=(32768, 32768),
        even=False,
        rgb=True,
    ),
}
HOLDS = {
    container: tuple(name for name, codec in CODECS.items() if container in codec.containers)
    for container in CONTAINERS.values()
}
H264_CONTAINERS = {ending: name for ending, name in CONTAINERS.items() if "h264" in HOLDS[name]}
SOFTWARE = {name: codec.software for name, codec in CODECS.items()}
HARDWARE = {name: codec.hardware for name, codec in CODECS.items()}
OF_ENCODER = {
    encoder: name for name, codec in CODECS.items() for encoder in (codec.software, *codec.hardware)
}


def either(names: Iterable[str]) -> str:
    """Returns the names as in a sentence: "png, jpg or tif"."""
    *first, last = names
    return f"{', '.join(first)} or {last}"


def encoder_of(name: str) -> Encoder:
    """Returns the encoder of that name of libav's."""
    return ENCODERS.get(name) or ENCODERS[name.rpartition("_")[2]]


def options(encoder: str, crf: int | None, preset: str | None) -> dict[str, str]:
    """Returns the options that the encoder is opened with.

    Raises:
        UsageError: The encoder has no such quality or preset.
    """
    made = encoder_of(encoder)
    speed = _checked_preset(encoder, made, preset)
    return made.options(_checked_crf(encoder, made, crf), speed)


def h264_format(path: Path, *, crf: int = 17, preset: str = "medium") -> VideoFormat:
    """Returns 8-bit H.264 by x264 for a file of that name.

    Raises:
        StreamDiffVSRError: Its container does not hold H.264.
        UsageError: There is no such quality or preset.
    """
    container = H264_CONTAINERS.get(path.suffix.lower())
    if container is None:
        failure = f"could not write {str(path)!r}"
        why = f"no H.264 file is written with the ending {path.suffix!r}"
        raise StreamDiffVSRError(failure, why, f"use one of {', '.join(H264_CONTAINERS)}")
    chosen = options("libx264", crf, preset)
    return VideoFormat(container, "h264", "libx264", "yuv420p", chosen, deep=False)


def _checked_preset(encoder: str, made: Encoder, preset: str | None) -> str:
    if preset is None:
        return made.preset
    if preset not in made.presets:
        remedy = f"use one of {', '.join(made.presets)}" if made.presets else "leave it out"
        raise UsageError(f"{encoder} has no preset {preset!r}", "", remedy)
    return preset


def _checked_crf(encoder: str, made: Encoder, crf: int | None) -> str:
    if crf is None:
        return "" if made.crf is None else str(made.crf)
    if made.crf is None:
        raise UsageError(f"{encoder} has no CRF", "", "leave it out")
    if not 0 <= crf <= made.crf_limit:
        raise UsageError(f"CRF {crf} is out of range", "", f"{encoder} takes 0 to {made.crf_limit}")
    return str(crf)


_LIVE: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"},
    "h264_nvenc": {"preset": "p4", "tune": "ll", "zerolatency": "1", "delay": "0", "rc": "vbr"}
    | {"forced-idr": "1"},
    "h264_videotoolbox": {"realtime": "1"},
    "h264_qsv": {"preset": "veryfast", "async_depth": "1", "forced_idr": "1"},
    "h264_amf": {"usage": "lowlatency", "quality": "speed", "forced_idr": "1"},
}
_LIVE_BITS_PER_PIXEL, _LIVE_LEAST_BITS = 0.15, 500_000
_LIVE_LONGEST_GOP = "600"  # only a limit: key frames are requested by time


def live_options(name: str, size: tuple[int, int], rate: Fraction, crf: int) -> dict[str, str]:
    """Returns the options of a live encoder: low delay, frames in order, a bounded rate.

    Args:
        name: One of the H.264 encoders.
        size: (H, W) of a frame.
        rate: Frames per second, roughly.
        crf: Quality of x264; hardware encoders have only the rate.
    """
    bits = max(_LIVE_LEAST_BITS, round(_LIVE_BITS_PER_PIXEL * size[0] * size[1] * float(rate)))
    quality = {"crf": str(crf)} if name == SOFTWARE["h264"] else {"b": str(bits)}
    limits = {"g": _LIVE_LONGEST_GOP, "bf": "0", "maxrate": str(2 * bits), "bufsize": str(2 * bits)}
    return _LIVE[name] | quality | limits


def baseline(name: str) -> dict[str, str]:
    """Returns the options that make a live encoder keep to what every H.264 decoder decodes."""
    return {"profile": "constrained_baseline" if name == "h264_amf" else "baseline"}


def live_pixel_format(name: str) -> str:
    """Returns the 4:2:0 pixel format that a live encoder takes without conversion."""
    return "yuv420p" if name == SOFTWARE["h264"] else "nv12"
