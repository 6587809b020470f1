"""Test clips, made with PyAV, and what a player would see in a file, read with plain PyAV.

Nothing here uses the code under test, so that both ends of a test do not share one mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

NTSC = Fraction(1, 30000)
VFR = [0, 1001, 2002, 5005, 5506, 9009, 9010, 15000, 21000, 21500, 30000, 31001]


def moving(index: int, height: int, width: int) -> np.ndarray:
    """(h, w, 3) uint8: a bright bar that moves with the index, on a gradient."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = np.linspace(0, 200, width, dtype=np.uint8)
    image[:, (index * 7) % width :][:, :8] = 255
    return image


@dataclass
class Clip:
    """The settings of a clip; the defaults make a plain H.264 file without sound."""

    size: tuple[int, int] = (48, 64)
    pts: Sequence[int | None] = field(default_factory=lambda: [i * 1001 for i in range(12)])
    last_duration: int = 1001
    time_base: Fraction = NTSC
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "bf": "2"})
    sounds: Sequence[tuple[str, int]] = ()  # (codec, sample rate) of each stream
    colour: tuple[int, int, int, int] | None = None  # matrix, range, primaries, transfer
    sample_aspect: Fraction | None = None
    field_order: int = 0  # libav's number of what the container is told
    rotation: int = 0
    matrix: Sequence[int] = ()  # of the display, as MP4 has it
    title: str = ""
    container: str | None = None
    container_options: dict[str, str] = field(default_factory=dict)
    image: Callable[[int, int, int], np.ndarray] = moving  # RGB, or the planes of pix_fmt

    def write(self, path: Path) -> Path:
        """Make the file."""
        with av.open(
            str(path), "w", format=self.container, container_options=self.container_options
        ) as output:
            if self.title:
                output.metadata["title"] = self.title
            video = self._add_video(output)
            sounds = [_add_sound(output, codec, rate) for codec, rate in self.sounds]
            self._write_video(output, video)
            seconds = float(((self.pts[-1] or 0) + self.last_duration) * self.time_base)
            for stream in sounds:
                _write_sound(output, stream, seconds)
        return path

    def _add_video(self, output: Any) -> Any:
        height, width = self.size
        video = output.add_stream(self.codec, rate=30, options=self.options)
        video.width, video.height, video.pix_fmt = width, height, self.pix_fmt
        video.time_base = video.codec_context.time_base = self.time_base
        if self.rotation:
            video.set_display_rotation(self.rotation)
        if self.matrix:
            video.set_display_matrix(self.matrix)
        context = video.codec_context
        if self.field_order:
            context.field_order = self.field_order
        if self.sample_aspect:
            context.sample_aspect_ratio = self.sample_aspect
        if self.colour:
            context.colorspace, context.color_range = self.colour[:2]
            context.color_primaries, context.color_trc = self.colour[2:]
        return video

    def _write_video(self, output: Any, video: Any) -> None:
        height, width = self.size
        for index, pts in enumerate(self.pts):
            image = self.image(index, height, width)
            planes = "rgb24" if image.ndim == 3 else self.pix_fmt
            frame = av.VideoFrame.from_ndarray(image, format=planes)
            if planes != self.pix_fmt:
                frame = frame.reformat(format=self.pix_fmt)
            if self.colour:
                frame.colorspace, frame.color_range = self.colour[:2]
            frame.pts, frame.time_base = pts, self.time_base
            _mux(output, video.encode(frame), self.last_duration)
        _mux(output, video.encode(None), self.last_duration)


def _mux(output: Any, packets: Any, duration: int) -> None:
    for packet in packets:
        packet.duration = duration
        output.mux(packet)


def _add_sound(output: Any, codec: str, rate: int) -> Any:
    stream = output.add_stream(codec, rate=rate)
    stream.layout = "stereo"
    return stream


def _write_sound(output: Any, stream: Any, seconds: float) -> None:
    count = 1024
    wave = (np.sin(np.arange(2 * count).reshape(2, count) / 20) * 0.3).astype(np.float32)
    planar = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
    planar.sample_rate = stream.rate
    convert = av.AudioResampler(format=stream.format.name, layout="stereo", rate=stream.rate)
    for index in range(int(seconds * stream.rate) // count + 1):
        planar.pts, planar.time_base = index * count, Fraction(1, stream.rate)
        for frame in convert.resample(planar):
            output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def sound_only(path: Path) -> Path:
    """A file with an AAC stream and nothing else."""
    with av.open(str(path), "w") as output:
        _write_sound(output, _add_sound(output, "aac", 48000), 0.5)
    return path


def with_cover(source: Path, path: Path) -> Path:
    """The streams of a file behind a cover picture, which is a video stream to libav."""
    with av.open(str(source)) as original, av.open(str(path), "w") as output:
        cover = output.add_stream("mjpeg", rate=1, width=32, height=32, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        copies = [output.add_stream_from_template(stream) for stream in original.streams]
        for packet in (*cover.encode(av.VideoFrame(32, 32, "yuvj420p")), *cover.encode(None)):
            output.mux(packet)
        for packet in original.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    return path


def write_image(
    path: Path,
    pixels: np.ndarray,
    codec: str = "png",
    pix_fmt: str = "rgb24",
    options: dict[str, str] | None = None,
) -> Path:
    """One image file of pixels in that format."""
    context: Any = av.CodecContext.create(codec, "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt, context.time_base, context.options = pix_fmt, Fraction(1, 24), options or {}
    frame = av.VideoFrame.from_ndarray(pixels, format=pix_fmt)
    path.write_bytes(b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)]))
    return path


@dataclass(frozen=True)
class Seen:
    """The content of a file.

    Attributes:
        times: Of each decoded frame, in exact seconds.
        last_duration: Of the last frame, in exact seconds.
        length: What a player shows as the length of the file, in seconds.
        images: Decoded frames as libav gives them, unconverted.
        sounds: For each audio stream, (seconds, bytes) of each packet.
    """

    times: list[Fraction]
    last_duration: Fraction
    length: float
    images: list[Any]
    sounds: list[list[tuple[Fraction, bytes]]]


def see(path: Path) -> Seen:
    """Read a file with plain PyAV."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        base = stream.time_base
        length = container.duration / 1_000_000
        sounds: list[list[tuple[Fraction, bytes]]] = [[] for _ in container.streams.audio]
    with av.open(str(path)) as container:
        numbers = {stream.index: n for n, stream in enumerate(container.streams.audio)}
        for packet in container.demux(container.streams.audio) if sounds else ():
            if packet.size:
                time = packet.pts * packet.time_base
                sounds[numbers[packet.stream_index]].append((time, bytes(packet)))
    times = [frame.pts * base for frame in frames]
    return Seen(times, frames[-1].duration * base, length, frames, sounds)
