"""The encoders of files, live outputs and the preview: their frames, opening, and packet times."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from ...graphs.arrays import Image
from ..processes import messages
from .colour import FULL, RGB, Colour

_QUALITY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_PLANAR_BITS = {"gbrp10le": 10, "gbrp12le": 12, "gbrp16le": 16}


class RgbFrame:
    """The frame that every message of pixels is read into.

    Args:
        size: (H, W) of the frame.
        deep: Whether pixels are uint16 [0, 65535] in native byte order, not uint8.
    """

    def __init__(self, size: tuple[int, int], *, deep: bool = False) -> None:
        height, width = size
        self._row_bytes = (6 if deep else 3) * width
        self._frame = VideoFrame(width, height, native("rgb48") if deep else "rgb24")
        self._deep = deep
        self._padded = self._frame.planes[0].line_size != self._row_bytes
        self._squeezed = VideoFrame(width, height, self._frame.format.name) if deep else None
        self._reformatter = VideoReformatter()

    @property
    def video_frame(self) -> VideoFrame:
        """The RGB frame itself, for an encoder that takes RGB."""
        return self._frame

    def memory(self, count: int) -> memoryview:
        """Returns the buffer that the payload of a message is read into."""
        if self._padded or count == 0:
            return memoryview(bytearray(count))
        return memoryview(self._frame.planes[0])

    def take(self, pixels: memoryview) -> None:
        """Fills the frame from the buffer of :meth:`memory`."""
        if not self._padded:
            return
        rows, step = memoryview(self._frame.planes[0]), self._frame.planes[0].line_size
        for row in range(self._frame.height):
            source = pixels[row * self._row_bytes : (row + 1) * self._row_bytes]
            rows[row * step : row * step + self._row_bytes] = source

    def put(self, image: Image) -> None:
        """Fills the frame from an array, (H, W, 3) uint8 RGB."""
        rows = np.frombuffer(memoryview(self._frame.planes[0]), np.uint8)
        rows = rows.reshape(self._frame.height, -1)
        rows[:, : self._row_bytes] = image.reshape(self._frame.height, -1)

    def converted(
        self,
        pixel_format: str,
        swscale_matrix: int,
        colour_range: int,
        *,
        size: tuple[int, int] | None = None,
    ) -> Any:
        """Returns a new frame, in a YUV format of that matrix and range or in an RGB format.

        Args:
            size: (H, W) to resize to; None keeps the size.
        """
        if pixel_format in _PLANAR_BITS and self._deep:
            return self._planar(pixel_format)
        return self._reformatter.reformat(
            self._frame if self._squeezed is None else self._squeeze(self._squeezed),
            width=size and size[1],
            height=size and size[0],
            format=pixel_format,
            src_color_range=FULL,
            dst_colorspace=swscale_matrix,
            dst_color_range=colour_range,
            interpolation=_QUALITY,
        )

    def _squeeze(self, made: VideoFrame) -> VideoFrame:
        """Returns the frame with white at 255 * 256, as swscale assumes."""
        source, target = (
            np.frombuffer(memoryview(frame.planes[0]), np.uint16) for frame in (self._frame, made)
        )
        np.right_shift(source, 8, out=target)
        np.subtract(source, target, out=target)
        return made

    def _planar(self, pixel_format: str) -> VideoFrame:
        """Returns a planar frame, rounded to the nearest value: swscale would truncate."""
        largest = (1 << _PLANAR_BITS[pixel_format]) - 1
        rgb = self._frame.to_ndarray().astype(np.uint32)
        parts = ((rgb * largest + 32767) // 65535).astype("<u2")
        made = VideoFrame(self._frame.width, self._frame.height, pixel_format)
        for plane, channel in zip(made.planes, (1, 2, 0), strict=True):
            rows = np.frombuffer(memoryview(plane), "<u2").reshape(
                plane.height, plane.line_size // 2
            )
            rows[:, : plane.width] = parts[..., channel]
        return made


def native(name: str) -> str:
    """Returns libav's name of a 16-bit pixel format in native byte order."""
    return name + ("le" if np.little_endian else "be")


class DecodingTimes:
    """Computes the decoding times of packets, in decoding order.

    The k-th packet is decoded when the (k - r)-th frame is shown, where r is the number of frames a
    decoder holds back to show them in order; the first r are a step apart before the first frame.
    So decoding times always advance, and a constant rate stays constant.

    Args:
        first: When the first frame is shown, in ticks.
        reorder: r, or any larger number.
        step: Ticks between the first r packets.
    """

    def __init__(self, first: int, reorder: int, step: int) -> None:
        self._first, self._reorder, self._step = first, reorder, step
        self._shown: list[int] = []  # pts not used as a decoding time yet
        self._count = 0

    def of(self, pts: int) -> int:
        """Returns the decoding time of the next packet, whose frame is shown at ``pts``."""
        heapq.heappush(self._shown, pts)
        self._count += 1
        if self._count <= self._reorder:
            return self._first - (self._reorder - self._count + 1) * self._step
        return heapq.heappop(self._shown)


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """The settings that an encoder is opened with.

    Attributes:
        encoder: libav's name of the encoder, such as ``libx264``.
        size: (H, W) of the encoded picture.
        pixel_format: The format that frames are converted to, such as ``yuv420p10le``.
        colour: The matrix and range that frames are converted to, and the tags of the stream.
        time_base: Seconds per tick.
        rate: Frames per second, only a hint for rate control and level: times decide.
        options: The options that the encoder is opened with.
        tag: The four-character code of the stream, or "" for libav's own choice.
        sample_aspect: Width : height of a pixel; None leaves it unspecified.
    """

    encoder: str
    size: tuple[int, int]
    pixel_format: str
    colour: Colour
    time_base: Fraction
    rate: Fraction
    options: dict[str, str]
    tag: str = ""
    sample_aspect: Fraction | None = None


class FrameEncoder:
    """An open encoder of RGB frames, of files, live outputs and the preview alike.

    Args:
        settings: How the encoder is opened.
        rgb: The pixels of each frame when :meth:`encode` is called.
        output: An output without a header yet, which gets a stream; None for packets alone.

    Attributes:
        stream: The stream in ``output``, if there is one.
    """

    def __init__(
        self, settings: EncoderSettings, rgb: RgbFrame, output: OutputContainer | None = None
    ) -> None:
        self._settings, self._rgb = settings, rgb
        colour = settings.colour
        # RGB formats need no matrix, but swscale requires a number all the same.
        self._matrix = 0 if colour.matrix == RGB else colour.swscale_matrix
        self.stream: Any = output and output.add_stream(settings.encoder, rate=settings.rate)
        self._encoder: Any = self.stream or av.CodecContext.create(settings.encoder, "w")
        if self.stream:
            self.stream.time_base = settings.time_base
        context: Any = self.stream.codec_context if self.stream else self._encoder
        context.height, context.width = settings.size
        context.pix_fmt, context.options = settings.pixel_format, settings.options
        context.time_base, context.framerate = settings.time_base, settings.rate
        if settings.tag:
            context.codec_tag = settings.tag
        if settings.sample_aspect is not None:
            context.sample_aspect_ratio = settings.sample_aspect
        context.colorspace, context.color_range = colour.matrix, colour.range
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer

    def encode(self, pts: int, *, key: bool | None = None) -> list[Any]:
        """Encodes the frame in ``rgb``.

        Args:
            pts: When it is shown, in ticks.
            key: Whether it must be a key frame; None leaves the choice to the encoder.

        Returns:
            The packets that are ready, of this frame or of earlier ones.
        """
        settings, colour = self._settings, self._settings.colour
        frame = self._rgb.converted(
            settings.pixel_format, self._matrix, colour.range, size=settings.size
        )
        frame.pts, frame.time_base = pts, settings.time_base
        frame.color_primaries = colour.primaries  # some encoders use only the frame's tags
        frame.color_trc = colour.transfer
        if key is not None:
            frame.pict_type = PictureType.I if key else PictureType.NONE
        packets: list[Any] = self._encoder.encode(frame)
        return packets

    def flush(self) -> Iterator[Any]:
        """Yields the packets still inside the encoder."""
        yield from self._encoder.encode_lazy(None)


_X265_REORDER = 4  # frames; more than its two-level pyramids need


class VideoEncoder:
    """The encoder of a file: its packets have durations, and decoding times that never go back.

    Args:
        output: An output without a header yet.
        arguments: The result of `encoder_arguments`.
        rgb: The pixels of each frame when :meth:`encode` is called.

    Attributes:
        stream: The stream in ``output``.
    """

    def __init__(self, output: OutputContainer, arguments: messages.Header, rgb: RgbFrame) -> None:
        self._name: str = arguments["encoder"]
        settings = EncoderSettings(
            encoder=self._name,
            size=tuple(arguments["size"]),
            pixel_format=arguments["pixel_format"],
            colour=Colour(*arguments["colour"]),
            time_base=messages.unpack(arguments["time_base"]) or Fraction(1, 90000),
            rate=messages.unpack(arguments["rate"]) or Fraction(25),
            options=dict(arguments["options"]),
            tag=arguments["tag"],
            sample_aspect=messages.unpack(arguments["sample_aspect"]),
        )
        self._encoder = FrameEncoder(settings, rgb, output)
        self.stream = self._encoder.stream
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self._decoding: DecodingTimes | None = None

    def encode(self, pts: int, duration: int) -> Iterator[Any]:
        """Encodes the frame in ``rgb``; yields packets that are ready, with durations."""
        if not self._durations and self._decoding is None:
            self._begin(pts, duration)
        self._durations[pts] = duration
        yield from map(self._timed, self._encoder.encode(pts))

    def flush(self) -> Iterator[Any]:
        """Yields the packets still inside the encoder, with durations."""
        yield from map(self._timed, self._encoder.flush())

    def _begin(self, pts: int, duration: int) -> None:
        # x265 gives the packets of clips of one or two frames no decoding time.
        if self._name == "libx265":
            self._decoding = DecodingTimes(pts, _X265_REORDER, max(1, duration))

    def _timed(self, packet: Any) -> Any:
        packet.duration = self._durations.pop(packet.pts, 0)  # the encoder loses it
        if self._decoding:
            packet.dts = self._decoding.of(packet.pts)
        return packet
