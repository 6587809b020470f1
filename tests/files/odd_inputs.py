"""Inputs that people really have, and that break programs: each is written by one function.

Sound files of every kind that a decoder can make sense of, files that are damaged, and files that
are no video at all. Each says what must come of it: "file", "error", or "either" where both are
right answers. Nothing here uses the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from streamdiffvsr.tests.media.clips import VFR, Clip, moving, sound_only, with_cover
from streamdiffvsr.tests.media.clips import write_image as image_file

Outcome = Literal["file", "error", "either"]
PTS = [k * 1001 for k in range(24)]
PLAIN = Clip(pts=PTS, options={"preset": "ultrafast", "bf": "2", "g": "8"})
FFV1 = replace(PLAIN, codec="ffv1", options={})
X265 = replace(
    PLAIN, codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=0"}
)
FIELDS = {"bf": "0", "x264-params": "interlaced=1:weightp=0:log=-1"}


@dataclass(frozen=True)
class Odd:
    """A function that writes an input into a folder, and the outcome that it must have."""

    make: Callable[[Path], Path]
    outcome: Outcome


INPUTS: dict[str, Odd] = {}


def odd(outcome: Outcome) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    """Enter the function into the list under its name."""

    def entered(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        INPUTS[make.__name__] = Odd(make, outcome)
        return make

    return entered


def clip(name: str, outcome: Outcome, made: Clip) -> None:
    """Enter a clip that needs nothing but its settings."""
    stem = name.replace(".", "_")
    INPUTS[stem] = Odd(lambda folder: made.write(folder / name), outcome)


clip("vfr.mp4", "file", replace(PLAIN, pts=VFR))
clip("vfr.mkv", "file", replace(PLAIN, pts=VFR))
clip("gap_of_ten_hours.mkv", "file", replace(PLAIN, pts=[0, 1001, 30000 * 36000, 30000 * 36001]))
clip("late_start.mp4", "file", replace(PLAIN, pts=[pts + 90000 for pts in PTS]))
clip("one_frame.mp4", "file", replace(PLAIN, pts=[0]))
clip("odd_size.mkv", "file", replace(FFV1, size=(35, 53), pix_fmt="yuv444p"))
clip("one_pixel.mkv", "either", replace(FFV1, size=(1, 1), pix_fmt="yuv444p"))
clip("one_line.mkv", "either", replace(FFV1, size=(1, 64), pix_fmt="yuv444p"))
clip("too_wide.mkv", "error", replace(FFV1, size=(16, 20000), pts=[0]))
clip("rotated.mp4", "file", replace(PLAIN, rotation=90))
clip("askew.mp4", "file", replace(PLAIN, rotation=37))
clip("anamorphic.mp4", "file", replace(PLAIN, sample_aspect=Fraction(64, 45)))
clip("ten_bits.mp4", "file", replace(PLAIN, pix_fmt="yuv420p10le"))
clip("twelve_bits.mkv", "file", replace(FFV1, pix_fmt="yuv422p12le"))
clip("rgb_of_ten_bits.mkv", "file", replace(FFV1, pix_fmt="gbrp10le"))
clip("hdr.mkv", "file", replace(FFV1, pix_fmt="yuv420p10le", colour=(9, 1, 9, 16)))
clip("grey.mkv", "file", replace(FFV1, pix_fmt="gray"))
clip("interlaced.mkv", "file", replace(PLAIN, options=FIELDS))
clip("interlaced.ts", "file", replace(PLAIN, options=FIELDS))
clip("palette.gif", "file", replace(FFV1, codec="gif", pix_fmt="rgb8", time_base=Fraction(1, 100)))
clip("motion_jpeg.avi", "file", replace(FFV1, codec="mjpeg", pix_fmt="yuvj420p"))
clip("raw.h264", "file", PLAIN)
clip("raw.hevc", "file", X265)
clip("flash.flv", "file", replace(PLAIN, time_base=Fraction(1, 1000), pts=list(range(0, 960, 40))))
clip("with_sound.ts", "file", replace(PLAIN, sounds=[("aac", 48000), ("mp2", 44100)]))
clip("fragments.mp4", "file", replace(PLAIN, container_options={"movflags": "frag_keyframe"}))


@odd("file")
def transparent_mov(folder: Path) -> Path:
    return transparent(folder / "alpha.mov", "qtrle", "argb")


@odd("file")
def transparent_webm(folder: Path) -> Path:
    return transparent(folder / "alpha.webm", "libvpx-vp9", "yuva420p")


def transparent(path: Path, codec: str, pix_fmt: str) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.metadata["alpha_mode"] = "1"
        for index in range(8):
            pixels = np.dstack([moving(index, 48, 64), np.full((48, 64), 99, np.uint8)])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@odd("error")
def sound_alone(folder: Path) -> Path:
    return sound_only(folder / "song.m4a")


@odd("error")
def song_with_a_cover(folder: Path) -> Path:
    return with_cover(sound_only(folder / "plain.mp4"), folder / "song.mp4")


@odd("file")
def film_with_a_cover(folder: Path) -> Path:
    return with_cover(PLAIN.write(folder / "plain.mp4"), folder / "film.mp4")


@odd("file")
def two_pictures(folder: Path) -> Path:
    first = replace(PLAIN, sounds=[("aac", 48000)]).write(folder / "1.mkv")
    second = replace(PLAIN, size=(32, 32)).write(folder / "2.mkv")
    return remuxed([first, second], folder / "two.mkv")


@odd("file")
def data_beside_the_picture(folder: Path) -> Path:
    path = folder / "data.ts"
    with av.open(str(PLAIN.write(folder / "plain.ts"))) as source, av.open(str(path), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        data = out.add_data_stream("klv")
        for packet in source.demux(video=0):
            if packet.dts is None:
                continue
            told = av.Packet(b"\x06\x0e\x2b\x34" + bytes(28))
            told.stream, told.time_base, told.pts = data, packet.time_base, packet.dts
            told.dts = packet.dts
            packet.stream = copy
            out.mux([packet, told])
    return path


@odd("file")
def named_as_something_else(folder: Path) -> Path:
    return PLAIN.write(folder / "clip.mp4").rename(folder / "clip.avi")


@odd("file")
def without_an_ending(folder: Path) -> Path:
    return PLAIN.write(folder / "clip.mkv").rename(folder / "clip")


@odd("file")
def named_like_a_protocol(folder: Path) -> Path:
    return PLAIN.write(folder / "clip.mkv").rename(folder / "concat:clip -y %04d.mkv")


def remuxed(sources: list[Path], path: Path) -> Path:
    """The streams of several files in one."""
    with av.open(str(path), "w") as output:
        opened = [av.open(str(source)) for source in sources]
        copies: list[list[Any]] = [
            [output.add_stream_from_template(stream) for stream in container.streams]
            for container in opened
        ]
        for container, streams in zip(opened, copies, strict=True):
            for packet in container.demux():
                if packet.size:
                    packet.stream = streams[packet.stream_index]
                    output.mux(packet)
            container.close()
    return path


@odd("file")
def folder_of_images(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir()
    for index in range(12):
        image_file(images / f"{index}.png", moving(index, 48, 64))
    return images


@odd("error")
def folder_with_a_broken_image(folder: Path) -> Path:
    images = folder_of_images(folder)
    (images / "7.png").write_bytes((images / "7.png").read_bytes()[:100])
    return images


@odd("error")
def folder_of_two_sizes(folder: Path) -> Path:
    images = folder_of_images(folder)
    image_file(images / "12.png", moving(0, 32, 32))
    return images


@odd("error")
def empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"
