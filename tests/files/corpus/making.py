"""A recipe made a file. Nothing here uses the code under test."""

from __future__ import annotations

import heapq
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.filter import Graph

from .containers import CONTAINERS
from .limits import claimed_rate, is_intra
from .pictures import LAST_NUMBER, Matrix, Pixels, picture, stored, woven
from .recipes import Recipe
from .sounds import add_sound, sound_packets
from .stills import write_still
from .times import Timing

_LIMITED = 1
_PLAIN = ("mkv", "mov", "mp4", "avi")  # hold plain samples next to any picture
SKIPPED_FRAMES = 3  # by an edit list: as many as it cuts off the beginning
_SEI = {  # matrix -> turned anticlockwise by, and mirrored before that
    (-1, 0, 0, 1): (0, "horizontal"),
    (-1, 0, 0, -1): (180, ""),
    (1, 0, 0, -1): (0, "vertical"),
    (0, 1, 1, 0): (90, "horizontal"),
    (0, 1, -1, 0): (270, ""),
    (0, -1, -1, 0): (90, "vertical"),
    (0, -1, 1, 0): (90, ""),
}
_LONG_SOUND_S = Fraction(6)
_THREADS = 1  # with more, swscale writes other pixels now and then into rows of no multiple of 16


def make_apart(made: Recipe, folder: Path) -> Path:
    """Does what :func:`make` does, in a process of its own, as an encoder may crash.

    Raises:
        BrokenProcessPool: It has.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(make, made, folder).result()


def make(made: Recipe, folder: Path) -> Path:
    """Write the file of a recipe into a folder; its path."""
    av.logging.set_level(av.logging.PANIC)
    if made.still:
        return write_still(made, folder)
    path = folder / f"{made.number}.{made.suffix}"
    by_ffmpeg = any(name[0] == "+" for name in (made.encoder, *(s.codec for s in made.sounds)))
    if by_ffmpeg:
        suffix = made.suffix if made.suffix in _PLAIN and made.encoder[0] != "+" else "nut"
        plain = tuple(replace(sound, codec="pcm_s16le") for sound in made.sounds)
        first = folder / f"plain_{made.number}.{suffix}"
        _write(replace(made, suffix=suffix, variant="", sounds=plain), first)
        _by_ffmpeg(made, first, path)
        first.unlink()
    else:
        _write(made, path)
    if made.told_in == "tkhd":
        _set_matrix(path, made.matrix)
    if made.variant == "priming" and made.sounds:
        _set_media_time(path, track=1, ticks=1500)
    if made.variant == "edit list":
        _skip_frames(path, made.timing, SKIPPED_FRAMES)
    return path


def _write(made: Recipe, path: Path) -> None:
    container_options = {}
    if made.variant == "fragments":
        container_options["movflags"] = "frag_keyframe"
    with av.open(
        str(path),
        "w",
        format=CONTAINERS[made.suffix].muxer,
        container_options=container_options,
    ) as output:
        output.metadata["title"] = made.title
        video = _add_video(output, made)
        sounds = [add_sound(output, s.codec, s.rate, s.channels) for s in made.sounds]
        for number, stream in enumerate(sounds):
            stream.metadata["language"] = ("eng", "deu")[number % 2]
        packets = [_timed(made, video)]
        begin, length = made.timing.seconds[0], made.timing.end - made.timing.seconds[0]
        for number, (sound, stream) in enumerate(zip(made.sounds, sounds, strict=True)):
            if not sound.empty:
                seconds = min(length, _LONG_SOUND_S)
                start = begin + sound.start
                sounds_of = sound_packets(stream, start, seconds, made.number * 10 + number)
                packets.append(_not_below_zero(sounds_of) if made.suffix == "avi" else sounds_of)
        for packet in heapq.merge(*packets, key=_decoded_at):
            output.mux(packet)


def _not_below_zero(packets: Iterator[Any]) -> Iterator[Any]:
    """Moves packets to time zero at the earliest: an encoder's lead-in would move AVI's picture."""
    lowest = 0
    for packet in packets:
        packet.pts = packet.dts = lowest = max(lowest, packet.pts)
        yield packet


def _decoded_at(packet: Any) -> Fraction:
    return Fraction(packet.dts) * packet.time_base


def _add_video(output: Any, made: Recipe) -> Any:
    encoder = "rawvideo" if made.encoder[0] == "+" else made.encoder
    rate = claimed_rate(encoder, made.timing.rate)
    stream = output.add_stream(encoder, rate=rate, options=_options(made))
    height, width = stored(picture(0, *made.size), made.matrix).shape[:2]
    stream.width, stream.height = width, height
    stream.pix_fmt = made.pixels
    context = stream.codec_context
    context.time_base = 1 / rate
    if encoder == "vc2":
        context.bit_rate = 8_000_000
    steady = CONTAINERS[made.suffix].times != "any"
    stream.time_base = 1 / made.timing.rate if steady else made.timing.time_base
    if made.aspect:
        context.sample_aspect_ratio = made.aspect
    if made.colour:
        context.colorspace, context.color_range = made.colour[:2]
        context.color_primaries, context.color_trc = made.colour[2:]
    return stream


def _options(made: Recipe) -> dict[str, str]:
    options = {"bf": str(made.reorder)} if made.reorder else {}
    if made.encoder in ("libx264", "libx265", "libx264rgb"):
        options["preset"] = "ultrafast"
    if made.encoder == "libx264":
        options |= {"bf": str(made.reorder), "g": "8"}
        if made.fields:
            options["x264-params"] = f"{made.fields}=1:weightp=0:log=-1"
    elif made.encoder == "libx265":
        options["x265-params"] = f"bframes={made.reorder}:keyint=8:log-level=0"
    elif made.encoder.startswith("libvpx"):
        options |= {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
    elif made.encoder == "libsvtav1":
        options |= {"preset": "12", "crf": "8", "svtav1-params": "enable-tf=0"}
    elif made.encoder == "dnxhd":
        options["profile"] = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx"}.get(
            made.pixels, "dnxhr_444"
        )
    if made.fields:
        if made.fields_in == "container":
            options["field_order"] = {"tff": "tt", "bff": "bb"}[made.fields]
        else:
            options["flags"] = "+ildct+ilme" if made.encoder == "mpeg2video" else "+ildct"
    if made.encoder in ("jpeg2000", "snow", "vc2", "libvpx-vp9"):
        options["strict"] = "experimental"
    return options


def _frames(made: Recipe, stream: Any) -> Iterator[Any]:
    """The pictures as the encoder is given them: number k at tick k."""
    height, width = made.size
    mark = _marker(made, stream) if made.fields_in == "frame" else None
    matrix, colour_range = (made.colour[0], made.colour[1]) if made.colour else (6, _LIMITED)
    for number in range(len(made.timing.pts)):
        if made.fields:
            pixels: Pixels = woven(2 * number % LAST_NUMBER, height, width, made.fields)
        else:
            pixels = picture(number, height, width)
        pixels = stored(pixels, made.matrix).copy()
        rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if made.pixels == "pal8":
            frame = av.VideoFrame.from_ndarray(_with_palette(pixels), format="pal8")
        elif made.colour or made.pixels.startswith("yuvj"):
            frame = rgb.reformat(
                format=made.pixels,
                dst_colorspace={1: 1, 9: 9}.get(matrix, 5),
                dst_color_range=2 if made.pixels.startswith("yuvj") else colour_range,
                threads=_THREADS,
            )
        else:
            frame = rgb.reformat(format=made.pixels, threads=_THREADS)
        if made.colour:
            frame.colorspace, frame.color_range = made.colour[:2]
            frame.color_primaries, frame.color_trc = made.colour[2:]
        frame.pts, frame.time_base = number, stream.codec_context.time_base
        yield mark(frame) if mark else frame


def _with_palette(pixels: Pixels) -> tuple[Any, Any]:
    """The number of each pixel's colour, and the 256 colours as libav has them."""
    colours, numbers = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(colours), 0] = 255
    palette[: len(colours), 1:] = colours
    return numbers.reshape(pixels.shape[:2]).astype(np.uint8), palette


def _marker(made: Recipe, stream: Any) -> Any:
    """Returns a filter that marks which field of a frame comes first."""
    graph, (height, width) = Graph(), made.size
    source = graph.add_buffer(
        width=width, height=height, format=made.pixels, time_base=stream.codec_context.time_base
    )
    graph.link_nodes(source, graph.add("setfield", made.fields), graph.add("buffersink"))
    graph.configure()

    def marked(frame: Any) -> Any:
        graph.push(frame)
        return graph.pull()

    return marked


def _timed(made: Recipe, stream: Any) -> Iterator[Any]:
    """Packets with the times of the recipe: the one of picture k is shown when that is due."""
    timing, packets = made.timing, _encoded(made, stream)
    pts = [*timing.pts, timing.pts[-1] + timing.last_duration]
    step = max(1, timing.last_duration)
    due = [timing.pts[0] - step * back for back in range(made.reorder, 0, -1)] + list(timing.pts)
    steady = CONTAINERS[made.suffix].times != "any"
    for place, packet in enumerate(packets):
        number = packet.pts if packet.pts is not None else place
        packet.time_base = timing.time_base
        packet.pts, packet.dts = pts[number], due[place]
        if timing.kind == "repeats":
            packet.dts = packet.pts
        packet.duration = step if steady else pts[number + 1] - pts[number]
        yield packet


def _encoded(made: Recipe, stream: Any) -> Iterator[Any]:
    packets = chain.from_iterable(stream.encode(f) for f in chain(_frames(made, stream), [None]))
    if made.told_in != "sei":
        yield from packets
        return
    turned, mirrored = _SEI[made.matrix]
    told = f"h264_metadata=display_orientation=insert:rotate={turned}"
    bitstream = BitStreamFilterContext(told + (f":flip={mirrored}" if mirrored else ""), stream)
    for packet in packets:
        yield from bitstream.filter(packet)


def _by_ffmpeg(made: Recipe, first: Path, path: Path) -> None:
    """Again, with those encoders that only ffmpeg's own build has."""
    command = ["ffmpeg", "-v", "error", "-y", "-copyts", "-i", str(first), "-map", "0"]
    command += ["-vsync", "passthrough", "-enc_time_base", "-1", "-strict", "experimental"]
    command += ["-c:v", made.encoder[1:] if made.encoder[0] == "+" else "copy"]
    command += ["-aspect", _display_aspect(made)] if made.aspect and made.encoder[0] == "+" else []
    command += ["-q:v", "8"] if made.encoder == "+libtheora" else []  # else it leaves frames out
    for number, sound in enumerate(made.sounds):
        command += [f"-c:a:{number}", sound.codec.removeprefix("+")]
    if made.suffix == "mkv" or is_intra(made.encoder):
        command += ["-avoid_negative_ts", "disabled"]
    muxer = CONTAINERS[made.suffix].muxer
    subprocess.run([*command, "-f", muxer, str(path)], check=True, capture_output=True, text=True)


def _display_aspect(made: Recipe) -> str:
    height, width = made.size
    shape = Fraction(width, height) * (made.aspect or 1)
    return f"{shape.numerator}:{shape.denominator}"


def _set_matrix(path: Path, matrix: Matrix) -> None:
    """Say of the first track how its pictures must be turned."""
    data = bytearray(path.read_bytes())
    box = _box(data, b"tkhd", 0)
    place = box + (56 if data[box + 4] else 44)
    width, height = struct.unpack_from(">II", data, place + 36)
    a, b, c, d = matrix
    # What is turned to the left of, or above, the origin is moved back.
    x = (width if a < 0 else 0) + (height if c < 0 else 0)
    y = (width if b < 0 else 0) + (height if d < 0 else 0)
    one = 1 << 16
    values = (a * one, b * one, 0, c * one, d * one, 0, x, y, 1 << 30)
    struct.pack_into(">9i", data, place, *values)
    path.write_bytes(data)


def _set_media_time(path: Path, track: int, ticks: int) -> None:
    """Let a track begin that many of its ticks behind its first packet."""
    data = bytearray(path.read_bytes())
    entry, wide = _last_edit(data, track)
    struct.pack_into(">q" if wide else ">i", data, entry + (8 if wide else 4), ticks)
    path.write_bytes(data)


def _skip_frames(path: Path, timing: Timing, count: int) -> None:
    """Cut the first pictures off by the edit list of the first track."""
    data = bytearray(path.read_bytes())
    entry, wide = _last_edit(data, 0)
    clock = _box(data, b"mdhd", 0)
    (ticks_a_second,) = struct.unpack_from(">I", data, clock + (24 if data[clock + 4] else 16))
    film = _box(data, b"mvhd", 0)
    (film_ticks,) = struct.unpack_from(">I", data, film + (24 if data[film + 4] else 16))
    seconds = timing.seconds[count] - timing.seconds[0]
    duration, media_time = struct.unpack_from(">qq" if wide else ">Ii", data, entry)
    media_time += round(seconds * ticks_a_second)
    duration -= round(seconds * film_ticks)
    struct.pack_into(">qq" if wide else ">Ii", data, entry, duration, media_time)
    path.write_bytes(data)


def _box(data: bytearray, name: bytes, number: int) -> int:
    """Returns the offset of the name of the n-th box of that kind, from 0."""
    place = data.rindex(b"moov")  # behind it there is no picture
    for _ in range(number + 1):
        place = data.index(name, place + 4)
    return place


def _last_edit(data: bytearray, track: int) -> tuple[int, bool]:
    """Returns the offset of a track's last edit list entry, and whether its numbers are wide."""
    box = _box(data, b"elst", track)
    wide = bool(data[box + 4])
    (count,) = struct.unpack_from(">I", data, box + 8)
    return box + 12 + (count - 1) * (20 if wide else 12), wide
