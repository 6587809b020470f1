"""Reads a file with the commands ffprobe and ffmpeg, and without the code under test."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .pictures import Pixels

_LIMIT_S = 60
_SWS = "bicubic+accurate_rnd+full_chroma_int"
_SCALE = f"scale=flags={_SWS}"
_GREY = ("gray", "ya")
_LOSSY_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True)
class SoundSeen:
    """A stream of sound.

    Attributes:
        codec, language: As the file says.
        time_base: Seconds per tick.
        packets: (when it is due in seconds, bytes, digest) of each.
        end: When the last one ends, in seconds.
        tells_end: Whether the last packet says how long it is.
    """

    codec: str
    language: str
    time_base: Fraction
    packets: list[tuple[Fraction, int, str]]
    end: Fraction
    tells_end: bool = True


@dataclass(frozen=True)
class Seen:
    """The content of a file.

    Attributes:
        times: When each frame is shown, in seconds.
        time_base: Of the picture, seconds per tick.
        end: When the last frame ends, in seconds; None where nothing says so.
        length: Of the whole file, in seconds, as it claims.
        size: (h, w) as stored.
        aspect: Width : height of a pixel as stored; 1 where nothing is said.
        pixel_format: ffmpeg's name.
        matrix: The display matrix, of the stream or of the first frame; None if there is none.
        colour: (matrix, range, primaries, transfer) as ffprobe names them.
        title: Of the file.
        sounds: Those with packets, in order.
        codec: Of the picture.
        alpha: Whether transparency is stored next to the picture.
        chroma: Where samples of colour lie, such as "left"; "" where nothing is said.
        claimed_end: When the picture ends, as its track says; None where it does not.
    """

    times: list[Fraction]
    time_base: Fraction
    end: Fraction | None
    length: float | None
    size: tuple[int, int]
    aspect: Fraction
    pixel_format: str
    matrix: tuple[int, ...] | None
    colour: tuple[str, str, str, str]
    title: str
    sounds: list[SoundSeen]
    codec: str
    alpha: bool
    chroma: str = ""
    claimed_end: Fraction | None = None


def see(path: Path) -> Seen:
    """Read all of a file but its pixels."""
    told = _json(["ffprobe", "-show_streams", "-show_format"], path)
    streams = told["streams"]
    video = next(s for s in streams if s["codec_type"] == "video" and not _is_cover(s))
    entries = "frame=pts,best_effort_timestamp,pkt_duration,duration,side_data_list"
    entries += ",color_range,color_space,color_primaries,color_transfer"
    select = str(video["index"])
    command = ["ffprobe", "-select_streams", select, "-show_frames", "-show_entries", entries]
    frames = _json(command, path)["frames"]
    base = Fraction(video["time_base"])
    times = [int(f["best_effort_timestamp"]) * base for f in frames if "best_effort_timestamp" in f]
    last = frames[-1] if frames else {}
    duration = last.get("duration") or last.get("pkt_duration")
    start, ticks = int(video.get("start_pts", 0)), video.get("duration_ts")
    aspect = video.get("sample_aspect_ratio", "1:1").replace(":", "/")
    tags = {k.lower(): v for k, v in video.get("tags", {}).items()}
    return Seen(
        times=times,
        time_base=base,
        end=times[-1] + int(duration) * base if times and duration else None,
        length=float(told["format"]["duration"]) if "duration" in told["format"] else None,
        size=(video["height"], video["width"]),
        aspect=Fraction(1) if aspect in ("N/A", "0/1") else Fraction(aspect),
        pixel_format=video.get("pix_fmt", ""),
        matrix=_matrix([*video.get("side_data_list", []), *last.get("side_data_list", [])]),
        colour=_colour(frames[0] if frames else {}, video),
        title=told["format"].get("tags", {}).get("title", ""),
        sounds=_sounds(path, streams),
        codec=video.get("codec_name", ""),
        alpha=tags.get("alpha_mode") == "1",
        chroma=video.get("chroma_location", ""),
        claimed_end=None if ticks is None else (start + int(ticks)) * base,
    )


def _colour(frame: dict[str, Any], video: dict[str, Any]) -> tuple[str, str, str, str]:
    """The tags of a frame, which decoders hold to; those of its stream where it has none."""
    matrix, range_, primaries, transfer = (
        frame.get(f"color_{name}") or video.get(f"color_{name}") or "unknown"
        for name in ("space", "range", "primaries", "transfer")
    )
    return matrix, range_, primaries, transfer


def _is_cover(stream: dict[str, Any]) -> bool:
    return bool(stream.get("disposition", {}).get("attached_pic"))


def _matrix(side_data: Sequence[dict[str, Any]]) -> tuple[int, ...] | None:
    for entry in side_data:
        if "displaymatrix" in entry:
            lines = entry["displaymatrix"].strip().splitlines()
            numbers = [int(n) for line in lines for n in line.partition(":")[2].split()]
            return tuple(round(numbers[place] / 65536) for place in (0, 1, 3, 4))
    return None


def _sounds(path: Path, streams: Sequence[dict[str, Any]]) -> list[SoundSeen]:
    if not any(stream["codec_type"] == "audio" for stream in streams):
        return []
    entries = "packet=stream_index,pts,dts,duration,size,data_hash"
    command = ["ffprobe", "-select_streams", "a", "-show_packets", "-show_entries", entries]
    packets = _json([*command, "-show_data_hash", "md5"], path)["packets"]
    seen = []
    for stream in streams:
        own = [p for p in packets if p["stream_index"] == stream["index"]]
        if stream["codec_type"] == "audio" and own:
            seen.append(_sound(stream, own))
    return seen


def _sound(stream: dict[str, Any], packets: list[dict[str, Any]]) -> SoundSeen:
    base = Fraction(stream["time_base"])
    at: list[tuple[Fraction, int, str]] = []
    end, lasts = Fraction(0), 0
    for packet in packets:
        pts = packet.get("pts", packet.get("dts"))
        due = end if pts is None else int(pts) * base
        at.append((due, int(packet["size"]), packet["data_hash"]))
        lasts = int(packet.get("duration", lasts))  # the last one often does not say
        end = due + lasts * base
    language = stream.get("tags", {}).get("language", "")
    tells_end = "duration" in packets[-1]
    return SoundSeen(stream.get("codec_name", ""), language, base, at, end, tells_end)


def sound_bytes(path: Path, number: int) -> bytes:
    """All bytes of a stream of sound, without what AAC says before each packet in some files."""
    command = ["-i", _named(path), "-map", f"0:a:{number}", "-c", "copy", "-f", "data", "-"]
    data = _run(["ffmpeg", "-v", "error", *command])
    return b"".join(_without_adts(data)) if data[:1] == b"\xff" and data[1] & 0xF6 == 0xF0 else data


def _without_adts(data: bytes) -> list[bytes]:
    packets, place = [], 0
    while place + 7 <= len(data):
        length = (data[place + 3] & 3) << 11 | data[place + 4] << 3 | data[place + 5] >> 5
        packets.append(data[place + (7 if data[place + 1] & 1 else 9) : place + length])
        place += max(7, length)
    return packets


def whole_frames(path: Path, seen: Seen, fields: str) -> list[Pixels]:
    """Every frame without combs, made of the field that is shown first."""
    return _decoded(path, seen, "rgb24", np.dtype(np.uint8), 0, fields)


def pixels(path: Path, seen: Seen) -> list[Pixels]:
    """Every frame as (h, w, 3) RGB as it is stored, what is transparent on black."""
    form = seen.pixel_format
    if form.startswith(_GREY):
        return _grey(path, seen)
    if form.startswith(("gbr", "rgb48", "rgba64")) and form.removesuffix("le") != "gbrp":
        deep = _decoded(path, seen, "gbrap16le", np.dtype("<u2"), 4)
        return [_on_black(_swept(one)[..., [2, 0, 1, 3]], 65535) for one in deep]
    if _has_alpha(seen):
        whole = _decoded(path, seen, "rgba", np.dtype(np.uint8), 0)
        return [_on_black(one, 255) for one in whole]
    return _decoded(path, seen, "rgb24", np.dtype(np.uint8), 0)


def _has_alpha(seen: Seen) -> bool:
    form = seen.pixel_format
    return seen.alpha or any(
        name in form for name in ("yuva", "rgba", "bgra", "argb", "abgr", "pal8")
    )


def _swept(planes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    return planes.transpose(1, 2, 0)


def _grey(path: Path, seen: Seen) -> list[Pixels]:
    """Lightness by its own rule, as swscale takes all of it for full range."""
    alpha = seen.pixel_format.startswith("ya")
    found = []
    for one in _decoded(path, seen, "ya16le" if alpha else "gray16le", np.dtype("<u2"), 0):
        planes = one.reshape(*seen.size, 2 if alpha else 1).astype(np.float64)
        level = planes[..., 0] / 65535
        if seen.colour[1] == "tv":
            level = (level * 255 - 16) / 219
        level = level * (planes[..., 1] / 65535 if alpha else 1)
        level = np.clip(np.rint(level * 255), 0, 255).astype(np.uint8)
        found.append(np.dstack([level] * 3))
    return found


def _on_black(image: npt.NDArray[Any], top: int) -> Pixels:
    wide = image.astype(np.float64) / top
    return np.rint(wide[..., :3] * wide[..., 3:] * 255).astype(np.uint8)


def _decoded(
    path: Path, seen: Seen, form: str, kind: np.dtype[Any], planes: int, fields: str = ""
) -> list[npt.NDArray[Any]]:
    """Every frame in that pixel format: (planes, h, w), or (h, w, channels) where it has none."""
    height, width = seen.size
    decoder = (
        ["-c:v", _LOSSY_ALPHA[seen.codec]] if seen.alpha and seen.codec in _LOSSY_ALPHA else []
    )
    command = ["ffmpeg", "-v", "error", "-noautorotate", *decoder, "-i", _named(path)]
    command += ["-map", "0:v:0", "-vsync", "passthrough", "-vf", _filters(seen, fields)]
    data = np.frombuffer(_run([*command, "-pix_fmt", form, "-f", "rawvideo", "-"]), kind)
    channels = {"rgb24": 3, "rgba": 4, "ya16le": 2, "gray16le": 1}.get(form, planes)
    shape = (planes, height, width) if planes else (height, width, channels)
    return list(data.reshape(-1, *shape))


def _filters(seen: Seen, fields: str) -> str:
    """Conversion that minds where colours lie, which plain ffmpeg 5.1 does not by itself."""
    lines = 128 if "420" in seen.pixel_format or "nv12" in seen.pixel_format else 0
    places = {
        "left": f":in_h_chr_pos=0:in_v_chr_pos={lines}",
        "topleft": ":in_h_chr_pos=0:in_v_chr_pos=0",
    }
    parity = {"tff": "bwdif=0:0:0,", "bff": "bwdif=0:1:0,"}.get(fields, "")
    return parity + _SCALE + places.get(seen.chroma, "")


def copied_by_ffmpeg(source: Path, path: Path) -> bool:
    """Returns whether plain ffmpeg can copy all sounds of a file into another of that container."""
    command = ["ffmpeg", "-v", "error", "-y", "-i", _named(source), "-map", "0:a", "-c", "copy"]
    done = subprocess.run([*command, str(path)], capture_output=True, timeout=_LIMIT_S)
    return done.returncode == 0 and _kept_in(source) == _kept_in(path)


def _kept_in(path: Path) -> list[tuple[str, int]]:
    """The codec of each stream of sound, and how many packets it has."""
    streams = _json(["ffprobe", "-show_streams"], path)["streams"]
    return [(sound.codec, len(sound.packets)) for sound in _sounds(path, streams)]


def _named(path: Path) -> str:
    return f"file:{path}"


def _json(command: list[str], path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        _run([command[0], "-v", "error", *command[1:], "-of", "json", _named(path)])
    )
    return told


def _run(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-300:]}")
    return done.stdout
