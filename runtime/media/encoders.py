"""Codecs and containers, and the options of the encoders that serve them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ...errors import StreamDiffVSRError, UsageError

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
}
CODECS = ("h264", "h265", "av1", "prores", "ffv1")
IMAGES = ("png", "jpg", "webp", "tif")
HOLDS = {
    "mp4": ("h264", "h265", "av1", "ffv1"),
    "mov": ("h264", "h265", "av1", "prores"),
    "matroska": CODECS,
    "webm": ("av1",),
    "mpegts": ("h264", "h265"),
}
H264_CONTAINERS = {ending: name for ending, name in CONTAINERS.items() if "h264" in HOLDS[name]}
DEEP_IMAGES = ("png", "tif")
_LOSSY_QUALITY = 95  # of 100, for .jpg and .webp


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """How a video file is made.

    Attributes:
        container: libav's name of the muxer, such as ``matroska``.
        codec: One of CODECS.
        encoder: libav's name of the encoder, such as ``libx264``.
        pixel_format: What the encoder is given, such as ``yuv420p10le``.
        options: What the encoder is opened with.
        deep: Whether frames are to be written as uint16.
        note: What a user should know of this choice; "" if nothing.
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
        """The four letters the stream must be marked with for players, or ""."""
        return "hvc1" if self.codec == "h265" and self.container in ("mp4", "mov") else ""

    @property
    def tells_aspect(self) -> bool:
        """Whether pixels can be other than square: libav's Matroska leaves it to the codec."""
        return self.container not in ("matroska", "webm") or self.codec in ("h264", "h265")


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """How each frame becomes an image.

    Attributes:
        suffix: ".png", ".jpg", ".webp" or ".tif".
        deep: Whether frames are to be written as uint16.
        quality: Of .jpg and .webp, 1 to 100; the others lose nothing.
    """

    suffix: str
    deep: bool
    quality: int = _LOSSY_QUALITY


def is_image_folder(output: Path, images: str | None = None) -> bool:
    """Whether the output is a folder of images, not a file."""
    return images is not None or output.is_dir() or not output.suffix


SOFTWARE = {
    "h264": "libx264",
    "h265": "libx265",
    "av1": "libsvtav1",
    "prores": "prores_ks",
    "ffv1": "ffv1",
}
HARDWARE = {
    "h264": ("h264_nvenc", "h264_videotoolbox", "h264_qsv", "h264_amf"),
    "h265": ("hevc_nvenc", "hevc_videotoolbox", "hevc_qsv", "hevc_amf"),
    "av1": ("av1_nvenc", "av1_qsv", "av1_amf"),
}
OF_ENCODER = {name: codec for codec, name in SOFTWARE.items()} | {
    name: codec for codec, names in HARDWARE.items() for name in names
}
_THREADS = "16"  # never as many as the machine has cores: some encoders' results depend on it

_QUICK = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium")
_X26X_PRESETS = (*_QUICK, "slow", "slower", "veryslow", "placebo")
_PRORES_PROFILES = ("proxy", "lt", "standard", "hq", "4444", "4444xq")
_PRESETS = {
    "libx264": _X26X_PRESETS,
    "libx265": _X26X_PRESETS,
    "libsvtav1": [str(number) for number in range(14)],
    "nvenc": [f"p{number}" for number in range(1, 8)],
    "qsv": _X26X_PRESETS[2:9],
    "amf": ("speed", "balanced", "quality"),
    "prores_ks": _PRORES_PROFILES,
}
_CRF_LIMIT = {"libx264": 51, "libx265": 51, "libsvtav1": 63, "nvenc": 51, "qsv": 51, "amf": 51}
_CRF = {"libx264": 17, "libx265": 18, "libsvtav1": 24, "nvenc": 19, "qsv": 19, "amf": 19}
_PRESET = {"libx264": "medium", "libx265": "medium", "libsvtav1": "7", "nvenc": "p5"} | {
    "qsv": "slow",
    "amf": "quality",
    "prores_ks": "hq",
}


def options(encoder: str, *, crf: int | None, preset: str | None) -> dict[str, str]:
    """What the encoder is opened with.

    Raises:
        UsageError: It has no such quality or speed.
    """
    family = encoder if encoder in SOFTWARE.values() else encoder.rpartition("_")[2]
    speed = _checked_preset(encoder, family, preset)
    quality = _checked_crf(encoder, family, crf)
    if encoder == "libx264":
        return {"crf": quality, "preset": speed, "threads": _THREADS}
    if encoder == "libx265":
        # Workers and frames at once are counted by the machine's cores unless told.
        parameters = "pools=16:frame-threads=4:log-level=error"
        return {"crf": quality, "preset": speed, "x265-params": parameters}
    if encoder == "libsvtav1":
        return {"crf": quality, "preset": speed, "svtav1-params": "lp=5"}
    if encoder == "prores_ks":
        return {"profile": speed, "vendor": "apl0", "threads": _THREADS}
    if encoder == "ffv1":
        return {"level": "3", "g": "1", "slicecrc": "1", "threads": _THREADS}
    return _of_hardware(family, quality, speed)


def h264_format(path: Path, *, crf: int = 17, preset: str = "medium") -> VideoFormat:
    """Returns 8-bit H.264 by x264 for a file of that name.

    Raises:
        StreamDiffVSRError: Its container does not hold H.264.
        UsageError: There is no such quality or speed.
    """
    container = H264_CONTAINERS.get(path.suffix.lower())
    if container is None:
        failure = f"could not write {str(path)!r}"
        why = f"no H.264 file is written with the ending {path.suffix!r}"
        raise StreamDiffVSRError(failure, why, f"use one of {', '.join(H264_CONTAINERS)}")
    chosen = options("libx264", crf=crf, preset=preset)
    return VideoFormat(container, "h264", "libx264", "yuv420p", chosen, deep=False)


def prores_pixels(preset: str | None) -> str:
    """The layout a ProRes profile takes: 4:2:2, or 4:4:4 of the profiles named so."""
    return "yuv444p10le" if preset in ("4444", "4444xq") else "yuv422p10le"


def _of_hardware(family: str, quality: str, speed: str) -> dict[str, str]:
    if family == "nvenc":
        return {"preset": speed, "rc": "constqp", "qp": quality}
    if family == "qsv":
        return {"preset": speed, "global_quality": quality}
    if family == "amf":
        return {"quality": speed, "rc": "cqp", "qp_i": quality, "qp_p": quality}
    return {"flags": "+qscale", "global_quality": str(65 * 118)}  # videotoolbox: 65 of 100


def _checked_preset(encoder: str, family: str, preset: str | None) -> str:
    known = _PRESETS.get(family, ())
    if preset is None:
        return _PRESET.get(family, "")
    if preset not in known:
        remedy = f"use one of {', '.join(known)}" if known else "leave it out"
        raise UsageError(f"{encoder} has no preset {preset!r}", "", remedy)
    return preset


def _checked_crf(encoder: str, family: str, crf: int | None) -> str:
    limit = _CRF_LIMIT.get(family)
    if crf is None:
        return str(_CRF.get(family, ""))
    if limit is None:
        raise UsageError(f"{encoder} has no CRF", "", "leave it out")
    if not 0 <= crf <= limit:
        raise UsageError(f"CRF {crf} is out of range", "", f"{encoder} takes 0 to {limit}")
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
_LIVE_LONGEST_GOP = "600"  # key frames are asked for by time: this is only what holds without that


def live_options(name: str, size: tuple[int, int], rate: Fraction, crf: int) -> dict[str, str]:
    """Returns what a live encoder is opened with: low delay, frames in order, a bounded rate.

    Args:
        name: One of the encoders of H.264.
        size: (H, W).
        rate: Frames per second, roughly.
        crf: Quality of x264; hardware encoders have only the rate.
    """
    bits = max(_LIVE_LEAST_BITS, round(_LIVE_BITS_PER_PIXEL * size[0] * size[1] * float(rate)))
    quality = {"crf": str(crf)} if name == SOFTWARE["h264"] else {"b": str(bits)}
    limits = {"g": _LIVE_LONGEST_GOP, "bf": "0", "maxrate": str(2 * bits), "bufsize": str(2 * bits)}
    return _LIVE[name] | quality | limits


def live_pixel_format(name: str) -> str:
    """Returns the 4:2:0 layout that a live encoder takes as it is."""
    return "yuv420p" if name == SOFTWARE["h264"] else "nv12"
