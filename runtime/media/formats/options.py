"""What each encoder of files is called and opened with: quality, speed, and a fixed thread count.

Data only; what works on this machine is found by ``encoder_trial``. It knows no containers.
"""

from __future__ import annotations

from ....errors import UsageError

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
