"""Opens the encoders of files, live outputs and the preview, and times the packets of files."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.video.frame import PictureType

from ..processes import messages
from .colour import RGB, Colour
from .rgb import RgbFrame


class DecodingTimes:
    """Gives each packet, in decoding order, its decoding time.

    The k-th packet is decoded at the time the (k - r)-th frame is shown, r the frames a decoder
    holds back to show them in order; the first r a step apart before the first frame. So decoding
    times advance whatever the times of frames are, and a constant rate stays one.

    Args:
        first: When the first frame is shown, in ticks.
        reorder: r, at least.
        step: Ticks between the first ones.
    """

    def __init__(self, first: int, reorder: int, step: int) -> None:
        self._first, self._reorder, self._step = first, reorder, step
        self._shown: list[int] = []  # pts that no packet is decoded at yet
        self._count = 0

    def of(self, pts: int) -> int:
        """The decoding time of the next packet, whose frame is shown at ``pts``."""
        heapq.heappush(self._shown, pts)
        self._count += 1
        if self._count <= self._reorder:
            return self._first - (self._reorder - self._count + 1) * self._step
        return heapq.heappop(self._shown)


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How an encoder is opened.

    Attributes:
        encoder: libav's name of it, such as ``libx264``.
        size: (H, W) of the picture that it codes.
        pixel_format: What frames are converted to, such as ``yuv420p10le``.
        colour: The matrix and range that they are converted to, and all tags of the stream.
        time_base: Seconds per tick.
        rate: Frames per second: a hint for the rate control and the level, since times rule.
        options: What the encoder is opened with.
        tag: The four letters that the stream is marked with, or "" for libav's own choice.
        sample_aspect: Width by height of a pixel; None says nothing.
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
        rgb: Where the pixels of each frame are when :meth:`encode` is called.
        output: Gets a stream for the packets, and has no header yet; None for packets alone.

    Attributes:
        stream: The one in ``output``, if there is any.
    """

    def __init__(
        self, settings: EncoderSettings, rgb: RgbFrame, output: OutputContainer | None = None
    ) -> None:
        self._settings, self._rgb = settings, rgb
        colour = settings.colour
        # An RGB format is converted by no matrix; swscale wants to be told one all the same.
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
        """Encode what is in ``rgb`` now.

        Args:
            pts: When it is shown, in ticks.
            key: Whether it must be a key frame; None leaves that to the encoder.

        Returns:
            The packets that are ready, of this frame or of earlier ones.
        """
        settings, colour = self._settings, self._settings.colour
        frame = self._rgb.converted(
            settings.pixel_format, self._matrix, colour.range, size=settings.size
        )
        frame.pts, frame.time_base = pts, settings.time_base
        frame.color_primaries = colour.primaries  # some encoders believe only the frame
        frame.color_trc = colour.transfer
        if key is not None:
            frame.pict_type = PictureType.I if key else PictureType.NONE
        packets: list[Any] = self._encoder.encode(frame)
        return packets

    def flush(self) -> Iterator[Any]:
        """The packets that are still inside."""
        yield from self._encoder.encode_lazy(None)


_X265_REORDER = 4  # frames; its pyramids have two levels, so it needs fewer


class VideoEncoder:
    """The encoder of a file: its packets have durations, and decoding times that never go back.

    Args:
        output: Has no header yet.
        arguments: What `encoder_arguments` returned.
        rgb: Where the pixels of each frame are when :meth:`encode` is called.

    Attributes:
        stream: The one in ``output``.
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
        """Encode what is in ``rgb`` now; packets that are ready, each with its duration."""
        if not self._durations and self._decoding is None:
            self._begin(pts, duration)
        self._durations[pts] = duration
        yield from map(self._timed, self._encoder.encode(pts))

    def flush(self) -> Iterator[Any]:
        """The packets that were still inside."""
        yield from map(self._timed, self._encoder.flush())

    def _begin(self, pts: int, duration: int) -> None:
        # x265 leaves the decoding times of one or two frames without a value, whatever is there.
        if self._name == "libx265":
            self._decoding = DecodingTimes(pts, _X265_REORDER, max(1, duration))

    def _timed(self, packet: Any) -> Any:
        packet.duration = self._durations.pop(packet.pts, 0)  # the encoder does not carry it
        if self._decoding:
            packet.dts = self._decoding.of(packet.pts)
        return packet
